// The machine file: what layers took where they were measured, to cut and plan by without measuring
// again. JSON; written by `bench --machine-file FILE`, read by `--machine FILE`.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/model/architecture.hpp"
#include "revode/pipeline/layer_costs.hpp"

namespace revode {

/// Nanoseconds of a micro-batch, of each time rank or one for all.
struct TimedMicroBatch {
  int images;
  std::vector<LayerCosts> costs;
};

/// One entry a time rank, or one where they are alike: each layer of the network with its seconds
/// for one image, forward and back, in micro-batches of every size that was timed. The first one
/// says what messages cost.
nlohmann::ordered_json machine_ranks(const Architecture& architecture,
                                     const std::vector<TimedMicroBatch>& timed);

/// Text of the file, to be understood by costs_of_machine(). For one process. Throws an input
/// error.
std::string read_machine_file(const std::string& file);

/// Ranks whose layers the text of a machine file tells: one for all, or each time rank of a run.
/// Throws an input error.
int num_machine_ranks(const std::string& text, const std::string& file);

/// Copies of each weight that the kernels keep in layouts of their own, 1 where the file does not
/// say it. Throws an input error.
double kernel_copies_of_machine(const std::string& text, const std::string& file);

/// --activations of the bench that wrote the file, empty where it does not say it. Throws an input
/// error.
std::string activations_of_machine(const std::string& text, const std::string& file);

/// Costs in nanoseconds of `micro_batch` images, of each time rank or one for all, from the text of
/// a machine file: between two sizes that were timed on a straight line, beyond them in proportion
/// to the images. Throws input errors that name the file, and the layer that it lacks.
std::vector<LayerCosts> costs_of_machine(const std::string& text, const std::string& file,
                                         const Architecture& architecture, int num_time_ranks,
                                         int micro_batch);

}  // namespace revode
