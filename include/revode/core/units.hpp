// Units of what is measured.
#pragma once

#include <chrono>

namespace revode {

/// Nanoseconds in a second; operations in a GFLOP; bytes in a GB.
inline constexpr double giga = 1e9;

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace revode
