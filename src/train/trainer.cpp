#include "revode/train/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include <fmt/format.h>

#include "revode/pipeline/partition.hpp"
#include "revode/train/provenance.hpp"
#include "revode/train/stop_signals.hpp"
#include "revode/train/write_permission.hpp"

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

/// A log that goes to a file gets a line at least so often.
constexpr double seconds_between_lines = 30;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

DataFeed make_training_data(const Config& config, const Communicator& communicator) {
  DataFeed feed(config, Split::train, config.train_fraction, communicator);
  communicator.agree([&] {
    REVODE_REQUIRE(feed.size() >= config.batch_size,
                   "--batch-size {}: the {} training samples of {} do not fill one mini-batch",
                   config.batch_size, feed.size(), config.dataset);
  });
  return feed;
}

/// The plan, if a checkpoint that is to be read has the shape of its network: known before anything
/// as large is made.
const RunPlan& checked_against(const StartPoint& start, const RunPlan& plan,
                               const Communicator& communicator) {
  if (start.kind != StartPoint::Kind::fresh)
    check_arrays(
        CheckpointReader(start.file, communicator.handle(), CheckpointReader::Checksums::ignore),
        plan.architecture,
        start.kind == StartPoint::Kind::resume ? StoredArrays::model_and_momentum
                                               : StoredArrays::model);
  return plan;
}

RunLog make_log(const Config& config, const Communicator& communicator) {
  if (!communicator.is_root()) return {};
  std::FILE* stream = text_stream(config.json);
  return {progress_style(config.progress, stream), stream};
}

}  // namespace

// 1. Options, data, network.  2. Weights: initial, given, or where a run stood.  3. Output files.
Trainer::Trainer(RunPlan plan, StartPoint start, const Communicator& communicator)
    : communicator_(communicator),
      plan_(std::move(plan)),
      start_(std::move(start)),
      train_data_(make_training_data(config_, communicator)),
      test_data_(config_, Split::test, 1, communicator),
      network_(checked_against(start_, plan_, communicator), communicator,
               cut_mini_batch(config_.batch_size, plan_.num_micro_batches).front()),
      training_(network_),
      rate_policy_{.base = config_.learning_rate,
                   .decay = config_.lr_decay,
                   .decay_epochs = config_.lr_decay_epochs,
                   .warmup_epochs = config_.warmup_epochs},
      log_(make_log(config_, communicator)) {
  steps_per_epoch_ = train_data_.size() / config_.batch_size;
  last_step_ = std::min(*config_.epochs * steps_per_epoch_,
                        config_.steps.value_or(std::numeric_limits<std::int64_t>::max()));
  checkpoint_every_ = config_.checkpoint_every.value_or(steps_per_epoch_);
  time_limit_ = time_limit_of(
      config_.time_limit, std::getenv("SLURM_JOB_END_TIME"),
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(),
      2.0 * static_cast<double>(network_.architecture().num_parameters()));
  load();
  open_folder();
}

void Trainer::load() {
  for (const auto& share : network_.shares()) share->velocity();  // the start-up block counts it
  train_digest_ = train_data_.digest();
  if (start_.kind == StartPoint::Kind::fresh) {
    if (communicator_.is_root()) network_.set_input_statistics(train_data_.statistics());
  } else {
    const CheckpointReader reader(start_.file, communicator_.handle(),
                                  CheckpointReader::Checksums::ignore);  // verified when chosen
    load_model(reader, start_.file, network_);
    if (start_.kind == StartPoint::Kind::resume) {
      communicator_.agree([&] {
        progress_ = from_attributes(reader.progress(), start_.file);
        check_training_data(reader);
      });
      load_momentum(reader, start_.file, network_);
      last_saved_step_ = first_step_ = progress_.step;
    }
  }
  if (!communicator_.is_root()) return;
  InputTransform transform{
      .statistics = network_.input_statistics(), .augment = config_.augment, .seed = config_.seed};
  train_data_.set_transform(transform);
  transform.augment = false;
  test_data_.set_transform(transform);
}

