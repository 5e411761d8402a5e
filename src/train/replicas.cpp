#include "revode/train/replicas.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "revode/core/digest.hpp"
#include "revode/core/error.hpp"

namespace revode {
namespace {

using Statistics = TimeSlice<float>::SweepStatistics;

/// Count, means and variances of every micro-batch that went through this replica.
std::vector<double> pack(const Grid& grid, Statistics& statistics) {
  const std::size_t features = statistics.num_features, num = statistics.counts.size();
  const std::span<const double> values = statistics.values.host();
  std::vector<double> packed;
  for (std::size_t m = grid.replica(); m < num; m += grid.num_replicas()) {
    packed.push_back(statistics.counts[m]);
    for (const std::size_t first : {m * features, (num + m) * features})
      packed.insert(packed.end(), values.begin() + first, values.begin() + first + features);
  }
  return packed;
}

void unpack(const Grid& grid, const std::vector<double>& all, Statistics& statistics) {
  const std::size_t features = statistics.num_features, num = statistics.counts.size();
  const std::span<double> values = statistics.values.host();
  auto next = all.begin();
  for (int replica = 0; replica < grid.num_replicas(); ++replica) {
    for (std::size_t m = replica; m < num; m += grid.num_replicas()) {
      statistics.counts[m] = *next++;
      for (const std::size_t first : {m * features, (num + m) * features}) {
        std::copy_n(next, features, values.begin() + first);
        next += static_cast<std::ptrdiff_t>(features);
      }
    }
  }
  statistics.values.store();
}

/// The first array of `share` whose bits differ between replicas, as a checkpoint names it.
std::optional<std::string> first_difference(const Grid& grid, Share<float>& share) {
  std::optional<std::string> found;
  const auto compare = [&](const std::string& group, const ParameterEntry& entry,
                           std::span<const float> array) {
    const auto digest =
        static_cast<std::int64_t>(digest_of(array.subspan(entry.offset, entry.size())));
    const std::vector<std::int64_t> all = grid.data().all_gather(digest);
    if (!found && digest != all.front()) found = group + "/" + entry.name;
  };
  const std::span<const float> values = share.values().read(), velocity = share.velocity().read();
  for (const ParameterEntry* entry : share.map().entries()) {
    compare("/model", *entry, values);
    if (entry->trainable) compare("/optimizer/momentum", *entry, velocity);
  }
  return found;
}

}  // namespace

GradientExchange::GradientExchange(Network& network)
    : network_(network),
      early_(network.backend().space().host_accessible()),
      complete_(network.shares().size()),
      share_(network.shares().size()),
      left_(network.shares().back()->map().num_trainable()),
      added_(network.shares().size()) {}

void GradientExchange::complete(int slice, std::size_t first, std::size_t last) {
  if (!early_) return;
  for (std::size_t i = 0; i < complete_.size(); ++i)
    if (network_.shares()[i]->index() == slice) complete_[i].push_back({first, last});
  start_complete_buckets();
}

// Neighbouring ranges make a bucket until it is large enough, or none follows that touches it.
void GradientExchange::start_complete_buckets() {
  while (share_ > 0 && next_ < complete_[share_ - 1].size()) {
    const Range range = complete_[share_ - 1][next_++];
    left_ -= range.size();
    if (range.last == bucket_.first && bucket_.size() > 0) {
      bucket_.first = range.first;
    } else {
      start(std::exchange(bucket_, range));
    }
    if (bucket_.size() >= bucket_entries || left_ == 0) start(std::exchange(bucket_, {}));
    if (left_ > 0) continue;
    next_ = 0;
    if (--share_ > 0) left_ = network_.shares()[share_ - 1]->map().num_trainable();
  }
}

void GradientExchange::start(Range range) {
  if (range.size() == 0) return;
  const std::size_t share = share_ - 1;
  const std::span<ExactSum> sums = network_.shares()[share]->gradient().staged_sums().host();
  note(share, range, sums);
  requests_.push_back(network_.grid().data().sum(sums.subspan(range.first, range.size())));
}

// Addition modulo 2^64 is associative, too: the sum of all sums is that of what was added up.
void GradientExchange::note(std::size_t share, Range range, std::span<ExactSum> sums) {
  const std::span<ExactSum> mine = sums.subspan(range.first, range.size());
  added_[share] += wrapping_sum(mine);
  exchanged_.emplace_back(share, range);
  tell_guarded("gradient sums", mine);
}

void GradientExchange::start_checks() {
  for (const std::uint64_t sum : added_) {
    checks_.push_back(static_cast<std::int64_t>(sum & 0xffffffffu));
    checks_.push_back(static_cast<std::int64_t>(sum >> 32));
  }
  requests_.push_back(network_.grid().data().sum(checks_));
}

void GradientExchange::find_damage() {
  std::vector<std::uint64_t> found(added_.size());
  for (const auto& [share, range] : exchanged_)
    found[share] += wrapping_sum(network_.shares()[share]->gradient().staged_sums().host().subspan(
        range.first, range.size()));
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto low = static_cast<std::uint64_t>(checks_[2 * i]);
    const auto high = static_cast<std::uint64_t>(checks_[2 * i + 1]);
    if (!damaged_slice_ && found[i] != low + (high << 32))
      damaged_slice_ = network_.shares()[i]->index();
  }
}

