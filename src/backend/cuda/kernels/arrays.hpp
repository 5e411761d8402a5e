// Flat arrays of parameters, gradients and states; see backend/arrays.hpp and backend/backend.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "revode/backend/arrays.hpp"

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

/// partial [num_parts]: how far each part of two arrays is apart; parts are blocks of threads that
/// take every num_parts-th run of summing_threads values.
struct CompareParts {
  static constexpr std::string_view name = "compare_parts";
  static constexpr int num_threads = summing_threads, num_phases = 2, num_parts = 64;
  struct Shared {
    PartialSums squared_error, squared_norm;
    std::int32_t num_differing[summing_threads];
  };
  std::int64_t num_values = 0;
  const float* values = nullptr;
  const float* expected = nullptr;
  Comparison* partial = nullptr;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return num_parts; }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t part, int thread, Shared& shared) const {
    if (phase == 0) {
      double squared_error = 0, squared_norm = 0;
      std::int32_t num_differing = 0;
      for (std::int64_t i = part * num_threads + thread; i < num_values;
           i += std::int64_t{num_parts} * num_threads) {
        const double error = double{values[i]} - double{expected[i]};
        squared_error += error * error;
        squared_norm += double{expected[i]} * double{expected[i]};
        num_differing += differs(values[i], expected[i]) ? 1 : 0;
      }
      shared.squared_error.of_thread[thread] = squared_error;
      shared.squared_norm.of_thread[thread] = squared_norm;
      shared.num_differing[thread] = num_differing;
    } else if (thread == 0) {
      Comparison& result = partial[part];
      result.num_values = part == 0 ? num_values : 0;
      result.num_differing = 0;
      for (const std::int32_t some : shared.num_differing) result.num_differing += some;
      result.squared_error = shared.squared_error.total();
      result.squared_norm = shared.squared_norm.total();
    }
  }
  bool operator==(const CompareParts&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(values, num_values)
        .reads(expected, num_values)
        .writes(partial, num_parts);
  }

 private:
  /// In any bit.
  REVODE_ON_DEVICE static bool differs(float a, float b) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(a) != __float_as_uint(b);
#else
    std::uint32_t bits_a, bits_b;
    __builtin_memcpy(&bits_a, &a, sizeof a);
    __builtin_memcpy(&bits_b, &b, sizeof b);
    return bits_a != bits_b;
#endif
  }
};

/// *result += of all parts, in their order.
struct AddComparisons {
  static constexpr std::string_view name = "add_comparisons";
  const Comparison* partial = nullptr;
  Comparison* result = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return 1; }
  REVODE_ON_DEVICE void operator()(std::int64_t) const {
    for (int part = 0; part < CompareParts::num_parts; ++part) {
      const Comparison& more = partial[part];
      result->num_values += more.num_values;
      result->num_differing += more.num_differing;
      result->squared_error += more.squared_error;
      result->squared_norm += more.squared_norm;
    }
  }
  bool operator==(const AddComparisons&) const = default;
  Accesses accesses() const {
    return Accesses().reads(partial, CompareParts::num_parts).writes(result, 1);
  }
};

/// *any becomes 1 where a value is not finite.
struct FindNonFinite {
  static constexpr std::string_view name = "find_non_finite";
  std::int64_t num_values = 0;
  const float* values = nullptr;
  int* any = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    if (!(fabsf(values[i]) <= 3.402823466e+38f)) raise_atomically(any, 1);
  }
  bool operator==(const FindNonFinite&) const = default;
  Accesses accesses() const { return Accesses().reads(values, num_values).adds(any, 1); }
};

/// *found <- code where it is 0 and *any is not.
struct NoteFound {
  static constexpr std::string_view name = "note_found";
  int code = 0;
  const int* any = nullptr;
  int* found = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return 1; }
  REVODE_ON_DEVICE void operator()(std::int64_t) const {
    if (*found == 0 && *any != 0) *found = code;
  }
  bool operator==(const NoteFound&) const = default;
  Accesses accesses() const { return Accesses().reads(any, 1).writes(found, 1); }
};

/// values <- the nearest to the sums; *last_out_of_range becomes at least 1 + the last entry
/// (counted from `first`) whose sum is out of range. The arrays must not overlap.
struct FinishSums {
  static constexpr std::string_view name = "finish_sums";
  std::int64_t num_values = 0;
  std::int64_t first = 0;
  const ExactSum* sums = nullptr;
  float* values = nullptr;
  std::int64_t* last_out_of_range = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    constexpr auto limit = static_cast<ExactSum>(exact_sum_limit * exact_sum_scale);
    const ExactSum sum = sums[i];
    values[i] = static_cast<float>(static_cast<double>(sum) * exact_sum_unit);
    if (sum <= -limit || sum >= limit) raise_atomically(last_out_of_range, first + i + 1);
  }
  bool operator==(const FinishSums&) const = default;
  Accesses accesses() const {
    return Accesses().reads(sums, num_values).writes(values, num_values).adds(last_out_of_range, 1);
  }
};

/// See Backend::regularize(). A block a row: so few of them that each has many threads.
struct RegularizeRows {
  static constexpr std::string_view name = "regularize_rows";
  static constexpr int num_threads = 1024, most_arrays = 4;
  struct Shared {
    SumOfThreads<num_threads> decay, smoothness, gradient;
  };
  static constexpr int num_phases = 1 + SumOfThreads<num_threads>::num_rounds;
  /// Entries of a thread that are loaded together.
  static constexpr int entries_at_once = 4;
  RegularizedRows<float> arrays[most_arrays];
  RowSum* sums = nullptr;  ///< [rows of all arrays]

