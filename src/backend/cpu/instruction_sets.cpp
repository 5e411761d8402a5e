// Which of the instruction sets that the kernels are compiled for may be used. Ranks on different
// processors must use the same one to compute the same bits.
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/ranges.h>

#include "revode/backend/backend.hpp"
#include "revode/core/error.hpp"

#include "backend/cpu/targets.hpp"
// clang-format off
#include "hwy/highway.h"  // after the choice of targets
// clang-format on

namespace revode {
namespace {

constexpr const char* limit_variable = "REVODE_INSTRUCTION_SET";

/// The bits of `sets` from `best` on: highway gives better sets lower bits, those of one kind of
/// processor in a row.
std::int64_t not_better_than(std::int64_t best, std::int64_t sets) { return sets & ~(best - 1); }

/// What the environment asks for; 0 where it asks for nothing.
std::int64_t limit_of_environment(std::int64_t sets) {
  const char* wanted = std::getenv(limit_variable);
  if (wanted == nullptr || *wanted == '\0') return 0;
  std::vector<std::string> names;
  for (std::int64_t rest = sets; rest != 0; rest &= rest - 1) {
    const std::int64_t set = rest & -rest;
    if (std::string_view(wanted) == hwy::TargetName(set)) return set;
    names.emplace_back(hwy::TargetName(set));
  }
  throw input_error("{}={}: this processor and this build have {}", limit_variable, wanted,
                    fmt::join(names, ", "));
}

}  // namespace

std::int64_t instruction_sets() {
  const std::int64_t sets = hwy::SupportedTargets() & HWY_TARGETS;
  const std::int64_t limit = limit_of_environment(sets);
  return limit == 0 ? sets : not_better_than(limit, sets);
}

std::string best_instruction_set(std::int64_t sets) { return hwy::TargetName(sets & -sets); }

void allow_instruction_sets(std::int64_t sets) {
  hwy::DisableTargets(hwy::SupportedTargets() & ~sets);
}

}  // namespace revode
