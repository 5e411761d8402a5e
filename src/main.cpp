// The program: options, MPI, command; the one place where errors are caught and reported.
#include <csignal>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <mpi.h>

#include "revode/comm/communicator.hpp"
#include "revode/config/config.hpp"
#include "revode/core/activity.hpp"
#include "revode/core/console.hpp"
#include "revode/train/job_watch.hpp"

#include "commands/commands.hpp"
#include "commands/common_ground.hpp"

namespace {

using revode::Command;
using revode::Communicator;
using revode::Config;
using revode::Error;
using revode::ErrorScope;
using revode::ExitStatus;

struct CommandOfRanks {
  ExitStatus (*run)(Config, const Communicator&);
  std::string_view doing;  ///< what a rank that hangs is at, as a whole
};

const std::map<Command, CommandOfRanks>& commands() {
  static const std::map<Command, CommandOfRanks> table{
      {Command::train, {revode::train_command, "trains"}},
      {Command::eval, {revode::eval_command, "evaluates"}},
      {Command::gradient, {revode::gradient_command, "computes a gradient"}},
      {Command::verify, {revode::verify_command, "verifies"}},
      {Command::bench, {revode::bench_command, "measures"}},
      {Command::analyze, {revode::analyze_command, "analyzes"}}};
  return table;
}

/// Options as far as they could be read, and why no further.
struct Options {
  Config config;
  std::optional<Error> refused;
};

Options read_options(int argc, char** argv) {
  Options options;
  try {
    options.config = revode::parse_command_line(argc, argv);
  } catch (...) {
    options.refused = revode::current_error();
  }
  return options;
}

/// Whether an MPI launcher started this process together with others, from its environment: known
/// before MPI is.
bool is_one_of_several() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"})
    if (const char* value = std::getenv(name)) return std::atoi(value) > 1;
  // srun --mpi=pmix tells a rank its number and, apart from that, how many tasks its step has.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return std::getenv("PMIX_RANK") != nullptr && tasks != nullptr && std::atoi(tasks) > 1;
}

int report(const Error& error) {
  revode::print_error(error.what());
  return static_cast<int>(error.status());
}

bool needs_no_ranks(const Config& config) {
  return config.help || config.version || config.print_config || config.command == Command::plan ||
         config.command == Command::info;
}

ExitStatus run_on_one_rank(const Config& config) {
  if (config.help) {
    revode::print_result(revode::help_text(config.command));
  } else if (config.version) {
    revode::print_result("{}, revision {}\n", revode::version_text(), revode::source_revision());
  } else if (config.print_config) {
    return revode::print_config(config);
  } else if (config.command == Command::plan) {
    return revode::plan_command(config);
  } else {
    return revode::info_command(config);
  }
  return ExitStatus::success;
}

int run_without_mpi(const Options& options) {
  if (options.refused) return report(*options.refused);
  try {
    // `revode info FILE | head`: a filter whose reader has seen enough ends without a word.
    std::signal(SIGPIPE, SIG_DFL);
    return static_cast<int>(run_on_one_rank(options.config));
  } catch (...) {
    std::signal(SIGPIPE, SIG_IGN);
    return report(revode::current_error());
  }
}

ExitStatus run_command(const Config& config, const Communicator& world) {
  const CommandOfRanks& command = commands().at(config.command);
  const revode::ActivityScope at({.what = command.doing});
  // A run is watched from its own folder, which is found first.
  const bool is_run = config.command == Command::train;
  const auto watch =
      is_run ? std::optional<revode::HangWatch>() : revode::watch_over_command(config, world);
  return command.run(config, world);
}

ExitStatus run_on_all_ranks(const Options& options, const Communicator& world) {
  world.agree([&] {
    if (options.refused) throw Error(*options.refused);
  });
  revode::find_common_ground(options.config, world);
  if (!needs_no_ranks(options.config)) return run_command(options.config, world);
  world.agree([&] {
    if (world.is_root()) run_on_one_rank(options.config);
  });
  return ExitStatus::success;
}

/// An error that all ranks share is printed by rank 0; a rank's own by that rank, which then ends
/// the job.
int run_with_mpi(const Options& options) {
  const Communicator world(MPI_COMM_WORLD);
  try {
    return static_cast<int>(run_on_all_ranks(options, world));
  } catch (...) {
    const Error error = revode::current_error();
    if (error.scope() == ErrorScope::all_ranks)
      return world.is_root() ? report(error) : static_cast<int>(error.status());
    if (world.size() == 1) return report(error);
    const int status =
        report(Error(error.status(), fmt::format("{} (rank {})", error.what(), world.rank())));
    MPI_Abort(MPI_COMM_WORLD, status);
    return status;
  }
}

}  // namespace

int main(int argc, char** argv) {
  revode::open_missing_streams();
  // Whoever reads the output may stop doing so: that costs the output, not the run or its status.
  std::signal(SIGPIPE, SIG_IGN);

  // 1. Options. Where there are other ranks, they may have read others, or none: they are to be
  // asked first.
  const Options options = read_options(argc, argv);
  const bool alone = options.refused || needs_no_ranks(options.config);
  if (alone && !is_one_of_several()) return run_without_mpi(options);

  // 2. MPI: one thread of each rank talks.
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);

  // 3. The command; everything it owns dies before MPI does.
  int status = static_cast<int>(ExitStatus::failure);
  try {
    status = run_with_mpi(options);
  } catch (...) {  // MPI itself, at the beginning or the end.
    status = report(revode::current_error());
    MPI_Abort(MPI_COMM_WORLD, status);
  }
  MPI_Finalize();
  return status;
}
