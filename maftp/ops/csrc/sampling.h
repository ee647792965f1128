// Arithmetic of one sample of multi-scale deformable attention (Deformable DETR, eq. 3), for the
// host and for the device: where a location lies on a level, the four neighbours, their weights.
#pragma once

#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define MAFTP_BOTH __host__ __device__ __forceinline__
#else
#define MAFTP_BOTH inline __attribute__((always_inline))
#endif

namespace maftp {

constexpr int kMaxLevels = 16;

// Sizes of the levels and where each begins among the value tokens.
struct Levels {
  int count;
  int height[kMaxLevels];
  int width[kMaxLevels];
  int64_t start[kMaxLevels];
};

// Corners in the order upper left, upper right, lower left, lower right.
template <typename A>
struct Sample {
  bool finite;     // a location that is no finite number makes the output no number
  bool inside[4];  // a neighbour outside the level counts as zero
  int token[4];    // of the neighbour, counted from the level's first
  A share[4];      // bilinear weights, summing to one
  A right, down;   // how far from the left and from the upper neighbours, in [0, 1)
};

// The largest integer not above `a`, which lies within the range of int.
template <typename A>
MAFTP_BOTH int whole_part(A a) {
  const int cut = static_cast<int>(a);
  return static_cast<A>(cut) > a ? cut - 1 : cut;
}

// The sample at (x, y), in units of the level's width and height: pixel centres lie at 0.5 / size.
template <typename A>
MAFTP_BOTH Sample<A> sample_at(A x, A y, int height, int width) {
  Sample<A> s;
  const A u = x * static_cast<A>(width) - static_cast<A>(0.5);
  const A t = y * static_cast<A>(height) - static_cast<A>(0.5);
  s.finite = (u - u) + (t - t) == static_cast<A>(0);
  const bool near = u > static_cast<A>(-1) && u < static_cast<A>(width) &&
                    t > static_cast<A>(-1) && t < static_cast<A>(height);
  // Far samples are moved to (-2, -2), whose neighbours are all outside: no overflow of the int.
  const int column = near ? whole_part(u) : -2;
  const int row = near ? whole_part(t) : -2;
  s.right = near ? u - static_cast<A>(column) : static_cast<A>(0);
  s.down = near ? t - static_cast<A>(row) : static_cast<A>(0);
  const bool left_in = column >= 0, right_in = column >= -1 && column + 1 < width;
  const bool up_in = row >= 0, down_in = row >= -1 && row + 1 < height;
  const A one = static_cast<A>(1);
  s.inside[0] = up_in && left_in;
  s.inside[1] = up_in && right_in;
  s.inside[2] = down_in && left_in;
  s.inside[3] = down_in && right_in;
  s.share[0] = (one - s.down) * (one - s.right);
  s.share[1] = (one - s.down) * s.right;
  s.share[2] = s.down * (one - s.right);
  s.share[3] = s.down * s.right;
  s.token[0] = row * width + column;
  s.token[1] = s.token[0] + 1;
  s.token[2] = s.token[0] + width;
  s.token[3] = s.token[2] + 1;
  return s;
}

// Derivatives by x and y of the sampled value, from the value at the corners (zero outside).
template <typename A>
MAFTP_BOTH void sample_slope(const Sample<A>& s, const A corner[4], int height, int width,
                             A& by_x, A& by_y) {
  const A one = static_cast<A>(1);
  by_x = static_cast<A>(width) *
         ((corner[1] - corner[0]) * (one - s.down) + (corner[3] - corner[2]) * s.down);
  by_y = static_cast<A>(height) *
         ((corner[2] - corner[0]) * (one - s.right) + (corner[3] - corner[1]) * s.right);
}

}  // namespace maftp
