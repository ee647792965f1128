// Multi-scale deformable attention on the CPU: forward in parallel over queries, backward in
// parallel over heads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "checks.h"
#include "sampling.h"

namespace maftp {

template <typename A>
struct Problem {
  const A* value;      // (B, N, M, C)
  const A* locations;  // (B, Q, M, L, P, 2)
  const A* weights;    // (B, Q, M, L, P)
  Levels levels;
  int64_t tokens, queries;
  int heads, channels, points;

  int64_t first_sample(int64_t batch, int64_t query, int head) const {
    return ((batch * queries + query) * heads + head) * levels.count * points;
  }
};

namespace baseline {
#include "cpu_kernel.inc"
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MAFTP_VECTOR_VARIANTS
#pragma GCC push_options
#pragma GCC target("avx2")
namespace avx2 {
#include "cpu_kernel.inc"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512")
namespace avx512 {
#include "cpu_kernel.inc"
}
#pragma GCC pop_options
#endif

#ifdef MAFTP_VECTOR_VARIANTS
#define MAFTP_DISPATCH(call)                                                        \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&       \
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") \
       ? avx512::call                                                               \
       : __builtin_cpu_supports("avx2") ? avx2::call : baseline::call)
#else
#define MAFTP_DISPATCH(call) baseline::call
#endif

namespace {

template <typename A>
Problem<A> problem(const at::Tensor& value, const Levels& levels, const at::Tensor& locations,
                   const at::Tensor& weights) {
  return {value.const_data_ptr<A>(), locations.const_data_ptr<A>(), weights.const_data_ptr<A>(),
          levels, value.size(1), locations.size(1), static_cast<int>(value.size(2)),
          static_cast<int>(value.size(3)), static_cast<int>(locations.size(4))};
}

at::Tensor forward(const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations,
                   const at::Tensor& weights) {
  const Levels levels = read_levels(shapes, value.size(1));
  check_sizes(value, levels.count, locations, weights);
  const auto v = value.contiguous(), x = locations.contiguous(), a = weights.contiguous();
  auto output = at::zeros({v.size(0), x.size(1), v.size(2) * v.size(3)}, v.options());
  if (output.numel() == 0) return output;
  AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "ms_deform_attn", [&] {
    const auto p = problem<scalar_t>(v, levels, x, a);
    auto* out = output.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, v.size(0) * p.queries, 64, [&](int64_t begin, int64_t end) {
      MAFTP_DISPATCH(forward_range<scalar_t>(p, begin, end, out));
    });
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad,
                                                        const at::Tensor& value,
                                                        at::IntArrayRef shapes,
                                                        const at::Tensor& locations,
                                                        const at::Tensor& weights) {
  const Levels levels = read_levels(shapes, value.size(1));
  check_sizes(value, levels.count, locations, weights);
  const auto g = grad.contiguous(), v = value.contiguous();
  const auto x = locations.contiguous(), a = weights.contiguous();
  auto grad_v = at::zeros_like(v), grad_x = at::zeros_like(x), grad_a = at::zeros_like(a);
  if (a.numel() == 0 || v.size(3) == 0) return {grad_v, grad_x, grad_a};
  AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "ms_deform_attn_backward", [&] {
    const auto p = problem<scalar_t>(v, levels, x, a);
    const auto* gp = g.const_data_ptr<scalar_t>();
    auto* into_v = grad_v.mutable_data_ptr<scalar_t>();
    auto* into_x = grad_x.mutable_data_ptr<scalar_t>();
    auto* into_a = grad_a.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, v.size(0) * p.heads, 1, [&](int64_t begin, int64_t end) {
      MAFTP_DISPATCH(
          backward_range<scalar_t>(p, gp, begin, end, into_v, into_x, into_a));
    });
  });
  return {grad_v, grad_x, grad_a};
}

}  // namespace
}  // namespace maftp

TORCH_LIBRARY(maftp_cpu, m) {
  m.def("forward(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "backward(Tensor grad, Tensor value, int[] shapes, Tensor locations, Tensor weights) -> "
      "(Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(maftp_cpu, CPU, m) {
  m.impl("forward", &maftp::forward);
  m.impl("backward", &maftp::backward);
}
