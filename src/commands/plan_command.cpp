// revode plan: what training would take on ranks that need not be there; revode --plan-only: the
// same for the ranks of a run.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "revode/core/console.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/job_plan.hpp"
#include "revode/train/network.hpp"
#include "revode/train/stored_options.hpp"

#include "commands/commands.hpp"
#include "commands/plan_report.hpp"

namespace revode {
namespace {

using Json = nlohmann::ordered_json;

/// Jobs that --search lists.
constexpr std::size_t most_jobs = 10;

}  // namespace

ExitStatus plan_command(const Config& config) {
  check_result_files(config);
  const Machine machine(config.machine);
  const bool prints = !config.json_to_stdout();
  if (!config.search) {
    const JobPlan job = plan_job(config, *config.ranks, machine);
    if (prints) print_result(job_text(job));
    if (!config.trace.empty()) write_planned_trace(config, planned_work(job));
    write_json_result(config, job_json(job));
    return ExitStatus::success;
  }
  const std::vector<JobPlan> jobs = best_jobs(config, *config.ranks, machine, most_jobs);
  if (prints) print_result(search_table(jobs) + "\nthe first of them\n" + job_text(jobs.front()));
  if (!config.trace.empty()) write_planned_trace(config, planned_work(jobs.front()));
  Json result = job_json(jobs.front());
  for (const JobPlan& job : jobs) result["best"].push_back(job_json(job));
  write_json_result(config, result);
  return ExitStatus::success;
}

// Options that a checkpoint settles come from it; of --resume auto, which may find none, those
// count that were given.
ExitStatus plan_of_ranks(Config config, const Communicator& world) {
  world.agree([&] {
    if (world.is_root()) check_result_files(config);
  });
  const bool resumes = !config.resume.empty() && !config.resumes_newest();
  const std::string file = resumes ? config.resume : config.checkpoint;
  if (!file.empty())
    fill_from_checkpoint(config, resumes ? StoredUse::resume : StoredUse::model, file,
                         CheckpointReader::Checksums::verify, world);
  RunPlan plan = make_plan(config, world);
  const int micro_batch = cut_evenly(plan.config.batch_size, plan.num_micro_batches).front();
  const Grid grid = make_grid(plan, world);
  Network network(std::move(plan), grid, micro_batch);
  world.agree([&] {
    if (!grid.is_printer()) return;
    std::optional<MachineFile> machine;
    if (!config.machine.empty()) machine.emplace(read_machine_file(config.machine), config.machine);
    const JobPlan job = describe_job(network.plan(), machine ? &*machine : nullptr);
    if (!config.json_to_stdout()) print_result(job_text(job));
    if (!config.trace.empty()) write_planned_trace(config, planned_work(job));
    write_json_result(config, job_json(job));
  });
  return ExitStatus::success;
}

}  // namespace revode
