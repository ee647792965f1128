// C functions around the CUDA kernels, run on the host, for `test_cuda_kernels.py`.
#include "cuda_on_host.h"

#include "cuda_kernels.cuh"

namespace {

using namespace maftp;

template <typename A>
Sizes<A> sizes_of(const int64_t* n, const int* shapes) {
  Sizes<A> sizes{};  // n: B, N, Q, M, C, L, P
  sizes.tokens = n[1];
  sizes.queries = n[2];
  sizes.heads = static_cast<int>(n[3]);
  sizes.channels = static_cast<int>(n[4]);
  sizes.levels.count = static_cast<int>(n[5]);
  sizes.points = static_cast<int>(n[6]);
  int64_t start = 0;
  for (int l = 0; l < sizes.levels.count; ++l) {
    sizes.levels.height[l] = shapes[2 * l];
    sizes.levels.width[l] = shapes[2 * l + 1];
    sizes.levels.start[l] = start;
    start += int64_t(shapes[2 * l]) * shapes[2 * l + 1];
  }
  return sizes;
}

template <typename A, typename Kernel>
void launch(const Sizes<A>& sizes, int64_t batch, int lanes, const Kernel& kernel) {
  const int64_t per_block = kThreads / lanes;
  const dim3 grid{static_cast<unsigned>((sizes.queries + per_block - 1) / per_block),
                  static_cast<unsigned>(sizes.heads), static_cast<unsigned>(batch)};
  run_grid(grid, kThreads, kernel);
}

template <typename T, typename A>
void forward(const int64_t* n, const int* shapes, const T* value, const A* locations,
             const A* weights, T* output) {
  const auto sizes = sizes_of<A>(n, shapes);
  with_shape<T>(sizes.channels, sizes.points, [&](auto vector, auto group, auto points) {
    launch(sizes, n[0], group(), [&] {
      forward_kernel<T, A, vector(), group(), points()>(value, locations, weights, output, sizes);
    });
  });
}

template <typename T, typename A>
void backward(const int64_t* n, const int* shapes, const T* grad, const T* value,
              const A* locations, const A* weights, A* grad_value, A* grad_locations,
              A* grad_weights) {
  const auto sizes = sizes_of<A>(n, shapes);
  with_shape<T>(sizes.channels, sizes.points, [&](auto vector, auto group, auto points) {
    launch(sizes, n[0], group(), [&] {
      backward_kernel<T, A, vector(), group(), points()>(grad, value, locations, weights, grad_value,
                                               grad_locations, grad_weights, sizes);
    });
  });
}

}  // namespace

extern "C" {
void forward_float(const int64_t* n, const int* shapes, const float* value, const float* locations,
                   const float* weights, float* output) {
  forward(n, shapes, value, locations, weights, output);
}
void forward_half(const int64_t* n, const int* shapes, const _Float16* value,
                  const float* locations, const float* weights, _Float16* output) {
  forward(n, shapes, value, locations, weights, output);
}
void backward_float(const int64_t* n, const int* shapes, const float* grad, const float* value,
                    const float* locations, const float* weights, float* grad_value,
                    float* grad_locations, float* grad_weights) {
  backward(n, shapes, grad, value, locations, weights, grad_value, grad_locations, grad_weights);
}
void backward_half(const int64_t* n, const int* shapes, const _Float16* grad,
                   const _Float16* value, const float* locations, const float* weights,
                   float* grad_value, float* grad_locations, float* grad_weights) {
  backward(n, shapes, grad, value, locations, weights, grad_value, grad_locations, grad_weights);
}
}
