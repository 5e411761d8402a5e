#include "revode/train/model_file.hpp"

#include <algorithm>
#include <cmath>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"

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

nlohmann::json stored_config(const Config& config, const Architecture& architecture) {
  nlohmann::json json = config_to_json(config);
  json["classes"] = architecture.num_classes();
  json["image"] = {architecture.image_channels(), architecture.image_height(),
                   architecture.image_width()};
  return json;
}

void load_model(const CheckpointReader& reader, const std::string& file, Network& network) {
  for (const ArraySlice& slice :
       array_slices(network.map(), ArraySet::all, "/model", network.values().data()))
    reader.read(slice);
  network.communicator().agree([&] {
    for (const ParameterEntry* entry : network.map().entries()) {
      const float* begin = network.values().data() + entry->offset;
      const float* end = begin + entry->size();
      const float* bad =
          std::find_if(begin, end, [](float value) { return !std::isfinite(value); });
      REVODE_REQUIRE(
          bad == end, "{}: /model/{} holds {} in row {}: weights must be finite", file, entry->name,
          *bad, entry->first_row + (bad - begin) / static_cast<std::int64_t>(entry->row_size()));
    }
  });
  network.slice().load_weights();
}

void note_missing_checksums(const CheckpointReader& reader, const std::string& file) {
  if (reader.has_checksums()) return;
  print_note(
      fmt::format("'{}' has no checksums (it was not written by this version of revode): damage to it "
                  "would not be seen",
                  file));
}

Attributes to_attributes(const RunProgress& progress, std::uint64_t seed) {
  return {{"epoch", progress.epoch},
          {"step", progress.step},
          {"samples_seen", progress.samples_seen},
          {"seed", static_cast<std::int64_t>(seed)},
          {"learning_rate", progress.learning_rate},
          {"best_accuracy", progress.best_accuracy},
          {"epoch_loss_sum", progress.epoch_loss_sum},
          {"epoch_correct", progress.epoch_correct},
          {"epoch_samples", progress.epoch_samples},
          {"epoch_regularization_sum", progress.epoch_regularization_sum},
          {"out_of_range", progress.range.out_of_range},
          {"rounded_to_zero", progress.range.rounded_to_zero}};
}

RunProgress from_attributes(const Attributes& attributes, const std::string& file) {
  const auto number = [&]<typename T>(const char* name, T& value) {
    const auto found = attributes.find(name);
    REVODE_REQUIRE(found != attributes.end() && found->is_number(),
                   "{}: /progress has no number '{}', so this file can't be resumed; start from "
                   "its weights with --checkpoint",
                   file, name);
    value = found->template get<T>();
  };
  RunProgress progress;
  number("epoch", progress.epoch);
  number("step", progress.step);
  number("samples_seen", progress.samples_seen);
  number("learning_rate", progress.learning_rate);
  number("best_accuracy", progress.best_accuracy);
  number("epoch_loss_sum", progress.epoch_loss_sum);
  number("epoch_correct", progress.epoch_correct);
  number("epoch_samples", progress.epoch_samples);
  number("epoch_regularization_sum", progress.epoch_regularization_sum);
  number("out_of_range", progress.range.out_of_range);
  number("rounded_to_zero", progress.range.rounded_to_zero);
  return progress;
}

}  // namespace revode
