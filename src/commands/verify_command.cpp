// revode verify: does this build, on this machine, keep its promises? Each check computes a
// gradient in two ways that must agree, or compares it with the loss itself.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/core/activity.hpp"
#include "revode/core/console.hpp"
#include "revode/core/random.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/training_step.hpp"

#include "commands/commands.hpp"
#include "commands/stored_model.hpp"

namespace revode {
namespace {

struct Check {
  std::string name, found, expected;
  bool passed = false;
};

/// Mini-batch of the checks unless --batch-size says otherwise: enough for several micro-batches,
/// quick on a laptop.
constexpr int default_batch = 16;

/// One network with its data, and the gradient of one mini-batch.
class Trial {
 public:
  /// like: a trial of the same images, which saves looking at all of them again.
  Trial(const RunPlan& plan, const Grid& grid, const Trial* like = nullptr)
      : samples_(choose_samples(plan, grid)),
        network_(load_network(plan, grid, plan.config.batch_size)),
        training_(*network_) {
    if (like != nullptr) samples_.train_statistics = like->samples_.train_statistics;
    normalise(samples_, *network_);
  }

  Network& network() { return *network_; }
  const Network& network() const { return *network_; }
  TrainingStep& training() { return training_; }
  /// One flat array a share.
  std::vector<std::span<const float>> gradient() {
    std::vector<std::span<const float>> arrays;
    for (const auto& share : network_->shares()) arrays.push_back(share->gradient().read_values());
    return arrays;
  }

  StepReport compute() {
    const MiniBatchSource source =
        samples_.feed->mini_batch(samples_.indices, 0, network_->plan().num_micro_batches);
    const StepReport report = training_.compute_gradient(source);
    training_.require_finite(source, report,
                             fmt::format("samples {}", network_->plan().config.samples));
    return report;
  }

