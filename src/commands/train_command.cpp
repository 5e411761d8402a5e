// revode train: see trainer.hpp; with --plan-only: see plan_command.cpp.
#include <utility>

#include "revode/run/write_permission.hpp"
#include "revode/train/trainer.hpp"

#include "commands/commands.hpp"

namespace revode {

ExitStatus train_command(Config config, const Communicator& communicator) {
  if (config.plan_only) return plan_of_ranks(std::move(config), communicator);
  communicator.agree([&] {
    if (communicator.is_root()) check_result_files(config);
  });
  StartPoint start = choose_start(config, communicator);
  return Trainer(make_plan(config, communicator), std::move(start), communicator).run();
}

}  // namespace revode
