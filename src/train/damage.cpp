#include "revode/train/damage.hpp"

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

/// Calls visit(array as a checkpoint names it, its values) for weights and momentum.
template <typename Visit>
void for_each_array(Share<float>& share, Visit&& visit) {
  const std::span<float> values = share.values().host(), velocity = share.velocity().host();
  for (const ParameterEntry* entry : share.map().entries()) {
    visit("/model/", *entry, values.subspan(entry->offset, entry->size()));
    if (entry->trainable)
      visit("/optimizer/momentum/", *entry, velocity.subspan(entry->offset, entry->size()));
  }
}

std::uint64_t digest_of_values(std::span<const float> values) { return digest_of(values); }

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

void WeightGuard::note() {
  digests_.clear();
  if (!network_.backend().space().host_accessible()) return;
  for (const auto& share : network_.shares()) {
    std::vector<std::uint64_t>& digests = digests_.emplace_back();
    for_each_array(*share, [&](const char*, const ParameterEntry&, std::span<float> values) {
      digests.push_back(digest_of_values(values));
    });
    tell_guarded("weights", share->values().host());
    tell_guarded("momentum", share->velocity().host());
  }
}

std::optional<Damage> WeightGuard::find_damage() const {
  std::optional<Damage> found;
  for (std::size_t i = 0; i < digests_.size() && !found; ++i) {
    Share<float>& share = *network_.shares()[i];
    auto expected = digests_[i].begin();
    for_each_array(
        share, [&](const char* group, const ParameterEntry& entry, std::span<float> values) {
          if (digest_of_values(values) == *expected++ || found) return;
          found = Damage{
              .kind = DamageKind::weights, .slice = share.index(), .array = group + entry.name};
        });
  }
  return found;
}

}  // namespace revode
