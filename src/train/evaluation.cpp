#include "revode/train/evaluation.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace revode {

Evaluation evaluate(Network& network, const DataFeed& feed, std::span<const std::int64_t> indices,
                    int batch_size, int num_micro_batches, const OnSampleLogits& on_logits) {
  double loss_sum = 0;
  std::int64_t num_correct = 0;
  const auto total = static_cast<std::int64_t>(indices.size());
  for (std::int64_t first = 0; first < total; first += batch_size) {
    const auto batch = indices.subspan(first, std::min<std::int64_t>(batch_size, total - first));
    const MiniBatchSource source =
        feed.mini_batch({batch.begin(), batch.end()}, 0, num_micro_batches);
    std::int64_t next_sample = first;
    const SweepResult result =
        network.executor().evaluate(source, [&](int m, std::span<const float> logits) {
          if (on_logits) on_logits(next_sample, logits);
          next_sample += source.micro_batches[m];
        });
    loss_sum += result.loss_sum;
    num_correct += result.num_correct;
  }
  std::array<double, 2> sums{loss_sum, static_cast<double>(num_correct)};
  network.communicator().broadcast(std::span<double>(sums), network.communicator().size() - 1);
  return {.loss = sums[0] / static_cast<double>(total),
          .accuracy = sums[1] / static_cast<double>(total),
          .samples = total};
}

}  // namespace revode