// A run goes on with the images that it began with. Files from before it was noted tell by their
// epoch alone.
void Trainer::check_training_data(const CheckpointReader& reader) const {
  constexpr const char* advice =
      "give the same data, or start a new run from these weights with --checkpoint";
  if (const auto stored = training_data_of(reader.config(), start_.file)) {
    REVODE_REQUIRE(stored->samples == train_data_.size(),
                   "{}: its run trains on {} samples, and there are {} of {} now; {}", start_.file,
                   format_count(stored->samples), format_count(train_data_.size()), config_.dataset,
                   advice);
    REVODE_REQUIRE(
        stored->digest == train_digest_,
        "{}: its run trains on other images than those of {} now (their digests are {} and {}); {}",
        start_.file, config_.dataset, stored->digest, train_digest_, advice);
  }
  REVODE_REQUIRE(progress_.epoch == progress_.step / steps_per_epoch_,
                 "{}: it is at step {} in epoch {}, and {} samples in mini-batches of {} make that "
                 "epoch {}; {}",
                 start_.file, progress_.step, progress_.epoch, format_count(train_data_.size()),
                 config_.batch_size, progress_.step / steps_per_epoch_, advice);
}

void Trainer::open_folder() {
  const std::string block = start_block(network_);
  const nlohmann::ordered_json record = start_record(network_, progress_.step, progress_.epoch);
  const bool resumes = start_.kind == StartPoint::Kind::resume;
  std::vector<std::string> set_aside;
  communicator_.agree([&] {
    if (!communicator_.is_root()) return;
    set_aside =
        start_.folder->prepare(config_, resumes ? std::optional(progress_.step) : std::nullopt);
    start_.folder->metrics().write(record);
    best_in_file_ = std::max(progress_.best_accuracy, start_.folder->best_accuracy());
  });
  // All ranks write best.h5 together: they decide alike.
  communicator_.broadcast(std::span<double>(&best_in_file_, 1), 0);

  if (start_.begins_anew)
    log_.print(fmt::format("no checkpoint in {} can be gone on from: starting from the beginning",
                           config_.output));
  for (const std::string& line : set_aside) log_.print(line);
  std::string text = fmt::format("{}\n{}", provenance_line(record), block);
  text += fmt::format("{}: {} training samples ({} steps of {} an epoch), {} test samples\n",
                      config_.dataset, format_count(train_data_.size()), steps_per_epoch_,
                      config_.batch_size, format_count(test_data_.size()));
  if (start_.kind == StartPoint::Kind::weights)
    text += fmt::format("starting from the weights of {}\n", start_.file);
  if (resumes)
    text += fmt::format("going on from {} at step {}, epoch {}\n", start_.file, progress_.step,
                        progress_.epoch);
  if (finished())
    text += fmt::format(
        "nothing is left to train: step {} is the end that --steps and --epochs set;\nraise them "
        "to go on\n",
        progress_.step);
  text += fmt::format("training to step {} (epoch {}); files in {}\n", last_step_,
                      (last_step_ + steps_per_epoch_ - 1) / steps_per_epoch_, config_.output);
  log_.print(text);
}

bool Trainer::finished() const { return progress_.step >= last_step_; }

ExitStatus Trainer::run() {
  catch_stop_signals();
  last_line_ = Clock::now();
  bool stopped = false;
  while (!finished() && !stopped) {
    const auto round = Clock::now();
    const StepReport report = step();
    stopped = report.stop_requested;
    report_step(report);
    if (progress_.step % steps_per_epoch_ == 0) finish_epoch();
    time_limit_.note_round(seconds_since(round));
    if (!finished() && (stopped || progress_.step % checkpoint_every_ == 0)) save();
  }
  if (stopped && !finished()) {
    log_.print(fmt::format("stopped {} after step {}; saved {}\ngo on with: {}",
                           out_of_time_ ? "before the time limit" : "by a signal", progress_.step,
                           last_checkpoint(), resume_command(config_, communicator_.size())));
    return ExitStatus::stopped;
  }
  finish();
  return ExitStatus::success;
}

