// CUDA kernels of multi-scale deformable attention.
//
// A group of lanes of one warp computes one head of one query; a lane owns V neighbouring channels,
// which it loads and adds 16 bytes at a time. A block holds many queries of one head: neighbours of
// each other, so that they find each other's values in the L1 cache. Backward, the sums over
// channels are taken by shuffles within the group; only the value gradient needs atomic additions.
//
// Nothing but plain CUDA C++ stands here, so that a test can run the kernels on the host.
#pragma once

#include <cstdint>
#include <type_traits>

#include "sampling.h"

namespace maftp {

constexpr int kThreads = 256;

template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

template <typename A>
struct Sizes {
  Levels levels;
  int64_t tokens, queries;
  int heads, channels, points;
};

// Add V floats to global memory; one instruction where the hardware has it.
template <int V>
__device__ __forceinline__ void add_to(float* into, const float (&parts)[V]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (V % 4 == 0) {
#pragma unroll
    for (int c = 0; c < V; c += 4)
      atomicAdd(reinterpret_cast<float4*>(into + c),
                make_float4(parts[c], parts[c + 1], parts[c + 2], parts[c + 3]));
    return;
  }
#endif
#pragma unroll
  for (int c = 0; c < V; ++c) atomicAdd(into + c, parts[c]);
}

template <int V>
__device__ __forceinline__ void add_to(double* into, const double (&parts)[V]) {
#pragma unroll
  for (int c = 0; c < V; ++c) atomicAdd(into + c, parts[c]);
}

// Sum over the G lanes of a group; every lane gets it.
template <int G, typename A>
__device__ __forceinline__ A sum_over_group(A part) {
#pragma unroll
  for (int step = G / 2; step > 0; step /= 2) part += __shfl_xor_sync(0xffffffffu, part, step);
  return part;
}

// What a lane needs of the four corners of a sample; zeros outside of the level. All four loads are
// on their way before the first is waited for.
template <typename T, int V, typename A>
__device__ __forceinline__ void load_corners(const T* from, const Sample<A>& s, int stride,
                                             Pack<T, V> (&corners)[4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    corners[k] = {};
    if (s.inside[k])
      corners[k] = *reinterpret_cast<const Pack<T, V>*>(from + s.token[k] * stride);
  }
}

// output (B, Q, M, C) from value (B, N, M, C), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P).
// Grid: queries / (kThreads / G), heads, batch. T: stored type, A: type of sums, G: lanes of a group,
// P: points where their number is known at compile time, so that the loop is unrolled, or 0.
template <typename T, typename A, int V, int G, int P>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* __restrict__ value, const A* __restrict__ locations,
                   const A* __restrict__ weights, T* __restrict__ output, Sizes<A> sizes) {
  const int lane = threadIdx.x % G;
  const int64_t query = int64_t(blockIdx.x) * (kThreads / G) + threadIdx.x / G;
  if (query >= sizes.queries) return;
  const int head = blockIdx.y, points = P ? P : sizes.points;
  const int64_t batch = blockIdx.z;
  const int stride = sizes.heads * sizes.channels;
  const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
  const int64_t first = row * sizes.levels.count * points;
  value += batch * sizes.tokens * stride + int64_t(head) * sizes.channels;

  for (int c = lane * V; c < sizes.channels; c += G * V) {
    A sum[V] = {};
    int64_t i = first;
    for (int level = 0; level < sizes.levels.count; ++level) {
      const int height = sizes.levels.height[level], width = sizes.levels.width[level];
      const T* start = value + sizes.levels.start[level] * stride + c;
#pragma unroll
      for (int point = 0; point < points; ++point, ++i) {
        const A x = locations[2 * i], y = locations[2 * i + 1], weight = weights[i];
        const auto s = sample_at(x, y, height, width);
        Pack<T, V> corners[4];
        load_corners(start, s, stride, corners);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const A factor = weight * s.share[k];
#pragma unroll
          for (int j = 0; j < V; ++j) sum[j] += factor * static_cast<A>(corners[k].at[j]);
        }
        if (!s.finite) {
#pragma unroll
          for (int j = 0; j < V; ++j) sum[j] += weight * (x + y) * A(0);
        }
      }
    }
    Pack<T, V> out;
#pragma unroll
    for (int j = 0; j < V; ++j) out.at[j] = static_cast<T>(sum[j]);
    *reinterpret_cast<Pack<T, V>*>(output + row * sizes.channels + c) = out;
  }
}

