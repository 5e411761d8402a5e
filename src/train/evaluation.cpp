#include "revode/train/evaluation.hpp"

#include <array>
#include <vector>

namespace revode {

Evaluation evaluate(Network& network, const DataFeed& feed, std::span<const std::int64_t> indices,
                    const OnSampleLogits& on_logits) {
  const auto total = static_cast<std::int64_t>(indices.size());
  const std::int64_t largest = network.largest_micro_batch();
  const MiniBatchSource source = feed.mini_batch({indices.begin(), indices.end()}, 0,
                                                 static_cast<int>((total + largest - 1) / largest));
  std::int64_t next_sample = 0;
  const SweepResult result =
      network.pipeline().evaluate(source, [&](int m, std::span<const float> logits) {
        if (on_logits) on_logits(next_sample, logits);
        next_sample += source.micro_batches[m];
      });
  const MicroBatchResult sum = result.total();
  std::array<double, 2> sums{sum.loss_sum, static_cast<double>(sum.num_correct)};
  network.grid().time().broadcast(std::span<double>(sums), network.placement().last_rank());
  return {.loss = sums[0] / static_cast<double>(total),
          .accuracy = sums[1] / static_cast<double>(total),
          .samples = total};
}

}  // namespace revode