StepReport Trainer::step() {
  const auto start = Clock::now();
  const std::int64_t step_in_epoch = progress_.step % steps_per_epoch_;
  if (order_epoch_ != progress_.epoch) {
    order_ = epoch_order(train_data_.indices(), config_.seed, progress_.epoch);
    order_epoch_ = progress_.epoch;
  }
  const auto first = order_.begin() + step_in_epoch * config_.batch_size;
  const MiniBatchSource source = train_data_.mini_batch({first, first + config_.batch_size},
                                                        progress_.epoch, plan_.num_micro_batches);
  const double rate = rate_policy_.at(progress_.epoch, step_in_epoch, steps_per_epoch_);

  // One rank looks at the clock, so that all stop at the same step.
  out_of_time_ =
      communicator_.is_root() && time_limit_.allows_one_round_only(seconds_since(begun_));
  const StepReport report = training_.compute_gradient(source, stop_signal_seen() || out_of_time_);
  training_.require_finite(source, report,
                           fmt::format("step {} (epoch {})", progress_.step + 1, progress_.epoch),
                           last_checkpoint_in_words());
  training_.update(rate, report);

  ++progress_.step;
  progress_.samples_seen += report.num_samples;
  progress_.learning_rate = rate;
  progress_.epoch_loss_sum += report.loss * static_cast<double>(report.num_samples);
  progress_.epoch_correct += report.num_correct;
  progress_.epoch_samples += report.num_samples;
  progress_.epoch_regularization_sum += report.regularization;
  progress_.range += report.range;
  const double seconds = seconds_since(start);
  timing_.step_seconds += seconds;
  timing_.waiting_seconds += network_.pipeline().take_waiting_seconds();
  timing_.images += report.num_samples;
  timing_.total_seconds += seconds;
  timing_.total_images += report.num_samples;
  return report;
}

double Trainer::seconds_left() const {
  const double per_image = timing_.total_seconds / static_cast<double>(timing_.total_images);
  return static_cast<double>((last_step_ - progress_.step) * config_.batch_size) * per_image;
}

double Trainer::images_per_second() const {
  return timing_.total_seconds > 0
             ? static_cast<double>(timing_.total_images) / timing_.total_seconds
             : 0;
}

std::string Trainer::last_checkpoint() const {
  return (std::filesystem::path(config_.output) / checkpoint_name(last_saved_step_)).string();
}

std::string Trainer::last_checkpoint_in_words() const {
  return last_saved_step_ < 0 ? "no checkpoint had been written yet"
                              : fmt::format("the last checkpoint is {}", last_checkpoint());
}

void Trainer::report_step(const StepReport& report) {
  if (!communicator_.is_root()) return;
  const double accuracy =
      static_cast<double>(report.num_correct) / static_cast<double>(report.num_samples);
  const double rate_now = static_cast<double>(timing_.images) / timing_.step_seconds;
  const std::string text = fmt::format(
      "epoch {} step {}/{} loss {:.4f} accuracy {:.3f} {:.1f} images/s ETA {}", progress_.epoch,
      progress_.step, last_step_, report.loss, accuracy, rate_now, format_duration(seconds_left()));
  log_.update(text);
  if (report.range.out_of_range > 0 && !warned_of_range_) {
    warned_of_range_ = true;
    log_.print(fmt::format(
        "note: at step {}, {} state values left the range |x| < 2^{}, in which reversal is exact;\n"
        "it is approximate there (a smaller --step-size or --grid-bits keeps it exact)",
        progress_.step, format_count(report.range.out_of_range), 24 - config_.grid_bits));
  }
  const bool on_record = progress_.step % config_.log_every == 0;
  const bool due = on_record || progress_.step == first_step_ + 1 || finished() ||
                   seconds_since(last_line_) > seconds_between_lines;
  if (due && log_.style() == ProgressStyle::lines) {
    log_.print(text);
    last_line_ = Clock::now();
  }
  if (!on_record) return;
  start_.folder->metrics().write({{"kind", "step"},
                                  {"epoch", progress_.epoch},
                                  {"step", progress_.step},
                                  {"loss", report.loss},
                                  {"accuracy", accuracy},
                                  {"regularization", report.regularization},
                                  {"gradient_norm", report.gradient_norm},
                                  {"learning_rate", progress_.learning_rate},
                                  {"out_of_range", report.range.out_of_range},
                                  {"rounded_to_zero", report.range.rounded_to_zero},
                                  {"images_per_second", rate_now},
                                  {"waiting_seconds", timing_.waiting_seconds},
                                  {"seconds", timing_.total_seconds}});
  timing_.step_seconds = timing_.waiting_seconds = 0;
  timing_.images = 0;
}

