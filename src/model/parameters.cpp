#include "revode/model/parameters.hpp"

#include <algorithm>
#include <cmath>

#include "revode/core/random.hpp"

namespace revode {
namespace {

/// Stream of the opening kernel among those of Purpose::kernel, whose others are global coupling
/// indices.
constexpr std::uint64_t opening_stream = std::uint64_t{1} << 32;

/// Hands out offsets in the order of the checkpoint.
class Placer {
 public:
  ParameterEntry whole(std::string name, std::vector<std::int64_t> shape, bool held) {
    const std::int64_t rows = held ? shape.front() : 0;
    return place(
        {.name = std::move(name), .shape = std::move(shape), .first_row = 0, .num_rows = rows});
  }
  ParameterEntry rows(std::string name, std::vector<std::int64_t> shape, std::int64_t first,
                      std::int64_t count) {
    return place({.name = std::move(name),
                  .shape = std::move(shape),
                  .first_row = first,
                  .num_rows = count});
  }
  NormEntries norm(const std::string& layer, std::int64_t features, bool held) {
    NormEntries norm{whole(layer + "/norm/scale", {features}, held),
                     whole(layer + "/norm/shift", {features}, held),
                     whole(layer + "/norm/mean", {features}, held),
                     whole(layer + "/norm/variance", {features}, held)};
    norm.mean.trainable = norm.variance.trainable = false;
    return norm;
  }
  std::size_t size() const { return size_; }

 private:
  ParameterEntry place(ParameterEntry entry) {
    entry.offset = size_;
    size_ += entry.size();
    return entry;
  }
  std::size_t size_ = 0;
};

}  // namespace

std::size_t ParameterEntry::row_size() const {
  std::size_t size = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) size *= static_cast<std::size_t>(shape[i]);
  return size;
}

ParameterMap::ParameterMap(const Architecture& architecture, BlockRange range) {
  const bool first = range.first == 0, last = range.last == architecture.num_blocks();
  const std::int64_t in = architecture.image_channels(), classes = architecture.num_classes();
  const std::int64_t features_in = architecture.stages().front().width;
  const std::int64_t features_out = architecture.stages().back().width;
  Placer placer;
  input_mean = placer.whole("input/mean", {in}, first);
  input_std = placer.whole("input/std", {in}, first);
  input_mean.trainable = input_std.trainable = false;
  opening_kernel = placer.whole("opening/kernel", {features_in, in, 3, 3}, first);
  opening_kernel.decayed = true;
  opening_norm = placer.norm("opening", features_in, first);
  int first_block = 0;
  for (std::size_t k = 0; k < architecture.stages().size(); ++k) {
    const Stage& stage = architecture.stages()[k];
    const int per_block = architecture.rule().couplings_per_block;
    const int begin = std::clamp(range.first - first_block, 0, stage.blocks);
    const int end = std::clamp(range.last - first_block, 0, stage.blocks);
    const std::int64_t c = stage.channels, held = std::int64_t{end - begin} * per_block;
    const std::string name = "stage_" + std::to_string(k + 1);
    StageEntries entries{
        placer.rows(name + "/kernel", {stage.couplings, c, c, 3, 3},
                    std::int64_t{begin} * per_block, held),
        placer.rows(name + "/bias", {stage.couplings, c}, std::int64_t{begin} * per_block, held)};
    entries.kernel.decayed = true;
    stages.push_back(std::move(entries));
    first_block += stage.blocks;
  }
  closing_norm = placer.norm("closing", features_out, last);
  closing_weight = placer.whole("closing/weight", {classes, features_out}, last);
  closing_weight.decayed = true;
  closing_bias = placer.whole("closing/bias", {classes}, last);
  size_ = placer.size();
}

std::vector<const ParameterEntry*> ParameterMap::entries() const {
  std::vector<const ParameterEntry*> result{&input_mean, &input_std, &opening_kernel};
  const auto add_norm = [&](const NormEntries& norm) {
    result.insert(result.end(), {&norm.scale, &norm.shift, &norm.mean, &norm.variance});
  };
  add_norm(opening_norm);
  for (const StageEntries& stage : stages)
    result.insert(result.end(), {&stage.kernel, &stage.bias});
  add_norm(closing_norm);
  result.insert(result.end(), {&closing_weight, &closing_bias});
  return result;
}

std::size_t ParameterMap::num_trainable() const {
  std::size_t count = 0;
  for (const ParameterEntry* entry : entries())
    if (entry->trainable) count += entry->size();
  return count;
}

template <typename Real>
void initialise(const Architecture& architecture, const ParameterMap& map, std::uint64_t seed,
                Real* values) {
  std::fill_n(values, map.size(), Real{0});
  const auto ones = [&](const ParameterEntry& entry) {
    std::fill_n(values + entry.offset, entry.size(), Real{1});
  };
  ones(map.input_std);
  for (const NormEntries* norm : {&map.opening_norm, &map.closing_norm}) {
    ones(norm->scale);
    ones(norm->variance);
  }

  // sigma = sqrt(2 / (9 out)) before truncation
  const auto draw_kernel = [&](std::uint64_t stream, double out, std::size_t size, Real* kernel) {
    RandomStream random(seed, Purpose::kernel, stream);
    const double sigma = std::sqrt(2 / (9 * out));
    for (std::size_t i = 0; i < size; ++i)
      kernel[i] = static_cast<Real>(sigma * random.truncated_normal());
  };
  if (map.opening_kernel.num_rows > 0)
    draw_kernel(opening_stream, static_cast<double>(map.opening_kernel.shape[0]),
                map.opening_kernel.size(), values + map.opening_kernel.offset);
  for (std::size_t k = 0; k < map.stages.size(); ++k) {
    const ParameterEntry& kernel = map.stages[k].kernel;
    for (std::int64_t row = 0; row < kernel.num_rows; ++row)
      draw_kernel(architecture.stages()[k].first_coupling + kernel.first_row + row,
                  architecture.stages()[k].channels, kernel.row_size(),
                  values + kernel.offset + row * kernel.row_size());
  }

  RandomStream random(seed, Purpose::fully_connected, 0);
  const double bound = 1 / std::sqrt(static_cast<double>(map.closing_weight.shape[1]));
  for (std::size_t i = 0; i < map.closing_weight.size(); ++i)
    values[map.closing_weight.offset + i] = static_cast<Real>(random.uniform(-bound, bound));
}

template void initialise(const Architecture&, const ParameterMap&, std::uint64_t, float*);
template void initialise(const Architecture&, const ParameterMap&, std::uint64_t, double*);

}  // namespace revode
