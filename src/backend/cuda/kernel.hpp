// What a kernel is. A plain struct with its arguments, in one of three forms:
//
//   elementwise   size(), and operator()(i) for each of so many items
//   in blocks     num_blocks(), num_threads, num_phases and Shared, and
//                 operator()(phase, block, thread, shared): the threads of a block meet between
//                 phases
//   in clusters   num_clusters(), cluster_size(), num_threads(), num_phases(), shared_fours(),
//                 meets_cluster() and Registers, and
//                 operator()(phase, cluster, thread, shared, registers): the threads of a block
//                 meet between phases, those of all blocks of a cluster behind the phases that
//                 meets_cluster(phase) names, the last one among them; a thread keeps its registers
//
// The body is compiled for the device and for the host, where the tests run it; each kernel says in
// accesses() which memory it touches. Nothing here depends on CUDA.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "revode/backend/exact_sum.hpp"
#include "revode/core/on_device.hpp"

namespace revode::cuda {

/// What an operation does with some bytes. To add is to add integers, or to raise to a maximum,
/// atomically: any order gives the same.
enum class Access { read, write, add };

struct AccessedBytes {
  const void* begin = nullptr;
  std::size_t bytes = 0;
  Access access = Access::read;
};

/// What an operation touches; nothing is said of null pointers.
class Accesses {
 public:
  template <typename T>
  [[nodiscard]] Accesses reads(const T* values, std::size_t size) && {
    return list(values, size * sizeof(T), Access::read);
  }
  template <typename T>
  [[nodiscard]] Accesses writes(T* values, std::size_t size) && {
    return list(values, size * sizeof(T), Access::write);
  }
  template <typename T>
  [[nodiscard]] Accesses adds(T* values, std::size_t size) && {
    return list(values, size * sizeof(T), Access::add);
  }

  [[nodiscard]] Accesses and_also(const Accesses& more) && {
    all_.insert(all_.end(), more.all_.begin(), more.all_.end());
    return std::move(*this);
  }

  const std::vector<AccessedBytes>& all() const { return all_; }

 private:
  [[nodiscard]] Accesses list(const void* begin, std::size_t bytes, Access access) {
    if (begin != nullptr && bytes > 0) all_.push_back({begin, bytes, access});
    return std::move(*this);
  }

  std::vector<AccessedBytes> all_;
};

/// Threads of a block that adds up.
inline constexpr int summing_threads = 256;

/// One double a thread, added up in their order at the end: a sum that depends on nothing else.
struct PartialSums {
  double of_thread[summing_threads];

  REVODE_ON_DEVICE double total() const {
    double sum = 0;
    for (double part : of_thread) sum += part;
    return sum;
  }
};

/// One double a thread, a power of two of them, added up in rounds with a barrier before each: of
/// those that are left, the upper half to the lower one. A sum that depends on nothing else.
template <int num_threads>
struct SumOfThreads {
  static constexpr int num_rounds = std::countr_zero(static_cast<unsigned>(num_threads));
  static_assert(num_threads == 1 << num_rounds);
  double of_thread[num_threads];

  /// Each thread, round = 0 ... num_rounds - 1; after the last one thread 0 knows the total.
  REVODE_ON_DEVICE void add_halves(int round, int thread) {
    const int half = num_threads >> (round + 1);
    if (thread < half) of_thread[thread] += of_thread[thread + half];
  }
  REVODE_ON_DEVICE double total() const { return of_thread[0]; }
};

REVODE_ON_DEVICE inline void add_atomically(std::int64_t* to, std::int64_t value) {
#ifdef __CUDA_ARCH__
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
#else
  *to += value;
#endif
}

/// Modulo 2^64.
REVODE_ON_DEVICE inline void add_atomically(std::uint64_t* to, std::uint64_t value) {
#ifdef __CUDA_ARCH__
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
#else
  *to += value;
#endif
}

REVODE_ON_DEVICE inline void raise_atomically(int* to, int value) {
#ifdef __CUDA_ARCH__
  atomicMax(to, value);
#else
  if (*to < value) *to = value;
#endif
}
REVODE_ON_DEVICE inline void raise_atomically(std::int64_t* to, std::int64_t value) {
#ifdef __CUDA_ARCH__
  atomicMax(reinterpret_cast<long long*>(to), static_cast<long long>(value));
#else
  if (*to < value) *to = value;
#endif
}

/// value >= 0 and *to >= 0, whose bits are in the order of the numbers. Most threads only look.
REVODE_ON_DEVICE inline void raise_atomically(float* to, float value) {
  if (!(*to < value)) return;
#ifdef __CUDA_ARCH__
  atomicMax(reinterpret_cast<int*>(to), __float_as_int(value));
#else
  *to = value;
#endif
}

/// A number from 1 on that kernels divide numbers from 0 on by: known before the launch, so that a
/// product of 64 bits gives the quotient.
class Divisor {
 public:
  explicit Divisor(int value) : value_(value) {
    while ((std::int64_t{1} << log_) < value) ++log_;
    multiplier_ =
        static_cast<std::uint32_t>(((std::int64_t{1} << (31 + log_)) + value - 1) / value);
  }
  REVODE_ON_DEVICE operator int() const { return value_; }
  REVODE_ON_DEVICE friend int operator/(int n, const Divisor& by) {
    // multiplier_ is 2^(31 + log_) / value + e with e < 1, so that n e / 2^(31 + log_) < 1 / value.
    return static_cast<int>((std::uint64_t{static_cast<std::uint32_t>(n)} * by.multiplier_) >>
                            (31 + by.log_));
  }
  REVODE_ON_DEVICE friend int operator%(int n, const Divisor& by) { return n - n / by * by.value_; }
  bool operator==(const Divisor&) const = default;

