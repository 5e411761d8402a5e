// A loop of fused multiply-adds without memory. Each instruction set compiles this file once.
#include "backend/cpu/peak.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/peak.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// y_k <- a y_k + b, `repeats` times for each of 12 chains: more than latency times units of the
/// processors there are (4 cycles x 2), few enough for the 16 registers of AVX2. Reads one float
/// a chain from `values` and writes a sum there, so that no chain may be left out. Returns the
/// operations done.
double multiply_add(long repeats, float* values) {
  const hn::ScalableTag<float> d;
  // Towards the fixed point 1: neither denormal numbers nor overflow on the way.
  const auto a = hn::Set(d, 0.75f), b = hn::Set(d, 0.25f);
  auto y0 = hn::Set(d, values[0]), y1 = hn::Set(d, values[1]), y2 = hn::Set(d, values[2]);
  auto y3 = hn::Set(d, values[3]), y4 = hn::Set(d, values[4]), y5 = hn::Set(d, values[5]);
  auto y6 = hn::Set(d, values[6]), y7 = hn::Set(d, values[7]), y8 = hn::Set(d, values[8]);
  auto y9 = hn::Set(d, values[9]), y10 = hn::Set(d, values[10]), y11 = hn::Set(d, values[11]);
  for (long i = 0; i < repeats; ++i) {
    y0 = hn::MulAdd(a, y0, b);
    y1 = hn::MulAdd(a, y1, b);
    y2 = hn::MulAdd(a, y2, b);
    y3 = hn::MulAdd(a, y3, b);
    y4 = hn::MulAdd(a, y4, b);
    y5 = hn::MulAdd(a, y5, b);
    y6 = hn::MulAdd(a, y6, b);
    y7 = hn::MulAdd(a, y7, b);
    y8 = hn::MulAdd(a, y8, b);
    y9 = hn::MulAdd(a, y9, b);
    y10 = hn::MulAdd(a, y10, b);
    y11 = hn::MulAdd(a, y11, b);
  }
  const auto low = hn::Add(hn::Add(hn::Add(y0, y1), hn::Add(y2, y3)), hn::Add(y4, y5));
  const auto high = hn::Add(hn::Add(hn::Add(y6, y7), hn::Add(y8, y9)), hn::Add(y10, y11));
  values[0] = hn::GetLane(hn::SumOfLanes(d, hn::Add(low, high)));
  return 2.0 * num_chains * static_cast<double>(hn::Lanes(d)) * static_cast<double>(repeats);
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(multiply_add);

double measure_peak_flops(ThreadPool& pool) {
  using Clock = std::chrono::steady_clock;
  // Several tasks a thread, as the kernels have: a thread that wakes late does not idle long.
  constexpr int tasks_a_thread = 16;
  constexpr double wanted_seconds = 0.02;
  constexpr long first_repeats = 2000;

  const int num_tasks = tasks_a_thread * pool.num_threads();
  std::vector<double> operations(num_tasks);
  const auto measure = [&](long repeats) {
    const Clock::time_point start = Clock::now();
    pool.parallel_for(num_tasks, [&](int task, int) {
      float values[num_chains];
      std::fill_n(values, num_chains, static_cast<float>(task));
      operations[task] = HWY_DYNAMIC_DISPATCH(multiply_add)(repeats, values);
    });
    return std::chrono::duration<double>(Clock::now() - start).count();
  };

  const double trial = measure(first_repeats);
  const long repeats =
      std::max(first_repeats,
               static_cast<long>(static_cast<double>(first_repeats) * wanted_seconds / trial));
  const double seconds = measure(repeats);
  double total = 0;
  for (const double count : operations) total += count;
  return total / seconds;
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
