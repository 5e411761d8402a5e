#include "revode/train/machine_file.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"

namespace revode {
namespace {

using Json = nlohmann::ordered_json;

constexpr double giga = 1e9;
constexpr double most_seconds = 1e6;  ///< of one image through one layer

/// Calls visit(name, cost) for every layer; a name says all that its time depends on, but for batch
/// size and machine.
template <typename Costs, typename Visit>
void for_each_layer(const Architecture& architecture, Costs& costs, Visit&& visit) {
  const std::vector<Stage>& stages = architecture.stages();
  const auto planes = [](const Stage& stage) {
    return fmt::format("{} x {} x {}", stage.channels, stage.height, stage.width_pixels);
  };
  const std::string_view arch = architecture.rule().name;
  visit(fmt::format("{} opening {} -> {}", arch, architecture.image_channels(),
                    planes(stages.front())),
        costs.opening);
  for (std::size_t k = 0; k < stages.size(); ++k) {
    visit(fmt::format("{} block {}", arch, planes(stages[k])), costs.blocks[k]);
    visit(fmt::format("{} visit {}", arch, planes(stages[k])), costs.visits[k]);
  }
  for (std::size_t k = 0; k + 1 < stages.size(); ++k)
    visit(fmt::format("transition {} -> {}", planes(stages[k]), planes(stages[k + 1])),
          costs.transitions[k]);
  visit(fmt::format("{} closing {} -> {}", arch, planes(stages.back()), architecture.num_classes()),
        costs.closing);
}

/// Seconds of an image, by the names of layers.
using Seconds = std::map<std::string, std::pair<double, double>>;

double number_in(const Json& object, const char* key, const std::string& file) {
  const bool good = object.is_object() && object.contains(key) && object[key].is_number() &&
                    object[key].get<double>() >= 0 && object[key].get<double>() < most_seconds;
  REVODE_REQUIRE(good, "--machine {}: expected seconds in '{}', found {}", file, key,
                 to_text(object).substr(0, 100));
  return object[key].get<double>();
}

Seconds seconds_of(const Json& rank, const std::string& file) {
  Seconds seconds;
  REVODE_REQUIRE(rank.is_object() && rank.contains("layers") && rank["layers"].is_array(),
                 "--machine {}: expected a list 'layers' for each of its ranks", file);
  for (const Json& layer : rank["layers"]) {
    REVODE_REQUIRE(layer.is_object() && layer.contains("layer") && layer["layer"].is_string(),
                   "--machine {}: expected a layer with its name in 'layer', found {}", file,
                   to_text(layer));
    seconds[layer["layer"].get<std::string>()] = {number_in(layer, "forward_seconds", file),
                                                  number_in(layer, "back_seconds", file)};
  }
  return seconds;
}

Json parse(const std::string& text, const std::string& file) {
  Json machine = parse_ordered_json(text);
  REVODE_REQUIRE(
      machine.is_object() && machine.value("format", Json()) == "revode-machine" &&
          machine.contains("ranks") && machine["ranks"].is_array() && !machine["ranks"].empty(),
      "--machine {}: not a machine file; revode bench --machine-file FILE writes one", file);
  return machine;
}

}  // namespace

Json machine_ranks(const Architecture& architecture, const std::vector<LayerCosts>& costs,
                   int micro_batch) {
  Json ranks = Json::array();
  for (const LayerCosts& of_rank : costs) {
    Json layers = Json::array();
    for_each_layer(architecture, of_rank, [&](const std::string& name, const SweepCost& cost) {
      layers.push_back({{"layer", name},
                        {"forward_seconds", static_cast<double>(cost.forward) / giga / micro_batch},
                        {"back_seconds", static_cast<double>(cost.back) / giga / micro_batch}});
    });
    ranks.push_back({{"message_value_seconds", of_rank.message_value / giga}, {"layers", layers}});
  }
  return ranks;
}

std::string read_machine_file(const std::string& file) {
  std::error_code ignored;
  REVODE_REQUIRE(std::filesystem::is_regular_file(file, ignored),
                 "--machine {}: there is no such file", file);
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<LayerCosts> costs_of_machine(const std::string& text, const std::string& file,
                                         const Architecture& architecture, int num_time_ranks,
                                         int micro_batch) {
  const Json machine = parse(text, file);
  const std::size_t num_ranks = machine["ranks"].size();
  REVODE_REQUIRE(num_ranks == 1 || num_ranks == static_cast<std::size_t>(num_time_ranks),
                 "--machine {}: its {} ranks are of unequal speed, and this run has {} time ranks: "
                 "revode bench --machine-file FILE on as many writes one",
                 file, num_ranks, num_time_ranks);
  std::vector<LayerCosts> costs;
  for (const Json& rank : machine["ranks"]) {
    const Seconds seconds = seconds_of(rank, file);
    LayerCosts& of_rank = costs.emplace_back(uniform_costs(architecture));
    of_rank.message_value = giga * number_in(rank, "message_value_seconds", file);
    for_each_layer(architecture, of_rank, [&](const std::string& name, SweepCost& cost) {
      const auto found = seconds.find(name);
      REVODE_REQUIRE(
          found != seconds.end(),
          "--machine {}: has no time of the layer '{}'; revode bench --machine-file FILE "
          "with the same --arch, --widths and --dataset writes it",
          file, name);
      const auto nanoseconds = [&](double one) {
        return static_cast<std::int64_t>(std::llround(one * giga * micro_batch));
      };
      cost = {nanoseconds(found->second.first), nanoseconds(found->second.second)};
    });
  }
  return costs;
}

}  // namespace revode