void GradientExchange::progress() {
  std::erase_if(requests_, [](Request& request) { return request.done(); });
}

void GradientExchange::finish() {
  const TraceScope traced(network_.trace(), TraceAction::allreduce);
  if (early_) {
    REVODE_CHECK(share_ == 0, "gradients of {} shares were not told of as complete", share_);
    start_checks();
    for (Request& request : requests_) request.wait();
    requests_.clear();
    find_damage();
    return;
  }
  for (const auto& share : network_.shares()) share->gradient().staged_sums().fetch();
  network_.backend().wait(network_.backend().mark());
  for (std::size_t i = 0; i < network_.shares().size(); ++i) {
    const std::span<ExactSum> sums = network_.shares()[i]->gradient().staged_sums().host();
    note(i, {0, sums.size()}, sums);
    requests_.push_back(network_.grid().data().sum(sums));
  }
  start_checks();
  for (Request& request : requests_) request.wait();
  find_damage();
  for (const auto& share : network_.shares()) share->gradient().staged_sums().store();
}

void fetch_statistics(Network& network) {
  if (network.grid().num_replicas() == 1) return;
  for (const auto& share : network.shares())
    for (Statistics* statistics : share->slice().sweep_statistics()) statistics->values.fetch();
}

void share_statistics(Network& network) {
  const Grid& grid = network.grid();
  if (grid.num_replicas() == 1) return;
  const TraceScope traced(network.trace(), TraceAction::allreduce);
  for (const auto& share : network.shares())
    for (Statistics* statistics : share->slice().sweep_statistics())
      unpack(grid, grid.data().all_gather(pack(grid, *statistics)), *statistics);
}

void share_rows(const Grid& grid, const MiniBatchSource& source, std::size_t row_size,
                std::vector<float>& rows) {
  if (grid.num_replicas() == 1) return;
  const std::vector<float> mine = rows;
  for (int replica = 0; replica < grid.num_replicas(); ++replica) {
    std::vector<float> theirs = mine;
    grid.data().broadcast(std::span<float>(theirs), replica);
    std::size_t first = 0;
    for (std::size_t m = 0; m < source.micro_batches.size(); ++m) {
      const std::size_t size = source.micro_batches[m] * row_size;
      if (grid.replica_of(static_cast<int>(m)) == replica)
        std::copy_n(theirs.begin() + first, size, rows.begin() + first);
      first += size;
    }
  }
}

void require_equal_replicas(Network& network) {
  const Grid& grid = network.grid();
  if (grid.num_replicas() == 1) return;
  std::optional<std::string> difference;
  for (const auto& share : network.shares())
    if (const auto found = first_difference(grid, *share); found && !difference) difference = found;
  grid.world().agree([&] {
    if (difference)
      throw run_error(
          "rank {}: {} of replica {} is not that of replica 0, bit for bit; a processor or memory "
          "of "
          "that rank's host may be faulty",
          grid.world().rank(), *difference, grid.replica());
  });
}

}  // namespace revode
