// revode analyze: is this network what its architecture promises? Spectra of the layers' Jacobians
// at the states that images have in it, growth of perturbations and adjoints, reversal error and
// weights, by depth. Each rank holds the whole network and takes its share of the blocks.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/analysis/spectrum.hpp"
#include "revode/core/console.hpp"
#include "revode/run/write_permission.hpp"

#include "commands/analysis_report.hpp"
#include "commands/commands.hpp"
#include "commands/network_analysis.hpp"

namespace revode {
namespace {

using nlohmann::ordered_json;

/// The same network and samples on one rank, as one micro-batch. world: who shares the processors.
Config of_one_rank(Config config, const Communicator& world) {
  config.time_ranks = config.data_ranks = config.micro_batches = config.slices_per_rank = 1;
  const Communicator::HostShare share = world.host_share();
  if (!config.threads) config.threads = std::max(1, share.num_processors / share.num_sharing);
  return config;
}

void check_sizes(const Architecture& architecture, int num_eigenvalues) {
  for (std::size_t k = 0; k < architecture.stages().size(); ++k) {
    const Stage& stage = architecture.stages()[k];
    const std::size_t slots = architecture.rule().equation == Equation::pair ? 2 : 1;
    const std::size_t size = slots * stage.channels * stage.plane_size();
    REVODE_REQUIRE(num_eigenvalues > 0 || size <= largest_dense_size,
                   "--eigenvalues 0 (all): the Jacobians of stage {} have {} rows, and all "
                   "eigenvalues are computed of at most {}; ask for the largest, --eigenvalues 6, "
                   "or take smaller images or fewer channels",
                   k + 1, size, largest_dense_size);
    REVODE_REQUIRE(static_cast<std::size_t>(num_eigenvalues) + 2 <= size,
                   "--eigenvalues {}: the Jacobians of stage {} have {} rows; expected at most {}",
                   num_eigenvalues, k + 1, size, size - 2);
  }
}

/// Every rank's tasks, in their order, on every rank.
std::vector<ordered_json> do_tasks(NetworkAnalysis& analysis, const Communicator& world) {
  ordered_json mine = ordered_json::array();
  world.agree([&] {
    for (int task = world.rank(); task < analysis.num_tasks(); task += world.size())
      mine.push_back(analysis.do_task(task));
  });
  std::vector<ordered_json> done(analysis.num_tasks());
  const std::vector<std::string> texts = world.all_gather(mine.dump());
  for (int rank = 0; rank < world.size(); ++rank) {
    ordered_json of_rank = ordered_json::parse(texts[rank]);
    for (std::size_t i = 0; i < of_rank.size(); ++i)
      done[rank + i * world.size()] = std::move(of_rank[i]);
  }
  return done;
}

}  // namespace

ExitStatus analyze_command(Config given, const Communicator& world) {
  check_results(given, world);
  const int num_eigenvalues = given.eigenvalues;
  const Config config = of_one_rank(complete_plan(std::move(given), world).config, world);

  const Communicator alone = Communicator::alone();
  std::optional<RunPlan> plan;
  world.agree([&] {
    plan = make_plan(config, alone.size());
    check_sizes(plan->architecture, num_eigenvalues);
  });
  const Grid grid = make_grid(*plan, alone);
  std::optional<RecordedSweep> sweep, without_grid;
  world.agree([&] {
    sweep.emplace(*plan, grid);
    if (!world.is_root() || config.grid_bits == 0) return;
    Config free = config;
    free.grid_bits = 0;
    without_grid.emplace(make_plan(std::move(free), alone.size()), grid, &*sweep);
  });

  NetworkAnalysis analysis(*sweep, num_eigenvalues);
  const std::vector<ordered_json> done = do_tasks(analysis, world);
  world.agree([&] {
    if (!world.is_root()) return;
    const Architecture& architecture = sweep->architecture();
    ordered_json result{{"arch", architecture.rule().name},
                        {"depth", architecture.depth()},
                        {"step_size", architecture.step_size()},
                        {"grid_bits", architecture.grid_bits()},
                        {"stability_bound", architecture.rule().stability_bound},
                        {"checkpoint", config.checkpoint},
                        {"dataset", config.dataset},
                        {"split", to_string(sweep->network().plan().split)},
                        {"samples", sweep->network().plan().config.samples},
                        {"loss", sweep->report().loss},
                        {"out_of_range", sweep->report().range.out_of_range}};
    result.update(analysis.finish(done, without_grid ? &*without_grid : nullptr));
    if (!config.json_to_stdout()) print_result(analysis_report(result));
    write_json_result(config, result);
  });
  return ExitStatus::success;
}

}  // namespace revode