 private:
  ChosenSamples samples_;
  std::unique_ptr<Network> network_;
  TrainingStep training_;
};

/// Values of `gradient` (flat, as `map`) whose bits differ from those of `other` (of more rows, as
/// its own map).
std::int64_t num_differing(const ParameterMap& map, std::span<const float> gradient,
                           const ParameterMap& other_map, std::span<const float> other) {
  std::int64_t differing = 0;
  const auto mine = map.entries(), others = other_map.entries();
  for (std::size_t e = 0; e < mine.size(); ++e) {
    const float* a = gradient.data() + mine[e]->offset;
    const float* b = other.data() + others[e]->offset +
                     (mine[e]->first_row - others[e]->first_row) * mine[e]->row_size();
    for (std::size_t i = 0; i < mine[e]->size(); ++i)
      differing += std::memcmp(a + i, b + i, sizeof(float)) != 0;
  }
  return differing;
}

std::int64_t sum_over_ranks(const Communicator& communicator, std::int64_t mine) {
  std::int64_t total = 0;
  for (const std::int64_t count : communicator.all_gather(mine)) total += count;
  return total;
}

Check equal_bits(std::string name, std::int64_t differing, std::int64_t size) {
  return {std::move(name),
          differing == 0 ? "equal in every bit"
                         : fmt::format("{} of {} values differ", differing, size),
          "equal in every bit", differing == 0};
}

double sum_over_ranks(const Communicator& communicator, double mine) {
  double sum = 0;
  for (const double value : communicator.all_gather(std::span<const double>(&mine, 1)))
    sum += value;
  return sum;
}

// ||rebuilt - original|| / ||original|| at the front of every slice; on the grid, and in its range,
// not one bit may differ.
Check check_round_trip(Trial& trial, const StepReport& report) {
  const Communicator& communicator = trial.network().grid().world();
  Comparison mine;
  for (const auto& share : trial.network().shares()) mine += share->slice().reversal();
  const double differing = sum_over_ranks(communicator, static_cast<double>(mine.num_differing));
  const double values = sum_over_ranks(communicator, static_cast<double>(mine.num_values));
  const double error = std::sqrt(sum_over_ranks(communicator, mine.squared_error) /
                                 sum_over_ranks(communicator, mine.squared_norm));
  const int grid_bits = trial.network().architecture().grid_bits();
  const bool exact = grid_bits > 0 && report.range.out_of_range == 0;
  // Off the grid every coupling adds a rounding error of 2^-24, which the way back may amplify.
  constexpr double loose = 1e-2;
  return {"round trip",
          differing == 0 ? "equal in every bit"
                         : fmt::format("{:.0f} of {:.0f} values differ, reversal error {:.2g}",
                                       differing, values, error),
          exact ? "equal in every bit"
                : fmt::format("reversal error < {:.0e} ({})", loose,
                              grid_bits == 0 ? "no grid" : "values left the exact range"),
          exact ? differing == 0 : error < loose};
}

/// One flat array a share.
using ShareArrays = std::vector<std::vector<float>>;

ShareArrays copy_weights(const Network& network) {
  ShareArrays copies;
  for (const auto& share : network.shares()) {
    const std::span<const float> values = share->values().read();
    copies.emplace_back(values.begin(), values.end());
  }
  return copies;
}

/// theta + step * direction; direction: normal numbers scaled to the size of each array's values.
void move_weights(Network& network, const ShareArrays& origin, const ShareArrays& direction,
                  double step) {
  for (std::size_t s = 0; s < origin.size(); ++s) {
    const std::span<float> values = network.shares()[s]->values().host();
    for (std::size_t i = 0; i < origin[s].size(); ++i)
      values[i] = static_cast<float>(origin[s][i] + step * direction[s][i]);
    network.shares()[s]->values().store();
  }
  network.load_weights();
}

/// Normal numbers from the stream of `seed`, scaled to what each array's values are like; the same
/// for every cut.
std::vector<float> draw_direction(const ParameterMap& map, std::uint64_t seed) {
  std::vector<float> direction(map.size());
  const auto entries = map.entries();
  for (std::size_t e = 0; e < entries.size(); ++e) {
    const ParameterEntry& entry = *entries[e];
    if (!entry.trainable) continue;
    for (std::int64_t row = 0; row < entry.num_rows; ++row) {
      RandomStream random(seed, Purpose::check, (e << 32) + entry.first_row + row);
      for (std::size_t i = 0; i < entry.row_size(); ++i)
        direction[entry.offset + row * entry.row_size() + i] = static_cast<float>(random.normal());
    }
    // Kernels of c channels hold values of about 1/(3 sqrt(c)); biases and shifts start at zero.
    const float scale =
        entry.shape.size() > 2
            ? 0.3f / std::sqrt(static_cast<float>(entry.shape[entry.shape.size() - 3]))
            : 0.1f;
    for (std::size_t i = entry.offset; i < entry.offset + entry.size(); ++i) direction[i] *= scale;
  }
  return direction;
}

ShareArrays draw_directions(const Network& network, std::uint64_t seed) {
  ShareArrays directions;
  for (const auto& share : network.shares())
    directions.push_back(draw_direction(share->map(), seed));
  return directions;
}

/// Slope of the straight line through (x, y) that has the least squared error.
double fitted_slope(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double covariance = 0, variance = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    covariance += (x[i] - mean_x) * (y[i] - mean_y);
    variance += (x[i] - mean_x) * (x[i] - mean_x);
  }
  return covariance / variance;
}

// Taylor: the remainder |L(theta + e d) - L(theta) - e g.d| over e halved again and again, as long
// as it exceeds what float arithmetic blurs; root mean square over several directions d; the slope
// of its logarithm. A wrong gradient gives slope 1, curvature 2. The kinks of ReLU give 3/2: along
// a step of length e about e * (number of units) of them are crossed, each contributing about e
// with either sign, so e * sqrt(e) in all; wide nets show 2, very narrow ones nearly 3/2. Biases of
// initial weights are zero, which puts flat parts of an image right on a kink: the test is made at
// a point nearby.
Check check_taylor(const Trial& base) {
  const ActivityScope at({.what = "compares the gradient with the loss"});
  const Grid& grid = base.network().grid();
  Config config = base.network().plan().config;
  // A loss of rounded operands is no smooth function of the weights.
  config.grid_bits = 0;
  config.precision = to_string(Precision::fp32);
  // Few images cross few kinks, too few for their signs to even out: for one image and 8 channels
  // the slope was seen from 1.07 to 1.73 over the seeds, for 16 images from 1.57.
  config.batch_size = std::max(config.batch_size, default_batch);
  Trial trial(make_plan(std::move(config), grid.world().size()), grid, &base);
  Network& network = trial.network();
  move_weights(network, copy_weights(network), draw_directions(network, 1), 0.5);
  const ShareArrays origin = copy_weights(network);

  const StepReport start = trial.compute();
  const double value = start.loss + start.regularization;
  ShareArrays gradient;
  for (const auto values : trial.gradient()) gradient.emplace_back(values.begin(), values.end());
  constexpr int num_directions = 6, num_points = 7;
  constexpr double first_step = 1.0 / 4;
  std::vector<double> squares(num_points);  // of the remainders, summed over the directions
  for (int direction_index = 0; direction_index < num_directions; ++direction_index) {
    const ShareArrays direction = draw_directions(network, 2 + direction_index);
    double product = 0;
    for (std::size_t s = 0; s < gradient.size(); ++s)
      product +=
          std::inner_product(gradient[s].begin(), gradient[s].end(), direction[s].begin(), 0.0,
                             std::plus<>(), [](float g, float d) { return double{g} * d; });
    const double directional = sum_over_ranks(grid.time(), product);
    for (int k = 0; k < num_points; ++k) {
      const double step = std::ldexp(first_step, -k);
      move_weights(network, origin, direction, step);
      const StepReport moved = trial.compute();
      const double remainder = moved.loss + moved.regularization - value - step * directional;
      squares[k] += remainder * remainder / num_directions;
    }
  }
  // Seen: repeated at neighbouring weights, the loss scatters by about 4 units in the last place of
  // a float.
  const double noise = 32 * 0x1p-24 * std::abs(value);
  std::vector<double> steps, remainders;
  for (int k = 0; k < num_points && std::sqrt(squares[k]) > noise; ++k) {
    steps.push_back(-k);
    remainders.push_back(std::log2(squares[k]) / 2);
  }
  constexpr std::size_t fewest = 3;
  constexpr double lowest = 1.25,
                   highest = 2.3;  // between a wrong gradient and kinks; above curvature
  const double slope = steps.size() < fewest ? 0 : fitted_slope(steps, remainders);
  return {"Taylor test of the gradient",
          steps.size() < fewest
              ? fmt::format("only {} remainders exceed the noise", steps.size())
              : fmt::format("slope {:.2f} over {} halvings", slope, steps.size() - 1),
          "slope 2 (at least 1.25; a wrong gradient has 1)", slope > lowest && slope < highest};
}

/// The gradient of `variant` against the one that `base` has computed, on the same ranks.
Check check_variant(const std::string& name, Trial& base, const RunPlan& variant) {
  const ActivityScope at({.what = "computes the gradient in another way"});
  const Communicator& communicator = base.network().grid().world();
  Trial other(variant, base.network().grid(), &base);
  other.compute();
  std::int64_t differing = 0;
  for (std::size_t s = 0; s < base.network().shares().size(); ++s)
    differing += num_differing(base.network().shares()[s]->map(), base.gradient()[s],
                               other.network().shares()[s]->map(), other.gradient()[s]);
  return equal_bits(name, sum_over_ranks(communicator, differing),
                    base.network().architecture().num_parameters());
}

// Rank 0 computes alone; its gradient goes to every rank.
Check check_serial(Trial& base) {
  const ActivityScope at({.what = "compares the gradient with that of one rank"});
  const Communicator& communicator = base.network().grid().world();
  const Architecture& architecture = base.network().architecture();
  const ParameterMap whole(architecture, {0, architecture.num_blocks()});
  std::vector<float> serial(whole.size());
  communicator.agree([&] {
    if (!communicator.is_root()) return;
    const Communicator alone = Communicator::alone();
    Config of_one = base.network().plan().config;
    of_one.time_ranks = of_one.data_ranks = 1;
    const RunPlan plan = make_plan(std::move(of_one), alone.size());
    const Grid grid = make_grid(plan, alone);
    Trial trial(plan, grid, &base);
    trial.compute();
    std::ranges::copy(trial.gradient().front(), serial.begin());
  });
  communicator.broadcast(std::span<float>(serial), 0);
  std::int64_t differing = 0;
  for (std::size_t s = 0; s < base.network().shares().size(); ++s)
    differing +=
        num_differing(base.network().shares()[s]->map(), base.gradient()[s], whole, serial);
  return equal_bits(communicator.size() == 1
                        ? std::string("repeated = first run")
                        : fmt::format("1 rank = {} ranks", communicator.size()),
                    sum_over_ranks(communicator, differing), architecture.num_parameters());
}

void print_table(const std::vector<Check>& checks) {
  std::size_t name = 5, found = 5;
  for (const Check& check : checks) {
    name = std::max(name, check.name.size());
    found = std::max(found, check.found.size());
  }
  print_result("{:<{}}  {:<{}}  {:<6}  {}\n", "check", name, "found", found, "result", "expected");
  for (const Check& check : checks)
    print_result("{:<{}}  {:<{}}  {:<6}  {}\n", check.name, name, check.found, found,
                 check.passed ? "passed" : "FAILED", check.expected);
}

}  // namespace

