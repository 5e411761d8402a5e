#include "revode/train/damage.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "revode/core/digest.hpp"

namespace revode {
namespace {

DamageKind kind_of(MessageKind message) {
  if (message == MessageKind::state) return DamageKind::state;
  return message == MessageKind::adjoint ? DamageKind::adjoint : DamageKind::rebuilt_state;
}

std::string what_happened(const Damage& damage) {
  constexpr const char* sent = "has other bits than it was sent with";
  constexpr const char* other = "is not, bit for bit, that of the forward sweep";
  switch (damage.kind) {
    case DamageKind::state:
      return fmt::format("the state that entered slice {} {}", damage.slice, sent);
    case DamageKind::rebuilt_state:
      return fmt::format("the rebuilt state that entered slice {} on the way back {}", damage.slice,
                         sent);
    case DamageKind::adjoint:
      return fmt::format("the adjoint that entered slice {} {}", damage.slice, sent);
    case DamageKind::edge_weights:
      return fmt::format("a block of weights beside slice {} {}", damage.slice, sent);
    case DamageKind::rebuilt:
      return fmt::format("the state that slice {} rebuilt through blocks {} to {} {}", damage.slice,
                         damage.first_block, damage.last_block, other);
    case DamageKind::kept:
      return fmt::format("the state that slice {} kept behind block {} {}", damage.slice,
                         damage.last_block, other);
    case DamageKind::gradient_sums:
      return fmt::format(
          "the sums of slice {}'s gradients are not those of what the replicas added",
          damage.slice);
    case DamageKind::weights:
      return fmt::format("{} of slice {} is not, bit for bit, what the last update made of it",
                         damage.array, damage.slice);
  }
  return {};
}

/// Calls visit(share, group of a checkpoint, entry, its values in the backend's memory) for weights
/// and momentum.
template <typename Visit>
void for_each_array(Network& network, Visit&& visit) {
  for (const auto& share : network.shares()) {
    const float *values = share->values().data(), *velocity = share->velocity().data();
    for (const ParameterEntry* entry : share->map().entries()) {
      visit(*share, "/model/", *entry, values + entry->offset);
      if (entry->trainable) visit(*share, "/optimizer/momentum/", *entry, velocity + entry->offset);
    }
  }
}

}  // namespace

std::string_view to_string(DamageKind kind) {
  static constexpr std::array<std::string_view, 8> names{
      "state",   "rebuilt state", "adjoint",       "edge weights",
      "rebuilt", "kept",          "gradient sums", "weights"};
  return names[static_cast<std::size_t>(kind)];
}

std::string to_string(const Damage& damage) {
  return fmt::format("{} (rank {}{})", what_happened(damage), damage.rank,
                     damage.micro_batch == Damage::none
                         ? ""
                         : fmt::format(", micro-batch {}", damage.micro_batch));
}

Error damage_error(const Damage& damage, const std::string& when, const std::string& more) {
  const std::string again =
      damage.can_be_repeated()
          ? fmt::format(", and damage was found again each of the {} times that it was computed",
                        most_damaged_tries)
          : "";
  const bool came_from_others =
      damage.kind <= DamageKind::edge_weights || damage.kind == DamageKind::gradient_sums;
  const char* suspect = came_from_others ? "a rank's host, or what connects them," : "its host";
  return Error(ExitStatus::failure,
               fmt::format("{}: {}{}; a processor or memory of {} may be faulty{}{}", when,
                           to_string(damage), again, suspect, more.empty() ? "" : "; ", more),
               ErrorScope::all_ranks);
}

std::optional<Damage> message_damage(Network& network) {
  const std::vector<MessageTag>& messages = network.pipeline().damaged_messages();
  if (messages.empty()) return std::nullopt;
  const MessageTag& first = messages.front();
  return Damage{
      .kind = kind_of(first.kind), .slice = first.slice, .micro_batch = first.micro_batch};
}

std::optional<Damage> reversal_damage(Network& network) {
  for (const auto& share : network.shares())
    if (const auto found = share->slice().reversal_damage())
      return Damage{.kind = found->was_kept ? DamageKind::kept : DamageKind::rebuilt,
                    .slice = share->index(),
                    .micro_batch = found->micro_batch,
                    .first_block = found->first_block,
                    .last_block = found->last_block};
  return std::nullopt;
}

std::optional<Damage> first_damage(const std::optional<Damage>& mine, const Communicator& world) {
  std::vector<std::int64_t> packed;
  if (mine)
    packed = {static_cast<std::int64_t>(mine->kind), mine->slice, mine->micro_batch,
              mine->first_block, mine->last_block};
  const std::vector<std::vector<std::int64_t>> all = world.all_gather_each(packed);
  const std::vector<std::string> arrays = world.all_gather(mine ? mine->array : std::string());
  std::optional<Damage> first;
  for (int rank = 0; rank < world.size(); ++rank) {
    const std::vector<std::int64_t>& theirs = all[rank];
    if (theirs.empty()) continue;
    const auto kind = static_cast<DamageKind>(theirs[0]);
    if (first && (kind != DamageKind::weights || first->kind == DamageKind::weights)) continue;
    first = Damage{.kind = kind,
                   .rank = rank,
                   .slice = static_cast<int>(theirs[1]),
                   .micro_batch = static_cast<int>(theirs[2]),
                   .first_block = static_cast<int>(theirs[3]),
                   .last_block = static_cast<int>(theirs[4]),
                   .array = arrays[rank]};
  }
  return first;
}

void WeightGuard::digest(StagedBuffer<std::uint64_t>& digests) {
  std::vector<std::span<const std::byte>> arrays;
  for_each_array(network_,
                 [&](Share<float>&, const char*, const ParameterEntry& entry, const float* values) {
                   arrays.push_back(std::as_bytes(std::span(values, entry.size())));
                 });
  digests.ensure(arrays.size(), Memory::workspace, network_.backend());
  network_.backend().digest(arrays, digests.data());
  digests.fetch();
}

void WeightGuard::note() {
  digest(noted_);
  for (const auto& share : network_.shares()) {
    tell_guarded("weights", share->values(), share->values().size());
    tell_guarded("momentum", share->velocity(), share->velocity().size());
  }
}

void WeightGuard::look() {
  if (noted_.size() > 0) digest(seen_);
}

std::optional<Damage> WeightGuard::damage() {
  if (seen_.size() == 0) return std::nullopt;
  const std::span<const std::uint64_t> noted = noted_.host(), seen = seen_.host();
  const auto [expected, found] = std::ranges::mismatch(noted, seen);
  auto left = expected - noted.begin();
  std::optional<Damage> first;
  for_each_array(network_, [&](Share<float>& share, const char* group, const ParameterEntry& entry,
                               const float*) {
    if (left-- == 0)
      first =
          Damage{.kind = DamageKind::weights, .slice = share.index(), .array = group + entry.name};
  });
  return first;
}

}  // namespace revode
