#include "revode/train/machine_file.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/core/error.hpp"
#include "revode/core/units.hpp"
#include "revode/files/json_text.hpp"

namespace revode {
namespace {

using Json = nlohmann::ordered_json;

constexpr double most_seconds = 1e6;  ///< of one image through one layer
constexpr double most_bytes_per_second = 1e15;
constexpr const char* devices_key = "devices";
constexpr const char* copied_key = "copied_value_seconds";
constexpr const char* latency_key = "message_latency_seconds";
constexpr const char* update_key = "update_value_seconds";
constexpr const char* summed_key = "summed_value_seconds";
constexpr const char* checkpoint_rate_key = "checkpoint_bytes_per_second";
constexpr const char* kernel_copies_key = "kernel_copies";

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

constexpr int most_images = 1'000'000;  ///< of a micro-batch

/// Seconds of an image, forward and back, by the images of its micro-batch.
using OfLayer = std::map<int, std::pair<double, double>>;
using Seconds = std::map<std::string, OfLayer>;  ///< by the names of layers

double number_in(const Json& object, const char* key, const std::string& file,
                 double most = most_seconds) {
  const bool good = object.is_object() && object.contains(key) && object[key].is_number() &&
                    object[key].get<double>() >= 0 && object[key].get<double>() < most;
  REVODE_REQUIRE(good,
                 "--machine {}: expected a number of at least 0 in '{}', found {}; revode bench "
                 "--machine-file FILE writes such a file",
                 file, key, to_text(object).substr(0, 100));
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
    const bool has_images = layer.contains("images") && layer["images"].is_number_integer() &&
                            layer["images"].get<double>() >= 1 &&
                            layer["images"].get<double>() <= most_images;
    REVODE_REQUIRE(has_images,
                   "--machine {}: expected a number of images in 'images', found {}; revode bench "
                   "--machine-file FILE writes it",
                   file, to_text(layer).substr(0, 100));
    seconds[layer["layer"].get<std::string>()][layer["images"].get<int>()] = {
        number_in(layer, "forward_seconds", file), number_in(layer, "back_seconds", file)};
  }
  return seconds;
}

/// Nanoseconds of a micro-batch.
SweepCost cost_of(const OfLayer& timed, int images) {
  const auto total = [](const OfLayer::value_type& at, int of_images) {
    return std::pair{at.second.first * of_images, at.second.second * of_images};
  };
  const auto upper = timed.lower_bound(images);
  std::pair<double, double> seconds;
  if (upper == timed.end()) {
    seconds = total(*timed.rbegin(), images);
  } else if (upper == timed.begin()) {
    seconds = total(*upper, images);
  } else {
    const auto lower = std::prev(upper);
    const auto low = total(*lower, lower->first), high = total(*upper, upper->first);
    const double part = double{1} * (images - lower->first) / (upper->first - lower->first);
    seconds = {std::lerp(low.first, high.first, part), std::lerp(low.second, high.second, part)};
  }
  return {std::llround(seconds.first * giga), std::llround(seconds.second * giga)};
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

Json machine_ranks(const Architecture& architecture, const std::vector<TimedMicroBatch>& timed) {
  std::size_t num_ranks = 1;
  for (const TimedMicroBatch& one : timed) num_ranks = std::max(num_ranks, one.costs.size());
  Json ranks = Json::array();
  for (std::size_t rank = 0; rank < num_ranks; ++rank) {
    const auto of_rank = [&](const TimedMicroBatch& one) -> const LayerCosts& {
      return one.costs[one.costs.size() == 1 ? 0 : rank];
    };
    Json layers = Json::array();
    for (const TimedMicroBatch& one : timed)
      for_each_layer(architecture, of_rank(one),
                     [&](const std::string& name, const SweepCost& cost) {
                       const auto of_image = [&](std::int64_t nanoseconds) {
                         return static_cast<double>(nanoseconds) / giga / one.images;
                       };
                       layers.push_back({{"layer", name},
                                         {"images", one.images},
                                         {"forward_seconds", of_image(cost.forward)},
                                         {"back_seconds", of_image(cost.back)}});
                     });
    ranks.push_back({{"message_value_seconds", of_rank(timed.front()).message_value / giga},
                     {copied_key, of_rank(timed.front()).copied_value / giga},
                     {latency_key, of_rank(timed.front()).message_latency / giga},
                     {"layers", layers}});
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

MachineFile::MachineFile(const std::string& text, std::string file)
    : file_(std::move(file)), machine_(parse(text, file_)) {}

int MachineFile::num_ranks() const { return static_cast<int>(machine_["ranks"].size()); }

double MachineFile::update_value() const {
  return machine_.contains(update_key) ? giga * number_in(machine_, update_key, file_) : 0;
}

double MachineFile::summed_value() const {
  return machine_.contains(summed_key) ? giga * number_in(machine_, summed_key, file_) : 0;
}

double MachineFile::checkpoint_rate() const {
  return machine_.contains(checkpoint_rate_key)
             ? number_in(machine_, checkpoint_rate_key, file_, most_bytes_per_second)
             : 0;
}

double MachineFile::kernel_copies() const {
  return machine_.contains(kernel_copies_key) ? number_in(machine_, kernel_copies_key, file_) : 1;
}

NodeLayout MachineFile::nodes() const {
  NodeLayout nodes;
  const auto at_least_one = [&](const char* key) {
    constexpr double most = 1e5;
    return std::max(1, static_cast<int>(number_in(machine_, key, file_, most)));
  };
  nodes.has_devices = machine_.contains(devices_key);
  if (machine_.contains("threads")) nodes.cores_of_a_rank = at_least_one("threads");
  if (nodes.has_devices)
    nodes.ranks_per_node = at_least_one(devices_key);
  else if (machine_.contains("processors") && machine_.contains("threads"))
    nodes.ranks_per_node = std::max(1, at_least_one("processors") / nodes.cores_of_a_rank);
  if (machine_.contains("network")) {
    const Json& network = machine_["network"];
    nodes.network = {number_in(network, "latency_seconds", file_),
                     number_in(network, "bytes_per_second", file_, most_bytes_per_second)};
    REVODE_REQUIRE(nodes.network->bytes_per_second > 0,
                   "--machine {}: expected more than 0 in 'bytes_per_second' of its network",
                   file_);
  }
  return nodes;
}

std::string MachineFile::activations() const {
  return machine_.contains("activations") && machine_["activations"].is_string()
             ? machine_["activations"].get<std::string>()
             : "";
}

std::vector<LayerCosts> MachineFile::costs(const Architecture& architecture, int num_time_ranks,
                                           int micro_batch) const {
  REVODE_REQUIRE(num_ranks() == 1 || num_ranks() == num_time_ranks,
                 "--machine {}: its {} ranks are of unequal speed, and this run has {} time ranks: "
                 "revode bench --machine-file FILE on as many writes one",
                 file_, num_ranks(), num_time_ranks);
  std::vector<LayerCosts> costs;
  for (const Json& rank : machine_["ranks"]) {
    const Seconds seconds = seconds_of(rank, file_);
    LayerCosts& of_rank = costs.emplace_back(uniform_costs(architecture));
    of_rank.message_value = giga * number_in(rank, "message_value_seconds", file_);
    of_rank.copied_value = rank.contains(copied_key) ? giga * number_in(rank, copied_key, file_)
                                                     : of_rank.message_value;
    if (rank.contains(latency_key))
      of_rank.message_latency = giga * number_in(rank, latency_key, file_);
    for_each_layer(architecture, of_rank, [&](const std::string& name, SweepCost& cost) {
      const auto found = seconds.find(name);
      REVODE_REQUIRE(
          found != seconds.end(),
          "--machine {}: has no time of the layer '{}'; revode bench --machine-file FILE "
          "with the same --arch, --widths, --dataset and --image-size writes it",
          file_, name);
      cost = cost_of(found->second, micro_batch);
    });
  }
  return costs;
}

}  // namespace revode
