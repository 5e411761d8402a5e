// The machine file: what layers took where they were measured, to cut and plan by without measuring
// again. JSON; written by `bench --machine-file FILE`, read by `--machine FILE`.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/model/architecture.hpp"
#include "revode/pipeline/layer_costs.hpp"

namespace revode {

/// One entry a time rank, or one where they are alike: each layer of the network with its seconds
/// for one image, forward and back, from costs in nanoseconds of `micro_batch` images.
nlohmann::ordered_json machine_ranks(const Architecture& architecture,
                                     const std::vector<LayerCosts>& costs, int micro_batch);

/// Text of the file, to be understood by costs_of_machine(). For one process. Throws an input
/// error.
std::string read_machine_file(const std::string& file);

/// Costs in nanoseconds of `micro_batch` images, of each time rank or one for all, from the text of
/// a machine file. Throws input errors that name the file, and the layer that it lacks.
std::vector<LayerCosts> costs_of_machine(const std::string& text, const std::string& file,
                                         const Architecture& architecture, int num_time_ranks,
                                         int micro_batch);

}  // namespace revode
