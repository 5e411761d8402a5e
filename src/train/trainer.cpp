#include "revode/train/trainer.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <limits>

#include <fmt/format.h>

#include "revode/pipeline/partition.hpp"
#include "revode/train/report.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::atomic<int> signals_seen{0};

extern "C" void on_stop_signal(int signal) {
  if (signals_seen.fetch_add(1) == 0) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Config resolved(Config config, const Communicator& communicator) {
  communicator.agree([&] {
    resolve(config, make_architecture(config));
    check_ranks(config, communicator);
  });
  return config;
}

RunLog make_log(const Config& config, const Communicator& communicator) {
  if (!communicator.is_root()) return {};
  std::FILE* stream = text_stream(config.json);
  return {progress_style(config.progress, stream), stream};
}

}  // namespace

void catch_stop_signals() {
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) std::signal(signal, on_stop_signal);
}

// 1. Options, network, data.  2. Weights: initial, given, or where a run stood.  3. Output files.
Trainer::Trainer(const Config& config, const StartPoint& start, const Communicator& communicator)
    : communicator_(communicator),
      config_(resolved(config, communicator)),
      start_(start),
      network_(config_, make_architecture(config_), communicator,
               cut_mini_batch(config_.batch_size, *config_.micro_batches).front()),
      training_(config_, network_),
      train_data_(config_, Split::train, config_.train_fraction, communicator),
      test_data_(config_, Split::test, 1, communicator),
      rate_policy_{.base = config_.learning_rate,
                   .decay = config_.lr_decay,
                   .decay_epochs = config_.lr_decay_epochs,
                   .warmup_epochs = config_.warmup_epochs},
      output_(config_.output),
      log_(make_log(config_, communicator)) {
  steps_per_epoch_ = train_data_.size() / config_.batch_size;
  if (steps_per_epoch_ == 0)
    throw Error(
        ExitStatus::bad_input,
        fmt::format("--batch-size {}: the {} training samples of {} do not fill one mini-batch",
                    config_.batch_size, train_data_.size(), config_.dataset),
        ErrorScope::all_ranks);
  last_step_ = std::min(*config_.epochs * steps_per_epoch_,
                        config_.steps.value_or(std::numeric_limits<std::int64_t>::max()));
  checkpoint_every_ = config_.checkpoint_every.value_or(steps_per_epoch_);
  time_limit_ = time_limit_of(
      config_.time_limit, std::getenv("SLURM_JOB_END_TIME"),
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(),
      2.0 * static_cast<double>(network_.architecture().num_parameters()));
  load(start_);
  open_output();
}

void Trainer::load(const StartPoint& start) {
  const ParameterMap& map = network_.map();
  float* values = network_.values().data();
  training_.velocity();  // so that the start-up block counts it
  if (start.kind == StartPoint::Kind::fresh) {
    if (communicator_.is_root()) {
      const ChannelStatistics statistics = train_data_.statistics();
      std::copy(statistics.mean.begin(), statistics.mean.end(), values + map.input_mean.offset);
      std::copy(statistics.std.begin(), statistics.std.end(), values + map.input_std.offset);
    }
  } else {
    const CheckpointReader reader(start.file, communicator_.handle(),
                                  CheckpointReader::Checksums::ignore);  // verified when chosen
    load_model(reader, start.file, network_);
    if (start.kind == StartPoint::Kind::resume) {
      communicator_.agree([&] { progress_ = from_attributes(reader.progress(), start.file); });
      for (const ArraySlice& slice : array_slices(map, ArraySet::trainable, "/optimizer/momentum",
                                                  training_.velocity().data()))
        reader.read(slice);
      last_saved_step_ = progress_.step;
    }
  }
  if (!communicator_.is_root()) return;
  const float* mean = values + map.input_mean.offset;
  const float* std = values + map.input_std.offset;
  InputTransform transform{
      .statistics = {{mean, mean + map.input_mean.size()}, {std, std + map.input_std.size()}},
      .augment = config_.augment,
      .seed = config_.seed};
  train_data_.set_transform(transform);
  transform.augment = false;
  test_data_.set_transform(transform);
}