// Gradients; grad_value (B, N, M, C) in the type of sums must be zero at the start. All lanes of a
// warp stay to the end, because the shuffles need them.
template <typename T, typename A, int V, int G, int P>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* __restrict__ grad, const T* __restrict__ value,
                    const A* __restrict__ locations, const A* __restrict__ weights,
                    A* __restrict__ grad_value, A* __restrict__ grad_locations,
                    A* __restrict__ grad_weights, Sizes<A> sizes) {
  const int lane = threadIdx.x % G;
  const int64_t asked = int64_t(blockIdx.x) * (kThreads / G) + threadIdx.x / G;
  const bool active = asked < sizes.queries;
  const int64_t query = active ? asked : sizes.queries - 1;
  const int head = blockIdx.y, points = P ? P : sizes.points;
  const int64_t batch = blockIdx.z;
  const int stride = sizes.heads * sizes.channels;
  const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
  const int64_t plane = batch * sizes.tokens * stride + int64_t(head) * sizes.channels;
  grad += row * sizes.channels;

  int64_t i = row * sizes.levels.count * points;
  for (int level = 0; level < sizes.levels.count; ++level) {
    const int height = sizes.levels.height[level], width = sizes.levels.width[level];
    const int64_t start = plane + sizes.levels.start[level] * stride;
#pragma unroll
    for (int point = 0; point < points; ++point, ++i) {
      const A x = locations[2 * i], y = locations[2 * i + 1], weight = weights[i];
      const auto s = sample_at(x, y, height, width);
      A corner[4] = {};
      if (active) {
        for (int c = lane * V; c < sizes.channels; c += G * V) {
          const auto g = *reinterpret_cast<const Pack<T, V>*>(grad + c);
          Pack<T, V> corners[4];
          load_corners(value + start + c, s, stride, corners);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (!s.inside[k]) continue;
            const A factor = weight * s.share[k];
            A parts[V];
#pragma unroll
            for (int j = 0; j < V; ++j) {
              corner[k] += static_cast<A>(g.at[j]) * static_cast<A>(corners[k].at[j]);
              parts[j] = factor * static_cast<A>(g.at[j]);
            }
            add_to<V>(grad_value + start + c + s.token[k] * stride, parts);
          }
        }
      }
      // Three sums over channels instead of four: of the weight's gradient and of both slopes.
      A by_weight = A(0), by_x, by_y;
#pragma unroll
      for (int k = 0; k < 4; ++k) by_weight += s.share[k] * corner[k];
      sample_slope(s, corner, height, width, by_x, by_y);
      by_weight = sum_over_group<G>(by_weight);
      by_x = sum_over_group<G>(by_x);
      by_y = sum_over_group<G>(by_y);
      if (active && lane == 0) {
        const A poison = s.finite ? A(0) : (x + y) * A(0);
        grad_weights[i] = by_weight + poison;
        grad_locations[2 * i] = weight * by_x + poison;
        grad_locations[2 * i + 1] = weight * by_y + poison;
      }
    }
  }
}

// Channels that a lane moves at once: 16 bytes of them where `channels` allows it.
template <typename T>
constexpr int kVector = sizeof(T) < 16 ? static_cast<int>(16 / sizeof(T)) : 1;

// Lanes of a group for `channels` in packs of `vector`: a power of two, 32 at most.
inline int group_of(int channels, int vector) {
  int lanes = 1;
  while (lanes < 32 && lanes * vector < channels) lanes *= 2;
  return lanes;
}

// Call run with a group size that is known at compile time.
template <typename F>
void with_group(int lanes, const F& run) {
  switch (lanes) {
    case 1: return run(std::integral_constant<int, 1>());
    case 2: return run(std::integral_constant<int, 2>());
    case 4: return run(std::integral_constant<int, 4>());
    case 8: return run(std::integral_constant<int, 8>());
    case 16: return run(std::integral_constant<int, 16>());
    default: return run(std::integral_constant<int, 32>());
  }
}

// Call run with the channels of a pack, the lanes of a group, and the points if they are the usual
// four, else 0. Packs must not straddle heads.
template <typename T, typename F>
void with_shape(int channels, int points, const F& run) {
  using One = std::integral_constant<int, 1>;
  using Several = std::integral_constant<int, kVector<T>>;
  using Any = std::integral_constant<int, 0>;
  using Four = std::integral_constant<int, 4>;
  if (channels % kVector<T> != 0)
    with_group(group_of(channels, 1), [&](auto group) { run(One(), group, Any()); });
  else
    with_group(group_of(channels, kVector<T>), [&](auto group) {
      if (points == 4) run(Several(), group, Four());
      else run(Several(), group, Any());
    });
}

}  // namespace maftp
