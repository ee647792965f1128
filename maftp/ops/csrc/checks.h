// What both compiled backends check and prepare before they start.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "sampling.h"

namespace maftp {

// The levels of `shapes` (h_0, w_0, h_1, w_1, ...); their areas must add up to `tokens`.
inline Levels read_levels(at::IntArrayRef shapes, int64_t tokens) {
  TORCH_CHECK(shapes.size() % 2 == 0 && shapes.size() / 2 <= kMaxLevels,
              "ms_deform_attn: at most ", kMaxLevels, " levels, found ", shapes.size() / 2);
  Levels levels{};
  levels.count = static_cast<int>(shapes.size() / 2);
  int64_t start = 0;
  for (int l = 0; l < levels.count; ++l) {
    const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
    TORCH_CHECK(height >= 0 && width >= 0 && height * width <= (int64_t(1) << 30),
                "ms_deform_attn: level ", l, " has ", height, " x ", width, " tokens");
    levels.height[l] = static_cast<int>(height);
    levels.width[l] = static_cast<int>(width);
    levels.start[l] = start;
    start += height * width;
  }
  TORCH_CHECK(start == tokens, "ms_deform_attn: levels hold ", start, " tokens, the value ", tokens);
  return levels;
}

inline void check_sizes(const at::Tensor& value, int64_t levels, const at::Tensor& locations,
                        const at::Tensor& weights) {
  TORCH_CHECK(value.dim() == 4 && locations.dim() == 6 && weights.dim() == 5,
              "ms_deform_attn: value (B, N, M, C), locations (B, Q, M, L, P, 2) and weights "
              "(B, Q, M, L, P) are wanted");
  TORCH_CHECK(locations.size(0) == value.size(0) && locations.size(2) == value.size(2) &&
                  locations.size(3) == levels && locations.size(5) == 2,
              "ms_deform_attn: locations ", locations.sizes(), " do not fit value ", value.sizes(),
              " and ", levels, " levels");
  TORCH_CHECK(locations.sizes().slice(0, 5) == weights.sizes(), "ms_deform_attn: weights ",
              weights.sizes(), " do not fit locations ", locations.sizes());
  TORCH_CHECK(locations.scalar_type() == weights.scalar_type(),
              "ms_deform_attn: locations and weights of one type are wanted");
}

}  // namespace maftp