void Trainer::open_output() {
  const std::string block = start_block(config_, network_);
  std::string set_aside;
  communicator_.agree([&] {
    if (!communicator_.is_root()) return;
    set_aside = set_aside_later_checkpoints(output_, progress_.step);
    const fs::path ini = output_ / "config.ini";
    std::ofstream file(ini);
    file << config_to_ini(config_);
    file.flush();
    if (!file) throw run_error("{}: can't be written", ini.string());
    metrics_ = MetricsFile(output_ / "metrics.jsonl",
                           start_.kind == StartPoint::Kind::resume ? progress_.step : -1);
  });
  if (!communicator_.is_root()) return;
  std::string text = block + set_aside;
  text += fmt::format("{}: {} training samples, {} a step, {} steps an epoch; {} test samples\n",
                      config_.dataset, format_count(train_data_.size()), config_.batch_size,
                      steps_per_epoch_, format_count(test_data_.size()));
  if (start_.kind == StartPoint::Kind::weights)
    text += fmt::format("starting from the weights of {}\n", start_.file);
  if (start_.kind == StartPoint::Kind::resume)
    text += fmt::format("going on from {} at step {}, epoch {}\n", start_.file, progress_.step,
                        progress_.epoch);
  if (finished())
    text += fmt::format(
        "nothing is left to train: step {} is the end that --steps and --epochs set; raise them to "
        "go on\n",
        progress_.step);
  text += fmt::format("training to step {} (epoch {}); files in {}\n", last_step_,
                      (last_step_ + steps_per_epoch_ - 1) / steps_per_epoch_, output_.string());
  log_.print(text);
}

bool Trainer::finished() const { return progress_.step >= last_step_; }

ExitStatus Trainer::run() {
  catch_stop_signals();
  bool stopped = false;
  while (!finished() && !stopped) {
    const auto round = Clock::now();
    const StepReport report = step();
    stopped = report.stop_requested;
    report_step(report);
    if (progress_.step % steps_per_epoch_ == 0) finish_epoch();
    time_limit_.note_round(seconds_since(round));
    if (stopped || finished() || progress_.step % checkpoint_every_ == 0) save();
  }
  if (progress_.step != last_saved_step_) save();
  const ExitStatus status = stopped && !finished() ? ExitStatus::stopped : ExitStatus::success;
  finish(status);
  return status;
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
                                                        progress_.epoch, *config_.micro_batches);
  const double rate = rate_policy_.at(progress_.epoch, step_in_epoch, steps_per_epoch_);

  // One rank looks at the clock, so that all stop at the same step.
  out_of_time_ =
      communicator_.is_root() && time_limit_.allows_one_round_only(seconds_since(begun_));
  const StepReport report = training_.compute_gradient(source, signals_seen > 0 || out_of_time_);
  if (!std::isfinite(report.loss) || !std::isfinite(report.gradient_norm))
    training_.explain_non_finite(
        source, report,
        fmt::format("step {} (epoch {}); {}", progress_.step + 1, progress_.epoch,
                    last_saved_step_ < 0
                        ? std::string("no checkpoint had been written yet")
                        : fmt::format("the last checkpoint is {}",
                                      (output_ / checkpoint_name(last_saved_step_)).string())));
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
  timing_.waiting_seconds += network_.executor().take_waiting_seconds();
  timing_.images += report.num_samples;
  timing_.total_seconds += seconds;
  timing_.total_images += report.num_samples;
  return report;
}

double Trainer::seconds_left() const {
  const double per_image = timing_.total_seconds / static_cast<double>(timing_.total_images);
  return static_cast<double>((last_step_ - progress_.step) * config_.batch_size) * per_image;
}

