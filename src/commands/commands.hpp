// One function a command; main.cpp has the table. Each returns the exit status of the program and
// throws Errors.
#pragma once

#include "revode/comm/communicator.hpp"
#include "revode/config/config.hpp"
#include "revode/core/error.hpp"

namespace revode {

ExitStatus train_command(Config config, const Communicator& world);
ExitStatus eval_command(Config config, const Communicator& world);
ExitStatus gradient_command(Config config, const Communicator& world);
ExitStatus verify_command(Config config, const Communicator& world);
ExitStatus bench_command(Config config, const Communicator& world);
ExitStatus analyze_command(Config config, const Communicator& world);
/// train --plan-only.
ExitStatus plan_of_ranks(Config config, const Communicator& world);

// These need no MPI.
ExitStatus plan_command(const Config& config);
ExitStatus info_command(const Config& config);
/// --print-config of any command: what would be run, as an INI file.
ExitStatus print_config(Config config);

}  // namespace revode
