// The program: options, MPI, command; the one place where errors are caught and reported.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <mpi.h>

#include "revode/io/config.hpp"
#include "revode/pipeline/communicator.hpp"

#include "commands/commands.hpp"

namespace {

using revode::Communicator;
using revode::Config;
using revode::Error;
using revode::ErrorScope;
using revode::ExitStatus;

using Command = ExitStatus (*)(Config, const Communicator&);

const std::map<std::string, Command>& commands() {
  static const std::map<std::string, Command> table{{"train", revode::train_command},
                                                    {"eval", revode::eval_command},
                                                    {"gradient", revode::gradient_command},
                                                    {"verify", revode::verify_command},
                                                    {"bench", revode::bench_command}};
  return table;
}

/// This process among those that a launcher started, from its environment: known before MPI is.
int rank_by_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

int report(const Error& error, bool prints) {
  if (prints) fmt::print(stderr, "revode: error: {}\n", error.what());
  return static_cast<int>(error.status());
}

/// What needs no MPI; every rank that a launcher started does it, the first one prints.
bool runs_without_mpi(const Config& config) {
  return config.help || config.version || config.print_config || config.command == "info";
}

int run_without_mpi(const Config& config) {
  if (rank_by_launcher() != 0) return 0;
  if (config.help) {
    fmt::print("{}", revode::help_text(config.command));
  } else if (config.version) {
    fmt::print("{}, revision {}\n", revode::version_text(), revode::source_revision());
  } else if (config.print_config) {
    revode::print_config(config);
  } else {
    revode::info_command(config);
  }
  return 0;
}

/// An error that all ranks share is printed by rank 0; a rank's own by that rank, which then ends
/// the job.
int run_with_mpi(const Config& config) {
  const Communicator world(MPI_COMM_WORLD);
  try {
    return static_cast<int>(commands().at(config.command)(config, world));
  } catch (const Error& error) {
    if (error.scope() == ErrorScope::all_ranks) return report(error, world.is_root());
    const int status =
        report(Error(error.status(), world.size() > 1
                                         ? fmt::format("{} (rank {})", error.what(), world.rank())
                                         : error.what()),
               true);
    if (world.size() == 1) return status;
    MPI_Abort(MPI_COMM_WORLD, status);
    return status;
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    // 1. Options: the same on every rank, so the same error too.
    Config config;
    try {
      config = revode::parse_command_line(argc, argv);
      if (runs_without_mpi(config)) return run_without_mpi(config);
    } catch (const Error& error) {
      // A launcher ends the job at the first process that fails: let the one that prints be it.
      if (rank_by_launcher() != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
      return report(error, rank_by_launcher() == 0);
    }

    // 2. MPI: one thread of each rank talks.
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);

    // 3. The command; everything it owns dies before MPI does.
    const int status = run_with_mpi(config);
    MPI_Finalize();
    return status;
  } catch (const std::exception& error) {
    fmt::print(stderr, "revode: error: {}\n", error.what());
    int initialised = 0;
    MPI_Initialized(&initialised);
    if (initialised != 0) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitStatus::failure));
    return static_cast<int>(ExitStatus::failure);
  }
}
