// revode gradient: loss and gradient of chosen samples as one mini-batch in training mode; nothing
// is updated.
#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/console.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/replicas.hpp"
#include "revode/train/report.hpp"
#include "revode/train/training_step.hpp"

#include "commands/commands.hpp"
#include "commands/stored_model.hpp"

namespace revode {

ExitStatus gradient_command(Config given, const Communicator& world) {
  check_results(given, world);
  const RunPlan plan = complete_plan(std::move(given), world);
  const Grid grid = make_grid(plan, world);
  const Config& config = plan.config;
  ChosenSamples samples = choose_samples(plan, grid);
  const std::unique_ptr<Network> network = load_network(plan, grid, samples.size());
  normalise(samples, *network);

  TrainingStep training(*network);
  const MiniBatchSource source =
      samples.feed->mini_batch(samples.indices, 0, plan.num_micro_batches);
  const auto classes = static_cast<std::size_t>(network->architecture().num_classes());
  std::vector<float> logits;
  if (network->last_share() != nullptr) logits.resize(source.size() * classes);
  const StepReport report =
      training.compute_gradient(source, false, [&](int m, std::span<const float> values) {
        std::ranges::copy(values, logits.begin() + source.first_sample(m) * classes);
      });
  if (!logits.empty()) share_rows(grid, source, classes, logits);
  training.require_finite(source, report, fmt::format("samples {}", config.samples));

  if (!config.output.empty()) {
    // Another program that is to compute the same needs the samples.
    std::vector<float> images, labels;
    for (const std::int64_t index : samples.indices) {
      labels.push_back(samples.feed->label(index));
      if (grid.is_reader())
        std::ranges::copy(samples.feed->pixels(index), std::back_inserter(images));
    }
    CheckpointContents contents{
        .config = stored_config(config, network->architecture()),
        .root_attributes = {{"loss", report.loss}, {"regularization", report.regularization}},
        .progress = Attributes::object(),
        .arrays = array_slices(*network, ArraySet::trainable, "/model", [](Share<float>& share) {
          return share.gradient().read_values().data();
        })};
    const Architecture& of = network->architecture();
    contents.arrays.push_back(
        rows_of_one_rank(!logits.empty(), "/logits", source.size(), {of.num_classes()}, logits));
    contents.arrays.push_back(
        rows_of_one_rank(grid.is_reader(), "/images", source.size(),
                         {of.image_channels(), of.image_height(), of.image_width()}, images));
    contents.arrays.push_back(
        rows_of_one_rank(!logits.empty(), "/labels", source.size(), {}, labels));
    write_together(grid, behind_links(config.output), contents);
  }
  const MemoryReport memory = gather_memory(world);
  if (!grid.is_printer()) return ExitStatus::success;
  if (!config.json_to_stdout())
    print_result(
        "samples {} of the {} split of {}: loss {:.6f}, regularization {:.6f}, norm of the "
        "gradient {:.6g}\n",
        config.samples, to_string(plan.split), config.dataset, report.loss, report.regularization,
        report.gradient_norm);
  write_json_result(config, {{"loss", report.loss},
                             {"regularization", report.regularization},
                             {"gradient_norm", report.gradient_norm},
                             {"accuracy", static_cast<double>(report.num_correct) /
                                              static_cast<double>(report.num_samples)},
                             {"samples", report.num_samples},
                             {"out_of_range", report.range.out_of_range},
                             {"rounded_to_zero", report.range.rounded_to_zero},
                             {"peak_memory_bytes", memory.peak_resident}});
  return ExitStatus::success;
}

}  // namespace revode
