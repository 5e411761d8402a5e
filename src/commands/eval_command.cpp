// revode eval: loss and accuracy of a checkpoint on samples of a split; the logits on request.
#include <algorithm>
#include <chrono>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/console.hpp"
#include "revode/run/run_log.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/evaluation.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/report.hpp"

#include "commands/commands.hpp"
#include "commands/stored_model.hpp"

namespace revode {

ExitStatus eval_command(Config given, const Communicator& world) {
  check_results(given, world);
  const RunPlan plan = complete_plan(std::move(given), world);
  const Grid grid = make_grid(plan, world);
  const Config& config = plan.config;
  ChosenSamples samples = choose_samples(plan, grid);
  const std::int64_t count = samples.size();
  const std::unique_ptr<Network> network =
      load_network(plan, grid, std::min(config.batch_size, samples.size()));
  normalise(samples, *network);

  const int classes = network->architecture().num_classes();
  std::vector<float> logits, labels;
  const bool has_logits = network->last_share() != nullptr;
  if (!config.output.empty() && has_logits) {
    logits.resize(count * classes);
    for (const std::int64_t index : samples.indices) labels.push_back(samples.feed->label(index));
  }
  const auto begin = std::chrono::steady_clock::now();
  const Evaluation result =
      evaluate(*network, *samples.feed, samples.indices, config.output.empty() ? nullptr : &logits);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;

  if (!config.output.empty()) {
    write_together(grid, behind_links(config.output),
                   {.config = stored_config(config, network->architecture()),
                    .root_attributes = {{"loss", result.loss}, {"accuracy", result.accuracy}},
                    .progress = Attributes::object(),
                    .arrays = {rows_of_one_rank(has_logits, "/logits", count, {classes}, logits),
                               rows_of_one_rank(has_logits, "/labels", count, {}, labels)}});
  }
  const MemoryReport memory = gather_memory(world);
  if (!grid.is_printer()) return ExitStatus::success;
  for (const Damage& damage : result.repeated)
    print_note(fmt::format("{}; the evaluation was repeated", to_string(damage)));
  if (!config.json_to_stdout())
    print_result("{} on the {} split of {}: loss {:.6f}, accuracy {:.4f}, {} samples\n",
                 config.checkpoint, to_string(plan.split), config.dataset, result.loss,
                 result.accuracy, format_count(result.samples));
  write_json_result(config,
                    {{"loss", result.loss},
                     {"accuracy", result.accuracy},
                     {"samples", result.samples},
                     {"images_per_second", static_cast<double>(result.samples) / seconds.count()},
                     {"split", to_string(plan.split)},
                     {"dataset", config.dataset},
                     {"checkpoint", config.checkpoint},
                     {"peak_memory_bytes", memory.peak_resident}});
  return ExitStatus::success;
}

}  // namespace revode