 private:
  int value_;
  int log_ = 0;  ///< rounded up
  std::uint32_t multiplier_;
};

/// Four numbers that are loaded and stored as one.
struct alignas(16) Four {
  float of[4];
};

/// The shared memory of a cluster's blocks, which may read each other's, as the block `rank` of
/// them sees it.
struct ClusterShared {
  Four* own = nullptr;
  int rank = 0;
  Four* const* all = nullptr;  ///< on the host

  REVODE_ON_DEVICE const Four* of(int other) const {
#if !defined(__CUDA_ARCH__)
    return all[other];
#elif __CUDA_ARCH__ >= 900
    return static_cast<const Four*>(__cluster_map_shared_rank(own, other));
#else
    return own;  // clusters of one block
#endif
  }
};

/// *to, in shared memory, <- *from; is there in the next phase.
REVODE_ON_DEVICE inline void copy_by_next_phase(Four* to, const Four* from) {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
#else
  *to = *from;
#endif
}

/// x, which the compiler takes for a number of its own: else it computes x again where it is used,
/// behind each condition.
REVODE_ON_DEVICE inline int computed_once(int x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

/// a * b + c, fused on a device.
REVODE_ON_DEVICE inline float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

/// max(x, 0); NaN stays NaN.
REVODE_ON_DEVICE inline float relu(float x) { return x < 0 ? 0.0f : x; }

/// The nearest number whose mantissa has 23 - dropped_bits bits, ties to even; NaN stays NaN.
REVODE_ON_DEVICE inline float round_mantissa(float x, int dropped_bits) {
  if (dropped_bits == 0 || !(fabsf(x) <= 3.402823466e+38f)) return x;
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const std::uint32_t last = std::uint32_t{1} << dropped_bits;
  bits += last / 2 - 1 + ((bits >> dropped_bits) & 1);
  bits &= ~(last - 1);
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// 2^grid_bits, or 0 without a grid.
inline float grid_unit(int grid_bits) { return grid_bits > 0 ? std::ldexp(1.0f, grid_bits) : 0; }

/// 1 / x for a power of two well within the range: a device divides by many instructions.
REVODE_ON_DEVICE inline float inverse_of_power(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = (std::uint32_t{254} << 23) - bits;  // the exponent's bias twice
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// The nearest multiple of 1 / unit, a power of two, ties to even, -0 to +0; unit 0: x itself.
REVODE_ON_DEVICE inline float round_to_grid(float x, float unit) {
  return unit == 0 ? x : rintf(x * unit) * inverse_of_power(unit) + 0.0f;
}

REVODE_ON_DEVICE inline ExactSum nearest_exact(float value) {
#ifdef __CUDA_ARCH__
  return __float2ll_rn(value * static_cast<float>(exact_sum_scale));  // a power of two
#else
  return static_cast<ExactSum>(rint(static_cast<double>(value) * exact_sum_scale));
#endif
}

/// *sum += value, as one contribution; false where it is none.
REVODE_ON_DEVICE inline bool add_contribution(float value, ExactSum* sum) {
  if (!(fabsf(value) < static_cast<float>(contribution_limit))) return false;
  *sum += nearest_exact(value);
  return true;
}

}  // namespace revode::cuda
