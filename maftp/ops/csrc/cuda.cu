// Multi-scale deformable attention on NVIDIA GPUs: checks, choice of the kernel's shape, launch.
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "checks.h"
#include "cuda_kernels.cuh"

namespace maftp {
namespace {

template <typename A>
Sizes<A> sizes_of(const at::Tensor& value, const Levels& levels, const at::Tensor& locations) {
  return {levels, value.size(1), locations.size(1), static_cast<int>(value.size(2)),
          static_cast<int>(value.size(3)), static_cast<int>(locations.size(4))};
}

// Aligned for packs, which a view into another tensor need not be.
at::Tensor prepared(const at::Tensor& tensor) {
  auto dense = tensor.contiguous();
  const bool aligned = reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0;
  return aligned ? dense : dense.clone();
}

dim3 grid_of(const at::Tensor& value, int64_t queries, int lanes) {
  const int64_t per_block = kThreads / lanes;
  const int64_t blocks = (queries + per_block - 1) / per_block;
  const int64_t plane = value.size(1) * value.size(2) * value.size(3);
  TORCH_CHECK(blocks <= INT32_MAX && value.size(2) <= 65535 && value.size(0) <= 65535 &&
                  plane <= INT32_MAX,
              "ms_deform_attn: too many queries, heads, images or values of an image");
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(value.size(2)),
              static_cast<unsigned>(value.size(0)));
}

at::Tensor forward(const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations,
                   const at::Tensor& weights) {
  const Levels levels = read_levels(shapes, value.size(1));
  check_sizes(value, levels.count, locations, weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const auto v = prepared(value), x = prepared(locations), a = prepared(weights);
  auto output = at::empty({v.size(0), x.size(1), v.size(2) * v.size(3)}, v.options());
  if (output.numel() == 0) return output;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, v.scalar_type(), "ms_deform_attn", [&] {
        using A = at::opmath_type<scalar_t>;
        const auto sizes = sizes_of<A>(v, levels, x);
        with_shape<scalar_t>(sizes.channels, sizes.points, [&](auto vector, auto group, auto points) {
          forward_kernel<scalar_t, A, vector(), group(), points()>
              <<<grid_of(v, sizes.queries, group()), kThreads, 0,
                 c10::cuda::getCurrentCUDAStream()>>>(
                  v.const_data_ptr<scalar_t>(), x.const_data_ptr<A>(), a.const_data_ptr<A>(),
                  output.mutable_data_ptr<scalar_t>(), sizes);
          C10_CUDA_KERNEL_LAUNCH_CHECK();
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
  at::globalContext().alertNotDeterministic("maftp::ms_deform_attn_backward on CUDA");
  const c10::cuda::CUDAGuard guard(value.device());
  const auto g = prepared(grad), v = prepared(value), x = prepared(locations), a = prepared(weights);
  auto grad_v = at::zeros(v.sizes(), v.options().dtype(x.scalar_type()));
  auto grad_x = at::zeros_like(x), grad_a = at::zeros_like(a);
  if (a.numel() == 0 || v.size(3) == 0) return {grad_v, grad_x, grad_a};
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, v.scalar_type(), "ms_deform_attn_backward", [&] {
        using A = at::opmath_type<scalar_t>;
        const auto sizes = sizes_of<A>(v, levels, x);
        with_shape<scalar_t>(sizes.channels, sizes.points, [&](auto vector, auto group, auto points) {
          backward_kernel<scalar_t, A, vector(), group(), points()>
              <<<grid_of(v, sizes.queries, group()), kThreads, 0,
                 c10::cuda::getCurrentCUDAStream()>>>(
                  g.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(),
                  x.const_data_ptr<A>(), a.const_data_ptr<A>(), grad_v.mutable_data_ptr<A>(),
                  grad_x.mutable_data_ptr<A>(), grad_a.mutable_data_ptr<A>(), sizes);
          C10_CUDA_KERNEL_LAUNCH_CHECK();
        });
      });
  return {grad_v, grad_x, grad_a};
}

}  // namespace
}  // namespace maftp

TORCH_LIBRARY(maftp_cuda, m) {
  m.def("forward(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "backward(Tensor grad, Tensor value, int[] shapes, Tensor locations, Tensor weights) -> "
      "(Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(maftp_cuda, CUDA, m) {
  m.impl("forward", &maftp::forward);
  m.impl("backward", &maftp::backward);
}
