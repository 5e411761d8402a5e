// A checkpoint's config: written from Config, and laid beneath the options that were given. Knows
// JSON, not HDF5.
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/config/config.hpp"
#include "revode/core/error.hpp"
#include "revode/data/dataset.hpp"
#include "revode/files/json_text.hpp"

#include "config/options.hpp"

namespace revode {
namespace {

/// The stored value of `option`; nothing where the file has none. A model that lacks one of its own
/// keys is refused.
std::optional<Value> stored_value(const Option& option, const nlohmann::json& stored,
                                  std::string_view file) {
  const auto item = stored.find(option.name);
  if (item == stored.end() || item->is_null()) {
    REVODE_REQUIRE(option.stored != Stored::model,
                   "{}: its config has no '{}', which a model needs (beside arch, blocks, widths, "
                   "step-size, grid-bits, classes and image)",
                   file, option.name);
    return std::nullopt;
  }
  return value_from_json(option, *item, fmt::format("{}: '{}' in its config", file, option.name));
}

void check_agreement(const Option& option, const Value& given, const Value& stored, StoredUse use,
                     std::string_view file) {
  const bool of_model = option.stored == Stored::model;
  const bool of_run = option.stored == Stored::run && use == StoredUse::resume;
  if ((!of_model && !of_run) || given == stored) return;
  throw input_error("--{} {} contradicts the {} stored in {}: leave it out, or {}", option.name,
                    to_text(given), to_text(stored), file,
                    of_model ? "read a checkpoint that was made with it"
                             : "start a new run from these weights with --checkpoint");
}

/// The size of the stored images: N of [channels, N, N], where images of that size can be drawn.
std::optional<int> drawn_size(const nlohmann::json& image) {
  const bool is_shape = image.size() == 3 && image[1].is_number_integer() && image[1] == image[2];
  if (!is_shape || image[1] < smallest_image_size || image[1] > largest_image_size)
    return std::nullopt;
  return image[1].get<int>();
}

/// The images that the model was made for must be those of the dataset, and have that size where
/// they are drawn.
void apply_images(Config& config, const nlohmann::json& stored, std::string_view file) {
  if (!config.given("image-size")) config.image_size.reset();
  const DatasetInfo info = dataset_info(config.dataset, config.image_size);
  const auto classes = stored.find("classes");
  REVODE_REQUIRE(classes != stored.end() && classes->is_number_integer(),
                 "{}: its config has no whole number 'classes', which a model needs", file);
  REVODE_REQUIRE(*classes == info.num_classes,
                 "--dataset {} has {} classes, the model in {} has {}: give the dataset that it is "
                 "for",
                 config.dataset, info.num_classes, file, to_text(*classes));
  const auto image = stored.find("image");
  REVODE_REQUIRE(image != stored.end() && image->is_array(),
                 "{}: its config has no 'image' = [channels, height, width], which a model needs",
                 file);
  if (info.is_drawn() && !config.image_size) config.image_size = drawn_size(*image);
  const ImageShape shape = dataset_info(config.dataset, config.image_size).image;
  const nlohmann::json expected = {shape.channels, shape.height, shape.width};
  REVODE_REQUIRE(*image == expected || !config.given("image-size"),
                 "--image-size {} contradicts the images of shape {} that the model in {} takes: "
                 "leave it out",
                 config.image_size.value_or(0), to_text(*image), file);
  REVODE_REQUIRE(*image == expected,
                 "--dataset {} has images of shape {}, the model in {} takes {}: give the dataset "
                 "that it is for",
                 config.dataset, to_text(expected), file, to_text(*image));
}

}  // namespace

nlohmann::json config_to_json(const Config& config) {
  nlohmann::json json = nlohmann::json::object();
  for (const Option& option : option_table()) {
    if (option.stored == Stored::no) continue;
    if (const std::optional<Value> value = get_value(option, config)) {
      json[option.name] = to_json(*value);
    }
  }
  return json;
}

void apply_stored(Config& config, const nlohmann::json& stored, StoredUse use,
                  std::string_view file) {
  REVODE_REQUIRE(stored.is_object(), "{}: its config is {}, expected a JSON object of options",
                 file, stored.type_name());
  for (const Option& option : option_table()) {
    if (option.stored == Stored::no) continue;
    const std::optional<Value> value = stored_value(option, stored, file);
    if (!value) continue;
    if (!config.given(option.name)) {
      set_value(option, config, *value);
    } else {
      const std::optional<Value> given = get_value(option, config);
      if (given) check_agreement(option, *given, *value, use, file);
    }
  }
  // A smaller batch than the stored one may be too small for the stored cut: fall back to the
  // default one.
  if (use == StoredUse::model && !config.given("micro-batches") &&
      config.micro_batches.value_or(1) > mini_batch_size(config)) {
    config.micro_batches.reset();
  }
  apply_images(config, stored, file);
  check_config(config);
}

}  // namespace revode
