// Which arrays of the network go into which datasets of a checkpoint, and the state of a run beside
// them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/config/config.hpp"
#include "revode/train/network.hpp"

namespace revode {

struct CheckpointContents;

enum class ArraySet { all, trainable };

/// The rows of the flat array `values` under `group` ("/model", "/optimizer/momentum"), in
/// checkpoint order.
std::vector<ArraySlice> array_slices(const ParameterMap& map, ArraySet set,
                                     const std::string& group, float* values);
/// The same of all of a rank's shares, piece behind piece: as many of each array on every rank.
/// values(share) is the flat array.
std::vector<ArraySlice> array_slices(const Network& network, ArraySet set, const std::string& group,
                                     const std::function<float*(Share<float>&)>& values);
/// Weights under /model, velocities under /optimizer/momentum.
std::vector<ArraySlice> model_slices(const Network& network);
std::vector<ArraySlice> momentum_slices(const Network& network);

/// The `config` attribute: what determines the numbers, with the shape of images and the number of
/// classes.
nlohmann::json stored_config(const Config& config, const Architecture& architecture);

/// Replicas hold the same: the first one's ranks write it, the others' have no rows to write.
void keep_rows_of_first_replica(const Grid& grid, CheckpointContents& contents);

/// Collective over all ranks: the ranks of the first replica write the rows of the file.
void write_together(const Grid& grid, const std::filesystem::path& file,
                    CheckpointContents contents);

/// Reads /model into the network and hands it to the backend; refuses values that are not finite,
/// variances below 0 and standard deviations that are not above. Collective.
void load_model(const CheckpointReader& reader, const std::string& file, Network& network);

/// The shares' velocities <- /optimizer/momentum, where an array is trained; refuses values that
/// are not finite. Collective.
void load_momentum(const CheckpointReader& reader, const std::string& file, Network& network);

/// What tells the images that a run trains on from others.
struct TrainingData {
  std::int64_t samples = 0;
  std::string digest;  ///< DataFeed::digest()
};
/// Puts it into a checkpoint's config, as "train-samples" and "train-digest", keys that no option
/// has.
void store_training_data(const TrainingData& data, nlohmann::json& config);
/// Nothing where the file is from before it was stored. Throws an input error where it can't be
/// meant.
std::optional<TrainingData> training_data_of(const nlohmann::json& config, const std::string& file);

/// The first of a rank's arrays in which there is a value that is not finite:
/// "/model/stage_1/kernel (coupling 3)", say.
std::optional<std::string> first_non_finite(const ParameterMap& map, const float* values,
                                            const float* velocity);

/// Which arrays a file must hold: to evaluate and to start from its weights, or to be resumed.
enum class StoredArrays { model, model_and_momentum };

/// Throws an input error where an array that the network needs is missing or of another shape or
/// type: known before the network, as large as the file's config claims, is made. Takes time in the
/// number of stages alone. Collective where the reader is.
void check_arrays(const CheckpointReader& reader, const Architecture& architecture,
                  StoredArrays arrays);

/// One line on standard error where damage to the file could not be seen.
void note_missing_checksums(const CheckpointReader& reader, const std::string& file);

}  // namespace revode
