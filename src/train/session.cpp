#include "revode/train/session.hpp"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/error.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/run/run_log.hpp"

namespace revode {
namespace {

DataFeed make_training_data(const Config& config, const Grid& grid) {
  DataFeed feed(config, Split::train, config.train_fraction, grid);
  grid.world().agree([&] {
    REVODE_REQUIRE(feed.size() >= config.batch_size,
                   "--batch-size {}: the {} training samples of {} do not fill one mini-batch",
                   config.batch_size, feed.size(), config.dataset);
  });
  return feed;
}

/// The plan, if a checkpoint that is to be read has the shape of its network: known before anything
/// as large is made.
const RunPlan& checked_against(const StartPoint& start, const RunPlan& plan,
                               const Communicator& world) {
  if (start.kind != StartPoint::Kind::fresh)
    check_arrays(CheckpointReader(start.file, world.handle(), CheckpointReader::Checksums::ignore),
                 plan.architecture,
                 start.kind == StartPoint::Kind::resume ? StoredArrays::model_and_momentum
                                                        : StoredArrays::model);
  return plan;
}

}  // namespace

Session::Session(const RunPlan& plan, const StartPoint& start, const Communicator& world)
    : grid_(make_grid(plan, world)),
      train_data_(make_training_data(plan.config, grid_)),
      test_data_(plan.config, Split::test, 1, grid_),
      network_(checked_against(start, plan, world), grid_,
               cut_evenly(plan.config.batch_size, plan.num_micro_batches).front()),
      training_(network_) {
  load(start);
  training_.guard_weights();
}

void Session::load(const StartPoint& start) {
  for (const auto& share : network_.shares()) share->velocity();  // the start-up block counts it
  train_digest_ = train_data_.digest();
  if (start.kind == StartPoint::Kind::fresh) {
    if (grid_.is_reader()) network_.set_input_statistics(train_data_.statistics());
  } else {
    const CheckpointReader reader(start.file, grid_.world().handle(),
                                  CheckpointReader::Checksums::ignore);  // verified when chosen
    if (start.kind == StartPoint::Kind::resume) {
      load_training(reader, start.file, start_progress_);
    } else {
      load_model(reader, start.file, network_);
    }
  }
  if (!grid_.is_reader()) return;
  InputTransform transform{.statistics = network_.input_statistics(),
                           .augment = config().augment,
                           .seed = config().seed};
  train_data_.set_transform(transform, network_.shared_backend());
  transform.augment = false;
  test_data_.set_transform(transform, network_.shared_backend());
}

void Session::load_training(const CheckpointReader& reader, const std::string& file,
                            RunProgress& progress) {
  load_model(reader, file, network_);
  grid_.world().agree([&] {
    progress = from_attributes(reader.progress(), file);
    check_training_data(reader, file, progress);
  });
  load_momentum(reader, file, network_);
}

RunProgress Session::go_back(const std::string& file) {
  RunProgress progress;
  load_training(CheckpointReader(file, grid_.world().handle()), file, progress);
  training_.guard_weights();
  return progress;
}

// A run goes on with the images that it began with. Files from before it was noted tell by their
// epoch alone.
void Session::check_training_data(const CheckpointReader& reader, const std::string& file,
                                  const RunProgress& progress) const {
  constexpr const char* advice =
      "give the same data, or start a new run from these weights with --checkpoint";
  if (const auto stored = training_data_of(reader.config(), file)) {
    REVODE_REQUIRE(stored->samples == train_data_.size(),
                   "{}: its run trains on {} samples, and there are {} of {} now; {}", file,
                   format_count(stored->samples), format_count(train_data_.size()),
                   config().dataset, advice);
    REVODE_REQUIRE(
        stored->digest == train_digest_,
        "{}: its run trains on other images than those of {} now (their digests are {} and {}); {}",
        file, config().dataset, stored->digest, train_digest_, advice);
  }
  REVODE_REQUIRE(progress.epoch == progress.step / steps_per_epoch(),
                 "{}: it is at step {} in epoch {}, and {} samples in mini-batches of {} make that "
                 "epoch {}; {}",
                 file, progress.step, progress.epoch, format_count(train_data_.size()),
                 config().batch_size, progress.step / steps_per_epoch(), advice);
}

// A rewind to a step of an epoch before shuffles the whole of this one again: not only what is left
// of its own epoch is to come in another order.
MiniBatchSource Session::mini_batch(std::int64_t epoch, std::int64_t step_in_epoch,
                                    std::span<const std::int64_t> rewound_to) {
  if (order_epoch_ != epoch || order_rewinds_ != rewound_to.size()) {
    std::vector<std::int64_t> places;
    for (const std::int64_t step : rewound_to)
      places.push_back(std::max(step - epoch * steps_per_epoch(), std::int64_t{0}) *
                       config().batch_size);
    order_ = epoch_order(train_data_.indices(), config().seed, epoch, places);
    order_epoch_ = epoch;
    order_rewinds_ = rewound_to.size();
  }
  const auto first = order_.begin() + step_in_epoch * config().batch_size;
  return train_data_.mini_batch({first, first + config().batch_size}, epoch,
                                plan().num_micro_batches);
}

CheckpointContents Session::contents(const RunProgress& progress) {
  require_intact_weights(progress);
  CheckpointContents contents{.config = stored_config(config(), network_.architecture()),
                              .root_attributes = Attributes::object(),
                              .progress = to_attributes(progress, config().seed),
                              .arrays = model_slices(network_)};
  store_training_data({train_data_.size(), train_digest_}, contents.config);
  for (ArraySlice& slice : momentum_slices(network_)) contents.arrays.push_back(std::move(slice));
  return contents;
}

void Session::require_intact_weights(const RunProgress& progress) {
  std::optional<Damage> mine = training_.find_weight_damage();
  if (mine) mine->rank = grid_.world().rank();
  grid_.world().agree([&] {
    if (mine)
      throw damage_error(*mine, fmt::format("before a save after step {}", progress.step),
                         resume_advice);
  });
}

std::optional<std::string> Session::first_non_finite() const {
  for (const auto& share : network_.shares())
    if (auto found = revode::first_non_finite(share->map(), share->values().read().data(),
                                              share->velocity().read().data()))
      return found;
  return std::nullopt;
}

std::optional<std::string> Session::non_finite_array() const {
  const std::optional<std::string> mine = first_non_finite();
  const Communicator& world = grid_.world();
  const std::vector<std::int64_t> found = world.all_gather(std::int64_t{mine.has_value()});
  const auto first = std::ranges::find(found, 1) - found.begin();
  if (first == std::ssize(found)) return std::nullopt;
  const std::string name = world.broadcast(mine.value_or(""), static_cast<int>(first));
  return first == 0 ? name : fmt::format("{} (rank {})", name, first);
}

}  // namespace revode
