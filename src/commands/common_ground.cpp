#include "commands/common_ground.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/core/console.hpp"
#include "revode/core/error.hpp"

namespace revode {
namespace {

constexpr std::string_view same_program =
    "start the same program with the same libraries on every rank";

void agree_on_options(const Config& config, const Communicator& communicator) {
  std::vector<Communicator::Fact> facts;
  for (const OptionText& option : option_texts(config)) {
    // Of the options these two alone may differ: how many threads compute, and where the rest was
    // read from.
    if (option.name == "threads" || option.name == "config") continue;
    facts.push_back({option.name == "command" ? "the command" : "--" + option.name,
                     option.given ? option.text : "not given"});
  }
  communicator.require_same(facts, "start every rank with the same options and configuration file");
}

void agree_on_program(const Communicator& communicator) {
  communicator.require_same({{"the version of revode", version_text()},
                             {"the revision of revode", source_revision()},
                             {"the version of MPI", Communicator::library_version()}},
                            same_program);
}

// Asking the library starts it, which takes 2 MiB: not where no checkpoint is read or written.
void agree_on_hdf5(const Config& config, const Communicator& communicator) {
  if (config.command != Command::train && config.checkpoint.empty() && config.output.empty())
    return;
  communicator.require_same({{"the version of HDF5", hdf5_version()}}, same_program);
}

void agree_on_instruction_set(const Communicator& communicator) {
  std::int64_t mine = 0;
  communicator.agree([&] { mine = instruction_sets(); });
  const std::vector<std::int64_t> all = communicator.all_gather(mine);
  std::int64_t common = ~std::int64_t{0};
  for (const std::int64_t sets : all) common &= sets;
  communicator.agree([&] {
    REVODE_REQUIRE(common != 0,
                   "ranks disagree on the processor: there is no instruction set that all have");
  });
  allow_instruction_sets(common);
  const std::string used = best_instruction_set(common);
  const auto better = std::ranges::find_if(
      all, [&](std::int64_t sets) { return best_instruction_set(sets) != used; });
  if (communicator.is_root() && better != all.end())
    print_note(
        fmt::format("all ranks use {}, the best instruction set that all have; rank {} has {}",
                    used, better - all.begin(), best_instruction_set(*better)));
}

// Ranks with GPUs and ranks without compute other bits, and at other speeds.
void agree_on_gpus(const Config& config, const Communicator& communicator) {
  if (config.backend != "auto" || communicator.size() == 1) return;
  std::string mine;
  communicator.agree([&] { mine = why_no_gpu().reason; });
  const std::vector<std::string> reasons = communicator.all_gather(mine);
  const auto without = std::ranges::find_if(reasons, [](const auto& why) { return !why.empty(); });
  const bool have_some = std::ranges::any_of(reasons, &std::string::empty);
  if (without == reasons.end() || !have_some) return;
  take_no_gpu(fmt::format("rank {} has none: {}", without - reasons.begin(), *without));
}

}  // namespace

void find_common_ground(const Config& config, const Communicator& communicator) {
  agree_on_program(communicator);
  agree_on_options(config, communicator);
  agree_on_hdf5(config, communicator);
  agree_on_instruction_set(communicator);
  agree_on_gpus(config, communicator);
}

}  // namespace revode
