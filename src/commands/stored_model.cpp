#include "commands/stored_model.hpp"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "revode/core/error.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/start_point.hpp"
#include "revode/train/stored_options.hpp"

namespace revode {

RunPlan complete_plan(Config config, const Communicator& world) {
  if (!config.checkpoint.empty())
    fill_from_checkpoint(config, StoredUse::model, config.checkpoint,
                         CheckpointReader::Checksums::verify, world);
  return make_plan(config, world);
}

std::unique_ptr<Network> load_network(const RunPlan& plan, const Grid& grid, int mini_batch) {
  const std::string& file = plan.config.checkpoint;
  std::unique_ptr<CheckpointReader> reader;
  if (!file.empty()) {
    reader =
        std::make_unique<CheckpointReader>(file, grid.world().handle(),
                                           CheckpointReader::Checksums::ignore);  // verified before
    check_arrays(*reader, plan.architecture, StoredArrays::model);
  }
  auto network = std::make_unique<Network>(
      plan, grid, cut_evenly(mini_batch, std::min(plan.num_micro_batches, mini_batch)).front());
  if (reader) load_model(*reader, file, *network);
  return network;
}

ChosenSamples choose_samples(const RunPlan& plan, const Grid& grid) {
  const Config& config = plan.config;
  ChosenSamples chosen;
  chosen.feed = std::make_unique<DataFeed>(config, plan.split, 1, grid);
  const SampleRange range = plan.samples.value_or(SampleRange{0, chosen.feed->size()});
  grid.world().agree([&] {
    REVODE_REQUIRE(range.last <= chosen.feed->size(), "{}: the {} split of {} has {} samples",
                   config.given("samples") ? fmt::format("--samples {}", config.samples)
                                           : fmt::format("--batch-size {}", config.batch_size),
                   to_string(plan.split), config.dataset, chosen.feed->size());
  });
  chosen.indices.resize(range.size());
  std::iota(chosen.indices.begin(), chosen.indices.end(), range.first);
  return chosen;
}

namespace {

ChannelStatistics train_statistics(const Config& config) {
  const Dataset train = load_dataset(dataset_info(config.dataset, config.image_size),
                                     config.data_dir, Split::train, Contents::images_and_labels);
  std::vector<std::int64_t> all(train.size);
  std::iota(all.begin(), all.end(), std::int64_t{0});
  return channel_statistics(train, all);
}

}  // namespace

void normalise(ChosenSamples& samples, Network& network) {
  const Config& config = network.plan().config;
  const Grid& grid = network.grid();
  // Initial weights come without statistics: take those of the training split, as training would.
  grid.world().agree([&] {
    if (!grid.is_reader() || !config.checkpoint.empty()) return;
    if (!samples.train_statistics)
      samples.train_statistics = samples.feed->split() == Split::train ? samples.feed->statistics()
                                                                       : train_statistics(config);
    network.set_input_statistics(*samples.train_statistics);
  });
  if (grid.is_reader())
    samples.feed->set_transform(
        {.statistics = network.input_statistics(), .augment = false, .seed = config.seed},
        network.shared_backend());
}

void check_results(const Config& config, const Communicator& world) {
  world.agree([&] {
    if (world.is_root()) check_result_files(config);
  });
  if (config.output.empty()) return;
  const std::filesystem::path folder = std::filesystem::path(config.output).parent_path();
  check_folder_is_shared("--output", folder.empty() ? "." : folder, world);
}

ArraySlice rows_of_one_rank(bool is_here, const std::string& path, std::int64_t rows,
                            std::vector<std::int64_t> trailing_shape, std::vector<float>& values) {
  ArraySlice slice{
      .path = path, .shape = {rows}, .first_row = 0, .num_rows = 0, .data = values.data()};
  slice.shape.insert(slice.shape.end(), trailing_shape.begin(), trailing_shape.end());
  if (is_here) slice.num_rows = rows;
  return slice;
}

}  // namespace revode