Evaluation Trainer::evaluate_test() {
  if (last_evaluation_step_ != progress_.step) {
    log_.update(fmt::format("epoch {} step {}/{} evaluating {} test samples", progress_.epoch,
                            progress_.step, last_step_, format_count(test_data_.size())));
    last_evaluation_ = evaluate(network_, test_data_, test_data_.indices());
    last_evaluation_step_ = progress_.step;
    if (!std::isfinite(last_evaluation_->loss))
      throw Error(
          ExitStatus::failure,
          fmt::format("the test loss after step {} is not finite ({}): the run has diverged; {}; a "
                      "smaller --learning-rate or --step-size, or --clip-norm, may help",
                      progress_.step, last_evaluation_->loss, last_checkpoint_in_words()),
          ErrorScope::all_ranks);
  }
  return *last_evaluation_;
}

void Trainer::finish_epoch() {
  const bool evaluates = config_.eval_every > 0 && (progress_.epoch + 1) % config_.eval_every == 0;
  const auto samples = static_cast<double>(progress_.epoch_samples);
  const double train_loss = progress_.epoch_loss_sum / samples;
  const double train_accuracy = static_cast<double>(progress_.epoch_correct) / samples;
  std::string text = fmt::format("epoch {} done: train loss {:.4f} accuracy {:.3f}",
                                 progress_.epoch, train_loss, train_accuracy);
  nlohmann::ordered_json record{{"kind", "epoch"},
                                {"epoch", progress_.epoch},
                                {"step", progress_.step},
                                {"train_loss", train_loss},
                                {"train_accuracy", train_accuracy}};
  std::optional<Evaluation> test;
  if (evaluates) {
    test = evaluate_test();
    const bool best = test->accuracy > progress_.best_accuracy;
    progress_.best_accuracy = std::max(progress_.best_accuracy, test->accuracy);
    text += fmt::format(", test loss {:.4f} accuracy {:.3f}{}", test->loss, test->accuracy,
                        best ? " (best)" : "");
    record.update({{"test_loss", test->loss},
                   {"test_accuracy", test->accuracy},
                   {"best_accuracy", progress_.best_accuracy}});
  }
  record.update({{"regularization",
                  progress_.epoch_regularization_sum / static_cast<double>(steps_per_epoch_)},
                 {"learning_rate", progress_.learning_rate},
                 {"seconds", timing_.total_seconds}});
  log_.print(fmt::format("{}, rate {:.3g}", text, progress_.learning_rate));
  if (communicator_.is_root()) start_.folder->metrics().write(record);
  ++progress_.epoch;
  progress_.epoch_loss_sum = progress_.epoch_regularization_sum = 0;
  progress_.epoch_correct = progress_.epoch_samples = 0;
  if (test) keep_if_best(*test);
}

// best.h5 is the best of all that has been evaluated, the end of the run included. What a
// checkpoint says of the best accuracy are the epochs alone: a run that was stopped and went on
// says the same as one that was not.
void Trainer::keep_if_best(const Evaluation& test) {
  if (test.accuracy <= best_in_file_) return;
  check_weights_are_finite();
  write_file("best.h5", test.accuracy);
  best_in_file_ = test.accuracy;
}

