// What the processor could do if nothing but fused multiply-adds on registers were to be done: the
// yardstick of the bench command.
#pragma once

#include "revode/core/thread_pool.hpp"

namespace revode::cpu {

/// Chains of dependent multiply-adds side by side.
inline constexpr int num_chains = 12;

/// Operations a second (2 a multiply-add) in single precision that all threads of the pool reach
/// together, in the instruction set that the kernels use. Takes about 20 ms.
double measure_peak_flops(ThreadPool& pool);

}  // namespace revode::cpu
