// revode train: see trainer.hpp.
#include <cstdio>

#include <fmt/format.h>

#include "revode/train/trainer.hpp"

#include "commands/commands.hpp"

namespace revode {

ExitStatus train_command(Config config, const Communicator& communicator) {
  const StartPoint start = choose_start(config, communicator);
  return Trainer(config, start, communicator).run();
}

}  // namespace revode
