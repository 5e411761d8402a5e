#include "revode/train/model_file.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include <nlohmann/json.hpp>

#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"

namespace revode {

std::vector<ArraySlice> array_slices(const ParameterMap& map, ArraySet set,
                                     const std::string& group, float* values) {
  std::vector<ArraySlice> slices;
  for (const ParameterEntry* entry : map.entries()) {
    if (set == ArraySet::trainable && !entry->trainable) continue;
    slices.push_back({.path = group + "/" + entry->name,
                      .shape = entry->shape,
                      .first_row = entry->first_row,
                      .num_rows = entry->num_rows,
                      .data = values + entry->offset});
  }
  return slices;
}

std::vector<ArraySlice> array_slices(const Network& network, ArraySet set, const std::string& group,
                                     const std::function<float*(Share<float>&)>& values) {
  std::vector<std::vector<ArraySlice>> of_shares;
  for (const auto& share : network.shares())
    of_shares.push_back(array_slices(share->map(), set, group, values(*share)));
  std::size_t most_shares = 0;
  for (int rank = 0; rank < network.placement().num_ranks(); ++rank)
    most_shares = std::max(most_shares, network.placement().slices_of(rank).size());
  std::vector<ArraySlice> pieces;
  for (std::size_t array = 0; array < of_shares.front().size(); ++array) {
    for (std::size_t i = 0; i < most_shares; ++i) {
      pieces.push_back(of_shares[std::min(i, of_shares.size() - 1)][array]);
      if (i >= of_shares.size()) pieces.back().num_rows = 0;
    }
  }
  return pieces;
}

namespace {

/// The host side of an array as it is now; whoever changes it calls store().
float* read(StagedBuffer<float>& array) {
  array.fetch();
  return array.host().data();
}

}  // namespace

std::vector<ArraySlice> model_slices(const Network& network) {
  return array_slices(network, ArraySet::all, "/model",
                      [](Share<float>& share) { return read(share.values()); });
}

std::vector<ArraySlice> momentum_slices(const Network& network) {
  return array_slices(network, ArraySet::trainable, "/optimizer/momentum",
                      [](Share<float>& share) { return read(share.velocity()); });
}

nlohmann::json stored_config(const Config& config, const Architecture& architecture) {
  nlohmann::json json = config_to_json(config);
  json["classes"] = architecture.num_classes();
  json["image"] = {architecture.image_channels(), architecture.image_height(),
                   architecture.image_width()};
  return json;
}

namespace {

constexpr const char* train_samples_key = "train-samples";
constexpr const char* train_digest_key = "train-digest";

enum class Numbers { any, at_least_zero, above_zero };

/// What an array of the model may hold.
Numbers allowed_in(const std::string& name) {
  if (name == "input/std") return Numbers::above_zero;
  return name.ends_with("/norm/variance") ? Numbers::at_least_zero : Numbers::any;
}

/// Throws an input error where a value of this rank's rows is not finite or not as `allowed`.
void check_values(const std::string& file, const ArraySlice& rows, Numbers allowed) {
  const auto is_bad = [&](float value) {
    if (!std::isfinite(value)) return true;
    return allowed == Numbers::above_zero ? value <= 0
                                          : allowed == Numbers::at_least_zero && value < 0;
  };
  std::int64_t row_size = 1;
  for (std::size_t i = 1; i < rows.shape.size(); ++i) row_size *= rows.shape[i];
  const float* begin = rows.data;
  const float* end = begin + rows.num_rows * row_size;
  const float* bad = std::find_if(begin, end, is_bad);
  if (bad == end) return;
  throw input_error("{}: {} holds {} in row {}: {}", file, rows.path, *bad,
                    rows.first_row + (bad - begin) / row_size,
                    allowed == Numbers::above_zero      ? "expected finite numbers above 0"
                    : allowed == Numbers::at_least_zero ? "expected finite numbers of at least 0"
                    : rows.path.starts_with("/model/")  ? "weights must be finite"
                                                        : "expected finite numbers");
}

}  // namespace

void keep_rows_of_first_replica(const Grid& grid, CheckpointContents& contents) {
  if (grid.replica() == 0) return;
  for (ArraySlice& slice : contents.arrays) slice.num_rows = 0;
}

void write_together(const Grid& grid, const std::filesystem::path& file,
                    CheckpointContents contents) {
  keep_rows_of_first_replica(grid, contents);
  write_checkpoint(file, contents, grid.world().handle());
}

void load_model(const CheckpointReader& reader, const std::string& file, Network& network) {
  const std::vector<ArraySlice> slices = model_slices(network);
  for (const ArraySlice& slice : slices) reader.read(slice);
  network.grid().world().agree([&] {
    for (const ArraySlice& slice : slices)
      check_values(file, slice, allowed_in(slice.path.substr(std::string_view("/model/").size())));
  });
  for (const auto& share : network.shares()) share->values().store();
  network.load_weights();
}

void load_momentum(const CheckpointReader& reader, const std::string& file, Network& network) {
  const std::vector<ArraySlice> slices = momentum_slices(network);
  for (const ArraySlice& slice : slices) reader.read(slice);
  network.grid().world().agree([&] {
    for (const ArraySlice& slice : slices) check_values(file, slice, Numbers::any);
  });
  for (const auto& share : network.shares()) share->velocity().store();
}

void check_arrays(const CheckpointReader& reader, const Architecture& architecture,
                  StoredArrays arrays) {
  const ParameterMap map(architecture, {0, architecture.num_blocks()});
  for (const ParameterEntry* entry : map.entries()) {
    reader.check("/model/" + entry->name, entry->shape);
    if (arrays == StoredArrays::model_and_momentum && entry->trainable)
      reader.check("/optimizer/momentum/" + entry->name, entry->shape);
  }
}

void note_missing_checksums(const CheckpointReader& reader, const std::string& file) {
  if (reader.has_checksums()) return;
  print_note(fmt::format(
      "'{}' has no checksums (it was not written by this version of revode): damage to it "
      "would not be seen",
      file));
}

void store_training_data(const TrainingData& data, nlohmann::json& config) {
  config[train_samples_key] = data.samples;
  config[train_digest_key] = data.digest;
}

std::optional<TrainingData> training_data_of(const nlohmann::json& config,
                                             const std::string& file) {
  const auto samples = config.find(train_samples_key), digest = config.find(train_digest_key);
  if (samples == config.end() && digest == config.end()) return std::nullopt;
  const bool makes_sense = samples != config.end() && samples->is_number_integer() &&
                           *samples > 0 && digest != config.end() && digest->is_string();
  REVODE_REQUIRE(
      makes_sense,
      "{}: its config holds '{}' = {} and '{}' = {}, expected a whole number above 0 and a text",
      file, train_samples_key, samples == config.end() ? "nothing" : to_text(*samples),
      train_digest_key, digest == config.end() ? "nothing" : to_text(*digest));
  return TrainingData{samples->get<std::int64_t>(), digest->get<std::string>()};
}

std::optional<std::string> first_non_finite(const ParameterMap& map, const float* values,
                                            const float* velocity) {
  for (const ParameterEntry* entry : map.entries()) {
    for (const float* array : {values, velocity}) {
      if (array == velocity && !entry->trainable) continue;
      const float* begin = array + entry->offset;
      const float* end = begin + entry->size();
      const float* bad =
          std::find_if(begin, end, [](float value) { return !std::isfinite(value); });
      if (bad == end) continue;
      return fmt::format(
          "{}/{} (row {})", array == values ? "/model" : "/optimizer/momentum", entry->name,
          entry->first_row + (bad - begin) / static_cast<std::int64_t>(entry->row_size()));
    }
  }
  return std::nullopt;
}

}  // namespace revode
