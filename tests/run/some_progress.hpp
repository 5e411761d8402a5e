// A run in its middle, for tests of what is kept of it.
#pragma once

#include <gtest/gtest.h>

#include "revode/run/run_progress.hpp"

namespace revode {

inline RunProgress some_progress() {
  RunProgress progress;
  progress.epoch = 3;
  progress.step = 1'234'567'890'123;
  progress.samples_seen = 9'876'543'210'123;
  progress.learning_rate = 0.1 * 0.1;  // no short decimal
  progress.best_accuracy = 1.0 / 3;
  progress.epoch_loss_sum = 1e-300;
  progress.epoch_correct = 17;
  progress.epoch_samples = 80;
  progress.epoch_regularization_sum = 2.0 / 7;
  progress.range = {.out_of_range = 5, .rounded_to_zero = 9'000'000'000};
  progress.skipped = 21;
  progress.skipped_in_a_row = 3;
  progress.rewound_to = {0, 7, 7, 1'234'567'890'000};
  progress.slow_until = 1'234'567'890'999;
  return progress;
}

inline void expect_equal(const RunProgress& a, const RunProgress& b) {
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.samples_seen, b.samples_seen);
  EXPECT_EQ(a.learning_rate, b.learning_rate);
  EXPECT_EQ(a.best_accuracy, b.best_accuracy);
  EXPECT_EQ(a.epoch_loss_sum, b.epoch_loss_sum);
  EXPECT_EQ(a.epoch_correct, b.epoch_correct);
  EXPECT_EQ(a.epoch_samples, b.epoch_samples);
  EXPECT_EQ(a.epoch_regularization_sum, b.epoch_regularization_sum);
  EXPECT_EQ(a.range.out_of_range, b.range.out_of_range);
  EXPECT_EQ(a.range.rounded_to_zero, b.range.rounded_to_zero);
  EXPECT_EQ(a.skipped, b.skipped);
  EXPECT_EQ(a.skipped_in_a_row, b.skipped_in_a_row);
  EXPECT_EQ(a.rewound_to, b.rewound_to);
  EXPECT_EQ(a.slow_until, b.slow_until);
}

}  // namespace revode
