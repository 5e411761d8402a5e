#include "commands/network_analysis.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "revode/analysis/spectrum.hpp"
#include "revode/core/activity.hpp"
#include "revode/core/random.hpp"

namespace revode {
namespace {

using nlohmann::ordered_json;

/// Runs of blocks from the front of a stage whose growth is measured: so many, evenly spaced, the
/// whole stage among them.
constexpr int most_runs_a_stage = 8;

std::vector<double> random_direction(std::size_t size, int image) {
  std::vector<double> direction(size);
  RandomStream random(1, Purpose::check, static_cast<std::uint64_t>(image));
  for (double& value : direction) value = random.normal();
  return direction;
}

double norm(std::span<const double> values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
}

/// Root of the mean square.
double rms(std::span<const float> values) {
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  return std::sqrt(squares / static_cast<double>(values.size()));
}

ordered_json number_or_null(std::optional<double> value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

/// |rebuilt - original| / |original| of all images.
double error_of(const Comparison& reversal) {
  return std::sqrt(reversal.squared_error / reversal.squared_norm);
}

/// Of one coupling's rows of an array of a stage.
std::span<const float> row_of(const ParameterEntry& array, std::span<const float> values,
                              int coupling) {
  return values.subspan(array.offset + coupling * array.row_size(), array.row_size());
}

/// |a - b| / |a| over pairs of spans.
double change(
    std::initializer_list<std::pair<std::span<const float>, std::span<const float>>> arrays) {
  double difference = 0, size = 0;
  for (const auto& [now, before] : arrays)
    for (std::size_t i = 0; i < now.size(); ++i) {
      const double d = double{now[i]} - before[i];
      difference += d * d;
      size += double{now[i]} * now[i];
    }
  return std::sqrt(difference / size);
}

}  // namespace

RecordedSweep::RecordedSweep(const RunPlan& plan, const Grid& alone, const RecordedSweep* like)
    : samples_(choose_samples(plan, alone)),
      network_(load_network(plan, alone, samples_.size())),
      record_(samples_.size(), network_->backend()) {
  if (like != nullptr) samples_.train_statistics = like->samples_.train_statistics;
  normalise(samples_, *network_);
  network_->shares().front()->slice().set_probe(&record_);
  TrainingStep training(*network_);
  const MiniBatchSource source = samples_.feed->mini_batch(samples_.indices, 0, 1);
  report_ = training.compute_gradient(source);
  training.require_finite(source, report_, fmt::format("samples {}", plan.config.samples));
}

NetworkAnalysis::NetworkAnalysis(const RecordedSweep& sweep, int num_eigenvalues)
    : sweep_(sweep), num_eigenvalues_(num_eigenvalues) {
  int first = 0;
  for (int k = 0; k < static_cast<int>(sweep.architecture().stages().size()); ++k) {
    const int blocks = sweep.architecture().stages()[k].blocks;
    for (int b = first; b < first + blocks; ++b) tasks_.push_back({k, {b, b + 1}, false});
    const int runs = std::min(blocks, most_runs_a_stage);
    for (int i = 1; i <= runs; ++i) tasks_.push_back({k, {first, first + blocks * i / runs}, true});
    first += blocks;
  }
}

ordered_json NetworkAnalysis::do_task(int task) {
  const Task& what = tasks_[task];
  const ActivityScope at({.what = what.is_growth ? "computes how much blocks magnify"
                                                 : "computes the spectrum of a block"});
  return what.is_growth ? growth_of(what) : spectrum_of(what.blocks.first);
}

ForceDerivatives& NetworkAnalysis::forces(int stage) {
  if (stage_of_forces_ == stage) return *forces_;
  forces_.reset();
  const ParameterMap::StageEntries& arrays = sweep_.share().map().stages[stage];
  const float* values = sweep_.share().values().data();
  forces_ = std::make_unique<ForceDerivatives>(
      sweep_.architecture(), stage, values + arrays.kernel.offset, values + arrays.bias.offset,
      sweep_.network().backend());
  stage_of_forces_ = stage;
  return *forces_;
}

ordered_json NetworkAnalysis::spectrum_of(int block) {
  const Architecture& architecture = sweep_.architecture();
  const Equation equation = architecture.rule().equation;
  const double h = architecture.step_size();
  ordered_json eigenvalues = ordered_json::array(), radius = eigenvalues, share = eigenvalues,
               abscissa = eigenvalues;
  for (int image = 0; image < sweep_.num_images(); ++image) {
    RightHandSideJacobian jacobian(architecture, block, sweep_.record(), image,
                                   forces(architecture.stage_of_block(block)));
    // Of the second order each eigenvalue makes two.
    const int wanted =
        equation == Equation::second_order ? (num_eigenvalues_ + 1) / 2 : num_eigenvalues_;
    const std::vector<std::complex<double>> values = eigenvalues_of(
        equation, wanted == 0 ? all_eigenvalues(jacobian) : largest_eigenvalues(jacobian, wanted));
    ordered_json list = ordered_json::array();
    double largest = 0, largest_real = 0;
    for (const std::complex<double>& value : values) {
      list.push_back({value.real(), value.imag()});
      largest = std::max(largest, std::abs(value));
      largest_real = std::max(largest_real, std::abs(value.real()));
    }
    eigenvalues.push_back(std::move(list));
    radius.push_back(values.empty() ? ordered_json(nullptr) : ordered_json(h * largest));
    share.push_back(largest > 0 ? ordered_json(largest_real / largest) : ordered_json(nullptr));
    // Of second order, what grows at first depends on the unit of velocity.
    if (equation != Equation::second_order) {
      const std::optional<double> found = numerical_abscissa(jacobian);
      abscissa.push_back(number_or_null(found ? std::optional(h * *found) : found));
    }
  }
  ordered_json out{{"eigenvalues", std::move(eigenvalues)},
                   {"h_spectral_radius", std::move(radius)},
                   {"real_share", std::move(share)}};
  out["h_numerical_abscissa"] =
      equation == Equation::second_order ? ordered_json(nullptr) : std::move(abscissa);
  return out;
}

ordered_json NetworkAnalysis::growth_of(const Task& task) {
  ordered_json values = ordered_json::array();
  for (int image = 0; image < sweep_.num_images(); ++image) {
    DepthMapJacobian map(sweep_.architecture(), task.blocks, sweep_.record(), image,
                         forces(task.stage));
    values.push_back(number_or_null(largest_singular_value(map)));
  }
  return {{"stage", task.stage + 1},
          {"first_block", task.blocks.first},
          {"last_block", task.blocks.last - 1},
          {"largest_singular_value", std::move(values)}};
}

BlockEdge NetworkAnalysis::behind(int block) const {
  const Architecture& architecture = sweep_.architecture();
  const bool ends_stage =
      block + 1 == architecture.num_blocks() ||
      architecture.stage_of_block(block) != architecture.stage_of_block(block + 1);
  return ends_stage ? BlockEdge{block, true} : BlockEdge{block + 1};
}

void NetworkAnalysis::add_states(int block, ordered_json& out) const {
  const DepthRecord& record = sweep_.record();
  int last = block;  // of the stage
  while (!behind(last).is_behind) ++last;
  ordered_json size = ordered_json::array(), largest = size, adjoint = size;
  for (int image = 0; image < sweep_.num_images(); ++image) {
    const std::vector<float> state = record.state({block}, image);
    size.push_back(rms(state));
    largest.push_back(
        std::abs(*std::ranges::max_element(state, {}, [](float x) { return std::abs(x); })));
    adjoint.push_back(record.adjoint_norm({block}, image) /
                      record.adjoint_norm(behind(last), image));
  }
  out["state_rms"] = std::move(size);
  out["state_largest"] = std::move(largest);
  out["adjoint_growth"] = std::move(adjoint);
}

void NetworkAnalysis::add_weights(int block, ordered_json& out) const {
  const Architecture& architecture = sweep_.architecture();
  const int couplings = architecture.rule().couplings_per_block;
  const int k = architecture.stage_of_block(block);
  const int first = block * couplings - architecture.stages()[k].first_coupling;
  const ParameterMap::StageEntries& arrays = sweep_.share().map().stages[k];
  const std::span<const float> values = sweep_.share().values().read();
  ordered_json kernel = ordered_json::array(), bias = kernel, changes = kernel;
  for (int i = first; i < first + couplings; ++i) {
    const auto kernel_now = row_of(arrays.kernel, values, i);
    const auto bias_now = row_of(arrays.bias, values, i);
    kernel.push_back(rms(kernel_now));
    bias.push_back(rms(bias_now));
    changes.push_back(
        i < couplings
            ? ordered_json(nullptr)
            : ordered_json(change({{kernel_now, row_of(arrays.kernel, values, i - couplings)},
                                   {bias_now, row_of(arrays.bias, values, i - couplings)}})));
  }
  out["kernel_rms"] = std::move(kernel);
  out["bias_rms"] = std::move(bias);
  out["weight_change"] = std::move(changes);
}

void NetworkAnalysis::add_growth_of_random_perturbation(ordered_json& blocks) {
  const Architecture& architecture = sweep_.architecture();
  for (int image = 0; image < sweep_.num_images(); ++image) {
    std::vector<double> perturbation, next;
    double at_first = 1;
    for (int block = 0; block < architecture.num_blocks(); ++block) {
      ForceDerivatives& of_stage = forces(architecture.stage_of_block(block));
      if (block == 0 || behind(block - 1).is_behind) {
        perturbation = random_direction(2 * of_stage.size(), image);
        at_first = norm(perturbation);
      }
      next.resize(perturbation.size());
      DepthMapJacobian(architecture, {block, block + 1}, sweep_.record(), image, of_stage)
          .apply(perturbation, next);
      perturbation.swap(next);
      blocks[block]["perturbation_growth"].push_back(norm(perturbation) / at_first);
    }
  }
}

ordered_json NetworkAnalysis::finish(const std::vector<ordered_json>& done,
                                     const RecordedSweep* without_grid) {
  const Architecture& architecture = sweep_.architecture();
  ordered_json blocks = ordered_json::array(), growth = blocks;
  int first = 0;
  for (const Stage& stage : architecture.stages()) {
    for (int i = 0; i < stage.blocks; ++i)
      blocks.push_back({{"block", first + i},
                        {"stage", architecture.stage_of_block(first + i) + 1},
                        {"block_in_stage", i}});
    first += stage.blocks;
  }
  for (std::size_t t = 0; t < tasks_.size(); ++t) {
    if (tasks_[t].is_growth) {
      growth.push_back(done[t]);
    } else {
      blocks[tasks_[t].blocks.first].update(done[t]);
    }
  }
  for (int block = 0; block < architecture.num_blocks(); ++block) {
    ordered_json& out = blocks[block];
    out["perturbation_growth"] = ordered_json::array();
    add_states(block, out);
    const Comparison& reversal = sweep_.record().reversal({block});
    const bool has_grid = architecture.grid_bits() > 0;
    out["reversal_error"] = has_grid ? ordered_json(error_of(reversal)) : ordered_json(nullptr);
    out["values_differing"] = reversal.num_differing;
    out["reversal_error_without_grid"] =
        error_of(has_grid ? without_grid->record().reversal({block}) : reversal);
    add_weights(block, out);
  }
  add_growth_of_random_perturbation(blocks);
  return {{"blocks", std::move(blocks)}, {"growth", std::move(growth)}};
}

}  // namespace revode
