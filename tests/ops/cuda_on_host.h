// The parts of CUDA that the kernels use, on the host: a thread per CUDA thread, barriers for
// shuffles. Slow, and good for one thing: running the kernels where there is no GPU.
#pragma once

#include <atomic>
#include <barrier>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

struct Warp {
  std::barrier<> arrived{32};
  double slot[32];
};

inline thread_local dim3 threadIdx, blockIdx;
inline thread_local Warp* warp;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __restrict__

template <typename A>
A __shfl_xor_sync(unsigned, A part, int step) {
  const int lane = threadIdx.x % 32;
  warp->slot[lane] = part;
  warp->arrived.arrive_and_wait();
  const A other = static_cast<A>(warp->slot[lane ^ step]);
  warp->arrived.arrive_and_wait();
  return other;
}

template <typename A>
void atomicAdd(A* into, A part) {
  std::atomic_ref<A>(*into).fetch_add(part);
}

// Run every block of the grid, one after another. A thread that returns early leaves its warp, as
// the hardware has it.
template <typename Kernel>
void run_grid(dim3 grid, unsigned threads, const Kernel& kernel) {
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        std::vector<std::unique_ptr<Warp>> warps;
        for (unsigned w = 0; w < threads / 32; ++w) warps.push_back(std::make_unique<Warp>());
        std::vector<std::thread> running;
        for (unsigned t = 0; t < threads; ++t)
          running.emplace_back([&, t] {
            threadIdx = {t, 0, 0};
            blockIdx = {x, y, z};
            warp = warps[t / 32].get();
            kernel();
            warp->arrived.arrive_and_drop();
          });
        for (auto& thread : running) thread.join();
      }
}