void Trainer::report_step(const StepReport& report) {
  if (!communicator_.is_root()) return;
  const double accuracy =
      static_cast<double>(report.num_correct) / static_cast<double>(report.num_samples);
  const double images_per_second = static_cast<double>(timing_.images) / timing_.step_seconds;
  const std::string text =
      fmt::format("epoch {}  step {}/{}  loss {:.4f}  accuracy {:.3f}  {:.1f} images/s  ETA {}",
                  progress_.epoch, progress_.step, last_step_, report.loss, accuracy,
                  images_per_second, format_duration(seconds_left()));
  log_.update(text);
  if (report.range.out_of_range > 0 && !warned_of_range_) {
    warned_of_range_ = true;
    log_.print(fmt::format(
        "note: at step {}, {} state values left the range |x| < 2^{} in which reversal is exact; "
        "it is "
        "approximate there (a smaller --step-size or --grid-bits keeps it exact)",
        progress_.step, format_count(report.range.out_of_range), 24 - config_.grid_bits));
  }
  if (progress_.step % config_.log_every != 0) return;
  if (log_.style() == ProgressStyle::lines) log_.print(text);
  metrics_.write({{"kind", "step"},
                  {"epoch", progress_.epoch},
                  {"step", progress_.step},
                  {"loss", report.loss},
                  {"accuracy", accuracy},
                  {"regularization", report.regularization},
                  {"gradient_norm", report.gradient_norm},
                  {"learning_rate", progress_.learning_rate},
                  {"out_of_range", report.range.out_of_range},
                  {"rounded_to_zero", report.range.rounded_to_zero},
                  {"images_per_second", images_per_second},
                  {"waiting_seconds", timing_.waiting_seconds},
                  {"seconds", timing_.total_seconds}});
  timing_.step_seconds = timing_.waiting_seconds = 0;
  timing_.images = 0;
}

Evaluation Trainer::evaluate_test() {
  if (last_evaluation_step_ != progress_.step) {
    log_.update(fmt::format("epoch {}  step {}/{}  evaluating {} test samples", progress_.epoch,
                            progress_.step, last_step_, format_count(test_data_.size())));
    last_evaluation_ = evaluate(network_, test_data_, test_data_.indices(), config_.batch_size,
                                *config_.micro_batches);
    last_evaluation_step_ = progress_.step;
  }
  return *last_evaluation_;
}

void Trainer::finish_epoch() {
  const Evaluation test = evaluate_test();
  const auto samples = static_cast<double>(progress_.epoch_samples);
  const double train_loss = progress_.epoch_loss_sum / samples;
  const double train_accuracy = static_cast<double>(progress_.epoch_correct) / samples;
  const bool best = test.accuracy > progress_.best_accuracy;
  progress_.best_accuracy = std::max(progress_.best_accuracy, test.accuracy);
  log_.print(
      fmt::format("epoch {} done: train loss {:.4f} accuracy {:.3f}, test loss {:.4f} accuracy "
                  "{:.3f}{}, rate {:.3g}",
                  progress_.epoch, train_loss, train_accuracy, test.loss, test.accuracy,
                  best ? " (best)" : "", progress_.learning_rate));
  metrics_.write({{"kind", "epoch"},
                  {"epoch", progress_.epoch},
                  {"step", progress_.step},
                  {"train_loss", train_loss},
                  {"train_accuracy", train_accuracy},
                  {"test_loss", test.loss},
                  {"test_accuracy", test.accuracy},
                  {"best_accuracy", progress_.best_accuracy},
                  {"regularization",
                   progress_.epoch_regularization_sum / static_cast<double>(steps_per_epoch_)},
                  {"learning_rate", progress_.learning_rate},
                  {"seconds", timing_.total_seconds}});
  ++progress_.epoch;
  progress_.epoch_loss_sum = progress_.epoch_regularization_sum = 0;
  progress_.epoch_correct = progress_.epoch_samples = 0;
  if (best) write_file(output_ / "best.h5");
}