ExitStatus verify_command(Config given, const Communicator& world) {
  if (!given.given("batch-size")) given.batch_size = default_batch;
  check_results(given, world);
  const RunPlan plan = complete_plan(std::move(given), world);
  const Grid grid = make_grid(plan, world);
  const Config& config = plan.config;

  Trial base(plan, grid);
  for (const auto& share : base.network().shares()) share->slice().measure_reversal();
  const StepReport report = base.compute();
  std::vector<Check> checks{check_round_trip(base, report), check_taylor(base)};

  RunPlan variant = plan;
  variant.activations =
      plan.activations == Activations::store ? Activations::reverse : Activations::store;
  checks.push_back(check_variant("stored = recomputed activations", base, variant));
  const bool one_slice = plan.placement.num_slices() == plan.placement.num_ranks();
  for (const std::string& name : schedule_names()) {
    variant = plan;
    variant.schedule = &schedule_rule(name);
    if (variant.schedule == plan.schedule || !(one_slice || variant.schedule->plays_several_slices))
      continue;
    checks.push_back(
        check_variant(fmt::format("{} = {}", name, plan.schedule->name), base, variant));
  }
  variant = plan;
  variant.config.threads = base.network().num_threads() == 1 ? 2 : 1;
  checks.push_back(check_variant(
      fmt::format("--threads {} = {}", base.network().num_threads(), *variant.config.threads), base,
      variant));
  checks.push_back(check_serial(base));

  const bool passed = std::ranges::all_of(checks, &Check::passed);
  if (grid.is_printer()) {
    const Architecture& architecture = base.network().architecture();
    if (!config.json_to_stdout()) {
      print_result("{}-{} on {}, {} {}, {} samples of {}\n\n", architecture.rule().name,
                   architecture.depth(), base.network().backend().description(), world.size(),
                   world.size() == 1 ? "rank" : "ranks", config.batch_size, config.dataset);
      print_table(checks);
    }
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Check& check : checks)
      list.push_back({{"name", check.name},
                      {"found", check.found},
                      {"expected", check.expected},
                      {"passed", check.passed}});
    write_json_result(config, {{"passed", passed}, {"checks", list}});
  }
  if (passed) return ExitStatus::success;
  std::vector<std::string> failed;
  for (const Check& check : checks)
    if (!check.passed) failed.push_back(fmt::format("{} (found: {})", check.name, check.found));
  throw Error(ExitStatus::failure,
              fmt::format("{} of {} checks failed: {}", failed.size(), checks.size(),
                          fmt::join(failed, ", ")),
              ErrorScope::all_ranks);
}

}  // namespace revode
