#include "revode/train/evaluation.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "revode/train/replicas.hpp"

namespace revode {

Evaluation evaluate(Network& network, const DataFeed& feed, std::span<const std::int64_t> indices,
                    std::vector<float>* logits) {
  const auto total = static_cast<std::int64_t>(indices.size());
  const std::int64_t largest = network.largest_micro_batch();
  const MiniBatchSource source = feed.mini_batch({indices.begin(), indices.end()}, 0,
                                                 static_cast<int>((total + largest - 1) / largest));
  const bool collects = logits != nullptr && network.last_share() != nullptr;
  const std::size_t classes = network.architecture().num_classes();
  const auto sweep = [&] {
    return network.pipeline().evaluate(source, [&](int m, std::span<const float> of_micro_batch) {
      if (collects)
        std::ranges::copy(of_micro_batch, logits->begin() + source.first_sample(m) * classes);
    });
  };
  SweepResult result = sweep();
  std::vector<Damage> repeated;
  while (const auto damage = first_damage(message_damage(network), network.grid().world())) {
    if (std::ssize(repeated) + 1 == most_damaged_tries) throw damage_error(*damage, "evaluation");
    repeated.push_back(*damage);
    result = sweep();
  }
  if (collects) share_rows(network.grid(), source, classes, *logits);
  const MicroBatchResult sum = result.total();
  std::array<double, 2> sums{sum.loss_sum, static_cast<double>(sum.num_correct)};
  network.grid().time().broadcast(std::span<double>(sums), network.placement().last_rank());
  return {.loss = sums[0] / static_cast<double>(total),
          .accuracy = sums[1] / static_cast<double>(total),
          .samples = total,
          .repeated = std::move(repeated)};
}

}  // namespace revode
