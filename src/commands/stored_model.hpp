// What eval and gradient share: a model from --checkpoint (or initial weights), and samples of a
// split to feed it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "revode/checkpoint/array_slice.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/train/data_feed.hpp"
#include "revode/train/network.hpp"

namespace revode {

/// Fills config from the checkpoint's (if one is given), and plans what it asks for. Collective;
/// errors are shared.
RunPlan complete_plan(Config config, const Communicator& world);

/// The samples of the split that the plan names.
struct ChosenSamples {
  std::unique_ptr<DataFeed> feed;
  std::vector<std::int64_t> indices;
  /// What initial weights go with; computed when it is first asked for.
  std::optional<ChannelStatistics> train_statistics;

  int size() const { return static_cast<int>(indices.size()); }
};
/// Collective; errors are shared.
ChosenSamples choose_samples(const RunPlan& plan, const Grid& grid);

/// The network with the weights of --checkpoint, or its initial ones, for mini-batches of up to
/// `mini_batch` images. Collective.
std::unique_ptr<Network> load_network(const RunPlan& plan, const Grid& grid, int mini_batch);

/// The samples are fed as the model of --checkpoint wants them, or as training from initial weights
/// would; without augmentation. Collective.
void normalise(ChosenSamples& samples, Network& network);

/// Collective. Refuses result files that may not be written, and --output in a folder that the
/// ranks do not share.
void check_results(const Config& config, const Communicator& world);

/// All rows of an array that one rank of each replica holds, as a slice for writing; `is_here`: it
/// is this one.
ArraySlice rows_of_one_rank(bool is_here, const std::string& path, std::int64_t rows,
                            std::vector<std::int64_t> trailing_shape, std::vector<float>& values);

}  // namespace revode
