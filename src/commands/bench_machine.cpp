#include "commands/bench_machine.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "revode/comm/network_speed.hpp"
#include "revode/config/config.hpp"
#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/core/spread.hpp"
#include "revode/core/units.hpp"
#include "revode/files/durable_files.hpp"
#include "revode/files/host.hpp"
#include "revode/train/layer_timing.hpp"
#include "revode/train/machine_file.hpp"
#include "revode/train/replicas.hpp"

namespace revode {
namespace {

/// Seconds of a step for each parameter of a rank, on the slowest: what is done with gradients once
/// they are there. Collective.
double update_value(const Network& network, const Measurements& seen) {
  double seconds = 0, parameters = 0;
  for (const Phase phase : {Phase::regularization, Phase::optimizer})
    seconds += spread_of(seen.seconds_of(phase, 0)).median;
  for (const auto& share : network.shares()) parameters += static_cast<double>(share->map().size());
  const double mine = seconds / parameters;
  return std::ranges::max(network.grid().world().all_gather(std::span<const double>(&mine, 1)));
}

/// Seconds of a rank for each 64-bit sum that it adds to and passes on where ranks add up as around
/// a ring: replicas, or time ranks where there is one replica. In buckets, as gradients are; all
/// rings at once. 0 on one rank. Collective.
double summed_value(const Grid& grid) {
  const Communicator& ring = grid.data().size() > 1 ? grid.data() : grid.time();
  if (grid.world().size() == 1) return 0;
  constexpr std::size_t num_buckets = 4;
  constexpr int num_rounds = 7;  // the first touches what the library needs
  std::vector<double> seconds;
  for (int round = 0; round < num_rounds; ++round) {
    std::vector<std::int64_t> sums(num_buckets * bucket_entries, 1);
    const std::span<std::int64_t> all(sums);
    grid.world().barrier();
    const auto begin = std::chrono::steady_clock::now();
    std::vector<Request> requests;
    for (std::size_t bucket = 0; bucket < num_buckets; ++bucket)
      requests.push_back(ring.sum(all.subspan(bucket * bucket_entries, bucket_entries)));
    for (Request& request : requests) request.wait();
    if (round > 0) seconds.push_back(seconds_since(begin));
  }
  const double passes = 2.0 * (ring.size() - 1) / ring.size();
  const double mine =
      spread_of(seconds).median / (passes * static_cast<double>(num_buckets * bucket_entries));
  return std::ranges::max(grid.world().all_gather(std::span<const double>(&mine, 1)));
}

/// Bytes a second that are written beside `file` until they are on the disk, as a save does it:
/// room for 64 MiB first, then these, which are removed again. Throws a run error.
double measure_disk_rate(const std::filesystem::path& file) {
  const std::vector<std::byte> bytes(std::size_t{64} << 20, std::byte{0x5a});
  TemporaryFile temporary;
  temporary.make_beside(file);
  const auto begin = std::chrono::steady_clock::now();
  reserve_space(temporary.path(), bytes.size(), temporary.path());
  write_pieces(temporary.path(), {{bytes.data(), bytes.size(), 0}}, temporary.path());
  return static_cast<double>(bytes.size()) / seconds_since(begin);
}

}  // namespace

nlohmann::ordered_json machine_of(Network& network, const Measurements& seen) {
  const RunPlan& plan = network.plan();
  const int micro_batch = network.largest_micro_batch();
  const MemoryUse use = memory_use(), on_device = device_memory_use();
  const auto peak = [&](Memory category) {
    return static_cast<double>(use.peak(category) + on_device.peak(category));
  };
  std::vector<TimedMicroBatch> timed{{micro_batch, plan.costs}};
  for (int images = micro_batch / 2; images >= 1; images /= 2)
    timed.push_back({images, agree_on_costs(plan, time_layers(plan, network.backend(), images),
                                            network.grid())});
  std::optional<double> checkpoint_rate;  // of the rank that prints
  if (network.grid().is_printer()) {
    try {
      checkpoint_rate = measure_disk_rate(plan.config.machine_file);
    } catch (const Error& error) {
      print_note(fmt::format("{}; the machine file says nothing of the disk", error.what()));
    }
  }
  nlohmann::ordered_json machine{
      {"host", host_name()},
      {"processor", processor_name()},
      {"backend", network.backend().description()},
      {"threads", network.num_threads()},
      {"processors", sysconf(_SC_NPROCESSORS_ONLN)},
      {"precision", plan.config.precision},
      {"activations", plan.config.activations},
      {"micro_batch", micro_batch},
      {"update_value_seconds", update_value(network, seen)},
      {"kernel_copies", peak(Memory::packed_weights) / peak(Memory::weights)},
      {"revision", source_revision()},
      {"date", utc_time()}};
  if (const int devices = network.backend().num_devices()) machine["devices"] = devices;
  if (const double value = summed_value(network.grid()); value > 0)
    machine["summed_value_seconds"] = value;
  if (checkpoint_rate) machine["checkpoint_bytes_per_second"] = *checkpoint_rate;
  if (const auto network_speed = measure_network(network.grid().world(), network.grid().hosts()))
    machine["network"] = {{"latency_seconds", network_speed->latency_seconds},
                          {"bytes_per_second", network_speed->bytes_per_second},
                          {"source", fmt::format("measured between {} and {}", network_speed->first,
                                                 network_speed->second)}};
  machine["ranks"] = machine_ranks(plan.architecture, timed);
  return machine;
}

}  // namespace revode