void Trainer::write_file(const std::string& name, double best_accuracy) {
  communicator_.agree([&] {
    if (communicator_.is_root()) start_.folder->check_held();
  });
  RunProgress progress = progress_;
  progress.best_accuracy = best_accuracy;
  CheckpointContents contents{.config = stored_config(config_, network_.architecture()),
                              .root_attributes = Attributes::object(),
                              .progress = to_attributes(progress, config_.seed),
                              .arrays = model_slices(network_)};
  store_training_data({train_data_.size(), train_digest_}, contents.config);
  for (ArraySlice& slice : momentum_slices(network_)) contents.arrays.push_back(std::move(slice));
  write_checkpoint(std::filesystem::path(config_.output) / name, contents, communicator_.handle());
}

void Trainer::check_weights_are_finite() {
  std::optional<std::string> mine;
  for (const auto& share : network_.shares())
    if (!mine)
      mine = first_non_finite(share->map(), share->values().data(), share->velocity().data());
  communicator_.agree([&] {
    if (mine)
      throw run_error(
          "after step {}, {} is not finite: the run has diverged; {}; a smaller --learning-rate or "
          "--step-size, or --clip-norm, may help",
          progress_.step, *mine, last_checkpoint_in_words());
  });
}

void Trainer::save() {
  const auto start = Clock::now();
  check_weights_are_finite();
  write_file(checkpoint_name(progress_.step), progress_.best_accuracy);
  last_saved_step_ = progress_.step;
  communicator_.agree([&] {
    if (communicator_.is_root()) start_.folder->publish(progress_.step, config_.keep_checkpoints);
  });
  time_limit_.note_save(seconds_since(start));
}

// As at the end of an epoch the evaluation comes first: a run that has diverged while its weights
// are still finite must not take the place of the last good checkpoint.
void Trainer::finish() {
  const Evaluation test = evaluate_test();
  if (progress_.step != last_saved_step_) save();
  keep_if_best(test);
  const MemoryReport memory = gather_memory(communicator_);
  if (!communicator_.is_root()) return;
  start_.folder->metrics().write({{"kind", "end"},
                                  {"epoch", progress_.epoch},
                                  {"step", progress_.step},
                                  {"test_loss", test.loss},
                                  {"test_accuracy", test.accuracy}});
  print_summary(test, memory);
  write_json_result(config_, {{"loss", test.loss},
                              {"accuracy", test.accuracy},
                              {"best_accuracy", best_in_file_},
                              {"samples", test.samples},
                              {"steps", progress_.step},
                              {"epochs", progress_.epoch},
                              {"images_per_second", images_per_second()},
                              {"peak_memory_bytes", memory.peak_resident},
                              {"peak_bytes_by_use", peaks_by_category(memory)},
                              {"parameters", network_.architecture().num_parameters()},
                              {"ranks", communicator_.size()},
                              {"threads", network_.num_threads()},
                              {"out_of_range", progress_.range.out_of_range},
                              {"rounded_to_zero", progress_.range.rounded_to_zero},
                              {"output", config_.output},
                              {"checkpoint", last_checkpoint()}});
}

void Trainer::print_summary(const Evaluation& test, const MemoryReport& memory) {
  std::string text = fmt::format("\n{:<20}{:.4f} on {} samples (best {:.4f})\n", "test accuracy",
                                 test.accuracy, format_count(test.samples), best_in_file_);
  text += fmt::format("{:<20}{:.4f}\n", "test loss", test.loss);
  text += fmt::format("{:<20}{:.1f}\n", "images/s", images_per_second());
  text += fmt::format("{:<20}{}\n", "peak memory a rank", peak_memory_text(memory, 20));
  if (config_.grid_bits > 0)
    text += fmt::format("{:<20}{}\n", "reversal",
                        progress_.range.out_of_range == 0
                            ? std::string("exact: no state value left the range")
                            : fmt::format("approximate where {} state values left the range",
                                          format_count(progress_.range.out_of_range)));
  text += fmt::format("{:<20}{}", "files", config_.output);
  log_.print(text);
}

}  // namespace revode