  /// The first that there are from `first` on.
  RegularizeRows(const std::vector<RegularizedRows<float>>& all, std::size_t first, RowSum* sums_in)
      : sums(sums_in) {
    const std::size_t last = std::min(all.size(), first + most_arrays);
    std::copy(all.begin() + first, all.begin() + last, arrays);
  }

  REVODE_ON_DEVICE std::int64_t num_blocks() const {
    std::int64_t sum = 0;
    for (const RegularizedRows<float>& rows : arrays) sum += rows.num_rows;
    return sum;
  }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    if (phase == 0) {
      std::int64_t row = block;
      int which = 0;
      while (row >= arrays[which].num_rows) row -= arrays[which++].num_rows;
      const RowSum of_thread = regularize(arrays[which], row, thread);
      shared.decay.of_thread[thread] = of_thread.decay;
      shared.smoothness.of_thread[thread] = of_thread.smoothness;
      shared.gradient.of_thread[thread] = of_thread.gradient;
      return;
    }
    shared.decay.add_halves(phase - 1, thread);
    shared.smoothness.add_halves(phase - 1, thread);
    shared.gradient.add_halves(phase - 1, thread);
    if (phase == num_phases - 1 && thread == 0)
      sums[block] = {.decay = shared.decay.total(),
                     .smoothness = shared.smoothness.total(),
                     .gradient = shared.gradient.total()};
  }
  bool operator==(const RegularizeRows&) const = default;
  Accesses accesses() const {
    Accesses accesses;
    for (const RegularizedRows<float>& rows : arrays) {
      const std::size_t size = rows.num_rows * rows.row_size;
      const std::size_t neighbours = rows.rows_per_block * rows.row_size;
      accesses = std::move(accesses)
                     .reads(rows.values, size)
                     .reads(rows.before, neighbours)
                     .reads(rows.after, neighbours)
                     .writes(rows.gradient, size);
    }
    return std::move(accesses).writes(sums, num_blocks());
  }

 private:
  struct Entry {
    float theta = 0, before = 0, after = 0, gradient = 0;
  };

  /// The gradient of every num_threads-th entry, and their sums.
  REVODE_ON_DEVICE static RowSum regularize(const RegularizedRows<float>& rows, std::int64_t row,
                                            int thread) {
    const auto row_size = static_cast<std::int64_t>(rows.row_size);
    const float* theta = rows.values + row * row_size;
    const float* before = find(rows, row - rows.rows_per_block, rows.before, row);
    const std::int64_t newer = row + rows.rows_per_block;
    const float* after = find(rows, newer, rows.after, newer - rows.num_rows);
    float* gradient = rows.gradient + row * row_size;
    const auto decay = static_cast<float>(rows.weight_decay);
    const auto factor = static_cast<float>(rows.smoothness_over_h);
    RowSum sum;
    for (std::int64_t first = thread; first < row_size;
         first += std::int64_t{entries_at_once} * num_threads) {
      Entry entry[entries_at_once];
      for (int k = 0; k < entries_at_once; ++k) {
        const std::int64_t i = first + std::int64_t{k} * num_threads;
        if (i >= row_size) continue;
        entry[k] = {.theta = theta[i],
                    .before = before != nullptr ? before[i] : 0,
                    .after = after != nullptr ? after[i] : 0,
                    .gradient = gradient[i]};
      }
      for (int k = 0; k < entries_at_once; ++k) {
        const std::int64_t i = first + std::int64_t{k} * num_threads;
        if (i >= row_size) continue;
        const Entry& at = entry[k];
        float g = at.gradient + decay * at.theta;
        if (before != nullptr) {
          g += factor * (at.theta - at.before);
          const double change = double{at.theta} - at.before;
          sum.smoothness += change * change;
        }
        if (after != nullptr) g += factor * (at.theta - at.after);
        gradient[i] = g;
        sum.decay += double{at.theta} * at.theta;
        sum.gradient += double{g} * g;
      }
    }
    return sum;
  }
  /// Where another row lives: in the array, or in a block beside it; null where there is none.
  REVODE_ON_DEVICE static const float* find(const RegularizedRows<float>& rows, std::int64_t row,
                                            const float* block, std::int64_t row_in_block) {
    const auto row_size = static_cast<std::int64_t>(rows.row_size);
    if (row >= 0 && row < rows.num_rows) return rows.values + row * row_size;
    return block != nullptr ? block + row_in_block * row_size : nullptr;
  }
};

/// velocity <- momentum velocity + gradient_scale gradient;  values -= rate velocity
struct SgdStep {
  static constexpr std::string_view name = "sgd_step";
  std::int64_t num_values = 0;
  float rate = 0, momentum = 0, gradient_scale = 1;
  const float* gradient = nullptr;
  float* velocity = nullptr;
  float* values = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    velocity[i] = momentum * velocity[i] + gradient_scale * gradient[i];
    values[i] -= rate * velocity[i];
  }
  bool operator==(const SgdStep&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(gradient, num_values)
        .writes(velocity, num_values)
        .writes(values, num_values);
  }
};

}  // namespace revode::cuda
