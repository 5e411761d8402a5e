// Numbers that changed where none should, as a fault of memory or processor leaves them: what was
// found where, and what all ranks know of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "revode/backend/memory.hpp"
#include "revode/core/error.hpp"
#include "revode/train/network.hpp"

namespace revode {

enum class DamageKind : int {
  state,          ///< a message of the forward sweep
  rebuilt_state,  ///< of the backward sweep
  adjoint,        ///< likewise
  edge_weights,   ///< a message of a slice's first or last block
  rebuilt,        ///< a state that is not the one of the forward sweep
  kept,           ///< likewise, that was kept from there
  gradient_sums,  ///< sums over replicas that are not those of what they added
  weights,        ///< weights or momentum, between two updates
};

/// In one word or two, as metrics.jsonl has it.
std::string_view to_string(DamageKind kind);

struct Damage {
  static constexpr int none = -1;

  DamageKind kind{};
  int rank = 0;  ///< that found it
  int slice = 0;
  int micro_batch = none;
  int first_block = none, last_block = none;  ///< that a state was rebuilt through or kept behind
  std::string array = {};                     ///< of weights, as a checkpoint names it

  /// Whether computing the mini-batch again may help.
  bool can_be_repeated() const { return kind != DamageKind::weights; }
};

/// "the adjoint that entered slice 1 has other bits than it was sent with (rank 1, micro-batch 3)".
std::string to_string(const Damage& damage);

/// How often a mini-batch is computed in which damage is found each time, before the run ends.
inline constexpr int most_damaged_tries = 3;

/// What to do about weights that a run can't trust.
inline constexpr const char* resume_advice = "--resume auto goes on from the last checkpoint";

/// An error that all ranks share. when: e.g. "step 7 (epoch 0)"; more: something to be added.
Error damage_error(const Damage& damage, const std::string& when, const std::string& more = "");

/// What the messages of the last sweep brought to this rank.
std::optional<Damage> message_damage(Network& network);
/// Where a rebuilt or kept state of this rank was found to be another in the last sweep.
std::optional<Damage> reversal_damage(Network& network);

/// Of what the ranks found, the one of the lowest rank; weights before all else. Collective.
std::optional<Damage> first_damage(const std::optional<Damage>& mine, const Communicator& world);

/// Digests of this rank's weights and momentum, held against them later. The backend computes them,
/// in the order of its calls; they alone come to the host.
class WeightGuard {
 public:
  /// The network must outlive the guard.
  explicit WeightGuard(Network& network) : network_(network) {}

  /// They are as they should be.
  void note();
  /// Asks what they are now; nothing where note() was never called.
  void look();
  /// The first array whose bits changed between note() and the last look(); waits for both.
  std::optional<Damage> damage();

 private:
  void digest(StagedBuffer<std::uint64_t>& digests);

  Network& network_;
  StagedBuffer<std::uint64_t> noted_, seen_;  // by share, by array
};

}  // namespace revode