void Trainer::write_file(const fs::path& file) {
  CheckpointContents contents{
      .config = stored_config(config_, network_.architecture()),
      .root_attributes = Attributes::object(),
      .progress = to_attributes(progress_, config_.seed),
      .arrays = array_slices(network_.map(), ArraySet::all, "/model", network_.values().data())};
  for (ArraySlice& slice : array_slices(network_.map(), ArraySet::trainable, "/optimizer/momentum",
                                        training_.velocity().data()))
    contents.arrays.push_back(std::move(slice));
  write_checkpoint(file, contents, communicator_.handle());
}

void Trainer::save() {
  const auto start = Clock::now();
  const fs::path file = output_ / checkpoint_name(progress_.step);
  write_file(file);
  last_saved_step_ = progress_.step;
  communicator_.agree([&] {
    if (!communicator_.is_root()) return;
    publish_link(file, output_ / "latest.h5");
    if (config_.keep_checkpoints == 0) return;
    std::vector<fs::path> files = list_checkpoints(output_);
    const auto keep = static_cast<std::size_t>(config_.keep_checkpoints);
    for (std::size_t i = 0; i + keep < files.size(); ++i) fs::remove(files[i]);
  });
  time_limit_.note_save(seconds_since(start));
}

void Trainer::finish(ExitStatus status) {
  if (status == ExitStatus::stopped) {
    log_.print(fmt::format("stopped {} after step {}; saved {}",
                           out_of_time_ ? "before the time limit" : "by a signal", progress_.step,
                           (output_ / checkpoint_name(progress_.step)).string()));
    return;
  }
  const Evaluation test = evaluate_test();
  const MemoryReport memory = gather_memory(communicator_);
  if (!communicator_.is_root()) return;
  metrics_.write({{"kind", "end"},
                  {"epoch", progress_.epoch},
                  {"step", progress_.step},
                  {"test_loss", test.loss},
                  {"test_accuracy", test.accuracy}});
  const double images_per_second =
      timing_.total_seconds > 0 ? static_cast<double>(timing_.total_images) / timing_.total_seconds
                                : 0;
  std::string text =
      fmt::format("\n{:<22}{:.4f} on {} samples{}\n", "test accuracy", test.accuracy,
                  format_count(test.samples),
                  progress_.epoch > 0 ? fmt::format(" (best epoch {:.4f})", progress_.best_accuracy)
                                      : std::string());
  text += fmt::format("{:<22}{:.4f}\n", "test loss", test.loss);
  text += fmt::format("{:<22}{:.1f}\n", "images/s", images_per_second);
  text += fmt::format("{:<22}{}\n", "peak memory a rank", peak_memory_text(memory));
  if (config_.grid_bits > 0)
    text += fmt::format("{:<22}{}\n", "reversal",
                        progress_.range.out_of_range == 0
                            ? std::string("exact: no state value left the range")
                            : fmt::format("approximate where {} state values left the range",
                                          format_count(progress_.range.out_of_range)));
  text += fmt::format("{:<22}{}", "files", output_.string());
  log_.print(text);
  if (config_.json.empty()) return;
  write_json(config_.json, {{"loss", test.loss},
                            {"accuracy", test.accuracy},
                            {"best_accuracy", progress_.best_accuracy},
                            {"samples", test.samples},
                            {"steps", progress_.step},
                            {"epochs", progress_.epoch},
                            {"images_per_second", images_per_second},
                            {"peak_memory_bytes", memory.peak_resident},
                            {"peak_bytes_by_use", peaks_by_category(memory)},
                            {"parameters", network_.architecture().num_parameters()},
                            {"ranks", communicator_.size()},
                            {"threads", network_.num_threads()},
                            {"out_of_range", progress_.range.out_of_range},
                            {"rounded_to_zero", progress_.range.rounded_to_zero},
                            {"output", output_.string()},
                            {"checkpoint", (output_ / checkpoint_name(progress_.step)).string()}});
}

}  // namespace revode
