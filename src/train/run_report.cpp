#include "revode/train/run_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/core/units.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/provenance.hpp"
#include "revode/train/schedule_choice.hpp"
#include "revode/train/work_balance.hpp"

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

/// A log that goes to a file gets a line at least so often.
constexpr double seconds_between_lines = 30;

RunLog make_log(const RunPlan& plan, const Grid& grid) {
  if (!grid.is_printer()) return {};
  std::FILE* stream = text_stream(plan.config);
  return {progress_style(plan.progress, stream), stream};
}

double accuracy_of(const StepReport& report) {
  return static_cast<double>(report.num_correct) / static_cast<double>(report.num_samples);
}

}  // namespace

RunReport::RunReport(Session& session, const StartPoint& start, std::int64_t last_step)
    : session_(session),
      start_(start),
      last_step_(last_step),
      log_(make_log(session.plan(), session.grid())) {}

void RunReport::begin(const std::vector<std::string>& set_aside,
                      const nlohmann::ordered_json& record, const std::string& block) {
  last_line_ = Clock::now();
  const Config& config = session_.config();
  const RunProgress& progress = session_.start_progress();
  const std::int64_t steps_per_epoch = session_.steps_per_epoch();
  if (start_.begins_anew)
    log_.print(fmt::format("no checkpoint in {} can be gone on from: starting from the beginning",
                           config.output));
  for (const std::string& line : set_aside) log_.print(line);
  std::string text = fmt::format("{}\n{}", provenance_line(record), block);
  text += fmt::format("{}: {} training samples ({} steps of {} an epoch), {} test samples\n",
                      config.dataset, format_count(session_.train_data().size()), steps_per_epoch,
                      config.batch_size, format_count(session_.test_data().size()));
  if (start_.kind == StartPoint::Kind::weights)
    text += fmt::format("starting from the weights of {}\n", start_.file);
  if (start_.kind == StartPoint::Kind::resume)
    text += fmt::format("going on from {} at step {}, epoch {}\n", start_.file, progress.step,
                        progress.epoch);
  if (progress.step >= last_step_)
    text += fmt::format(
        "nothing is left to train: step {} is the end that --steps and --epochs set;\nraise them "
        "to go on\n",
        progress.step);
  text += fmt::format("training to step {} (epoch {}); files in {}\n", last_step_,
                      (last_step_ + steps_per_epoch - 1) / steps_per_epoch, config.output);
  log_.print(text);
}

double RunReport::seconds_left(const RunProgress& progress) const {
  const double per_image = timing_.total_seconds / static_cast<double>(timing_.total_images);
  return static_cast<double>((last_step_ - progress.step) * session_.config().batch_size) *
         per_image;
}

double RunReport::images_per_second() const {
  return timing_.total_seconds > 0
             ? static_cast<double>(timing_.total_images) / timing_.total_seconds
             : 0;
}

void RunReport::step(const StepReport& report, const RunProgress& progress, double seconds) {
  timing_.step_seconds += seconds;
  Pipeline& pipeline = session_.network().pipeline();
  const double waiting = pipeline.take_waiting_seconds();
  timing_.waiting_seconds += waiting;
  timing_.total_waiting_seconds += waiting;
  timing_.total_work_seconds += pipeline.take_work_seconds();
  timing_.images += report.num_samples;
  timing_.total_seconds += seconds;
  timing_.total_images += report.num_samples;
  if (!speaks()) return;

  const double rate_now = static_cast<double>(timing_.images) / timing_.step_seconds;
  const bool skipped = !report.is_finite();
  const std::string text =
      fmt::format("epoch {} step {}/{} loss {:.4f} accuracy {:.3f} {:.1f} images/s ETA {}{}",
                  progress.epoch, progress.step, last_step_, report.loss, accuracy_of(report),
                  rate_now, format_duration(seconds_left(progress)), skipped ? " skipped" : "");
  log_.update(text);
  if (!skipped) note_range(report, progress);
  const bool on_record = skipped || progress.step % session_.config().log_every == 0;
  const std::chrono::duration<double> silence = Clock::now() - last_line_;
  const bool due = on_record || progress.step == session_.start_progress().step + 1 ||
                   progress.step >= last_step_ || silence.count() > seconds_between_lines;
  if (due && log_.style() == ProgressStyle::lines) {
    log_.print(text);
    last_line_ = Clock::now();
  }
  if (!on_record) return;
  nlohmann::ordered_json line{{"kind", "step"},
                              {"epoch", progress.epoch},
                              {"step", progress.step},
                              {"loss", report.loss},
                              {"accuracy", accuracy_of(report)},
                              {"regularization", report.regularization},
                              {"gradient_norm", report.gradient_norm},
                              {"learning_rate", progress.learning_rate},
                              {"out_of_range", report.range.out_of_range},
                              {"rounded_to_zero", report.range.rounded_to_zero},
                              {"largest_state", report.largest_state},
                              {"images_per_second", rate_now},
                              {"waiting_seconds", timing_.waiting_seconds},
                              {"seconds", timing_.total_seconds}};
  if (skipped) line["skipped"] = true;
  record(line);
  timing_.step_seconds = timing_.waiting_seconds = 0;
  timing_.images = 0;
}

/// Once a run.
void RunReport::note_range(const StepReport& report, const RunProgress& progress) {
  if (report.range.out_of_range == 0 || warned_of_range_) return;
  warned_of_range_ = true;
  log_.print(fmt::format(
      "note: at step {}, {} state values left the range |x| < 2^{}, in which reversal is exact;\n"
      "it is approximate there (a smaller --step-size or --grid-bits keeps it exact)",
      progress.step, format_count(report.range.out_of_range), 24 - session_.config().grid_bits));
}

void RunReport::skipped(const NonFinite& found, bool is_last) {
  if (!speaks()) return;
  log_.finish();
  print_note(fmt::format("{}; the step is skipped{}", found.event,
                         is_last ? "; others are counted at the end of their epoch" : ""));
}

void RunReport::repeated(const std::vector<Damage>& found, const std::string& when,
                         std::int64_t epoch, std::int64_t step) {
  num_repeated_ += std::ssize(found);
  if (!speaks()) return;
  for (const Damage& damage : found) {
    log_.finish();
    print_note(fmt::format("{}: {}; it is computed again", when, to_string(damage)));
    nlohmann::ordered_json line{{"kind", "repeat"},    {"epoch", epoch},
                                {"step", step},        {"found", to_string(damage.kind)},
                                {"rank", damage.rank}, {"slice", damage.slice}};
    if (damage.micro_batch != Damage::none) line["micro_batch"] = damage.micro_batch;
    record(line);
  }
}

void RunReport::rewinding(const NonFinite& found, const std::string& checkpoint, std::int64_t count,
                          int max_rewinds) {
  if (!speaks()) return;
  log_.finish();
  print_note(fmt::format("{}; going back to {} (rewind {} of {})", found.event, checkpoint, count,
                         max_rewinds));
}

void RunReport::rewound(const NonFinite& found, const RunProgress& progress,
                        const std::vector<std::string>& set_aside) {
  if (!speaks()) return;
  for (const std::string& line : set_aside) log_.print(line);
  log_.print(
      fmt::format("going on at step {}, epoch {}, with another order of the images and "
                  "{:.3g} times the rate up to step {}",
                  progress.step, progress.epoch, progress.rate_factor(), progress.slow_until));
  record({{"kind", "rewind"},
          {"epoch", progress.epoch},
          {"step", progress.step},
          {"from_step", found.step},
          {"count", progress.num_rewinds()},
          {"reason", found.what},
          {"rate_factor", progress.rate_factor()},
          {"slow_until", progress.slow_until}});
}

void RunReport::evaluating(const RunProgress& progress) {
  log_.update(fmt::format("epoch {} step {}/{} evaluating {} test samples", progress.epoch,
                          progress.step, last_step_, format_count(session_.test_data().size())));
}

void RunReport::epoch(const RunProgress& progress, const std::optional<Evaluation>& test,
                      bool best) {
  if (!speaks()) return;
  const auto samples = static_cast<double>(progress.epoch_samples);
  const double train_loss = progress.epoch_loss_sum / samples;
  const double train_accuracy = static_cast<double>(progress.epoch_correct) / samples;
  const std::int64_t skipped =
      session_.steps_per_epoch() - progress.epoch_samples / session_.config().batch_size;
  std::string text = fmt::format("epoch {} done: ", progress.epoch);
  if (samples > 0)
    text += fmt::format("train loss {:.4f} accuracy {:.3f}{}", train_loss, train_accuracy,
                        skipped > 0 ? ", " : "");
  nlohmann::ordered_json record{{"kind", "epoch"},
                                {"epoch", progress.epoch},
                                {"step", progress.step},
                                {"train_loss", train_loss},
                                {"train_accuracy", train_accuracy}};
  if (skipped > 0) {
    text += fmt::format("{} of {} steps skipped", skipped, session_.steps_per_epoch());
    record["skipped_steps"] = skipped;
  }
  if (test) {
    text += fmt::format(", test loss {:.4f} accuracy {:.3f}{}", test->loss, test->accuracy,
                        best ? " (best)" : "");
    record.update({{"test_loss", test->loss},
                   {"test_accuracy", test->accuracy},
                   {"best_accuracy", progress.best_accuracy}});
  }
  const auto steps = static_cast<double>(session_.steps_per_epoch() - skipped);
  record.update({{"regularization", progress.epoch_regularization_sum / steps},
                 {"learning_rate", progress.learning_rate},
                 {"seconds", timing_.total_seconds}});
  log_.print(fmt::format("{}, rate {:.3g}", text, progress.learning_rate));
  this->record(record);
}

void RunReport::record(const nlohmann::ordered_json& record) {
  try {
    metrics().write(record);
    note_metrics();
  } catch (const Error& error) {
    if (goes_on() && metrics_failure_.empty())
      print_note(
          fmt::format("{}; training goes on, and its lines are kept for later", error.what()));
    metrics_failure_ = error.what();
  }
}

void RunReport::require_metrics() {
  if (!speaks()) return;
  if (must_stop()) throw run_error("{}", metrics_failure_);
  metrics().flush();
  note_metrics();
}

void RunReport::note_metrics() {
  if (metrics_failure_.empty() || !goes_on()) return;
  print_note(
      fmt::format("{}: written again, with all lines that were kept", metrics().path().string()));
  metrics_failure_.clear();
}

void RunReport::save_failed(const RunProgress& progress, const std::string& reason,
                            const std::string& what_now) {
  if (!speaks()) return;
  if (!what_now.empty()) print_note(fmt::format("{}; {}", reason, what_now));
  if (!metrics_failure_.empty()) return;
  record({{"kind", "save_error"},
          {"epoch", progress.epoch},
          {"step", progress.step},
          {"reason", reason}});
}

void RunReport::saved_again(const std::string& checkpoint, int num_failures) {
  if (!speaks()) return;
  print_note(fmt::format("saved {} after {} that failed", checkpoint,
                         num_failures == 1 ? "a try" : fmt::format("{} tries", num_failures)));
}

void RunReport::stopped(const RunProgress& progress, const std::string& why,
                        const std::string& checkpoint, bool saved) {
  const std::string what =
      saved ? fmt::format("saved {}", checkpoint)
            : fmt::format("its weights are not finite, so the run will go on from {}", checkpoint);
  log_.print(fmt::format("stopped {} after step {}; {}\ngo on with: {}", why, progress.step, what,
                         resume_command(session_.config(), session_.grid().world().size())));
}

void RunReport::end_record(const RunProgress& progress, const Evaluation& test) {
  if (!speaks()) return;
  nlohmann::ordered_json line{{"kind", "end"},
                              {"epoch", progress.epoch},
                              {"step", progress.step},
                              {"test_loss", test.loss},
                              {"test_accuracy", test.accuracy}};
  if (num_repeated_ > 0) line["repeated"] = num_repeated_;
  record(line);
}

void RunReport::end(const RunProgress& progress, const Evaluation& test, double best_accuracy,
                    const MemoryReport& memory, const std::string& checkpoint) {
  const Grid& grid = session_.grid();
  const WorkBalance balance =
      gather_balance(timing_.total_images / session_.config().batch_size, timing_.total_seconds,
                     timing_.total_work_seconds, timing_.total_waiting_seconds, grid.world());
  if (!speaks()) return;
  nlohmann::ordered_json result{{"loss", test.loss},
                                {"accuracy", test.accuracy},
                                {"best_accuracy", best_accuracy},
                                {"samples", test.samples},
                                {"steps", progress.step},
                                {"epochs", progress.epoch},
                                {"images_per_second", images_per_second()},
                                {"peak_memory_bytes", memory.peak_resident},
                                {"peak_bytes_by_use", peaks_by_category(memory.ranks)},
                                {"parameters", session_.network().architecture().num_parameters()},
                                {"ranks", grid.world().size()},
                                {"threads", session_.network().num_threads()},
                                {"out_of_range", progress.range.out_of_range},
                                {"rounded_to_zero", progress.range.rounded_to_zero},
                                {"skipped_steps", progress.skipped},
                                {"rewinds", progress.num_rewinds()},
                                {"repeated", num_repeated_},
                                {"output", session_.config().output},
                                {"checkpoint", checkpoint}};
  if (!device_memory_text(memory).empty()) result["device_memory_bytes"] = device_peaks(memory);
  std::string of_balance;
  if (grid.time().size() > 1 && timing_.total_images > 0) {
    const RunPlan& plan = session_.network().plan();
    const SimulationResult step = simulate_step(plan, step_programs(plan));
    PredictedStep predicted{.bubble = step.bubble()};
    result.update({{"bubble", balance.bubble()},
                   {"bubble_predicted", predicted.bubble},
                   {"waiting_seconds", balance.waiting_seconds}});
    if (plan.costs_are_times) {
      predicted.seconds = step.seconds / giga;
      result.update(
          {{"step_seconds", balance.step_seconds / static_cast<double>(balance.num_steps)},
           {"step_seconds_predicted", *predicted.seconds}});
    }
    of_balance = balance_lines(balance, predicted, grid.hosts());
  }
  print_summary(progress, test, best_accuracy, memory, of_balance);
  write_json_result(session_.config(), result);
}

void RunReport::print_summary(const RunProgress& progress, const Evaluation& test,
                              double best_accuracy, const MemoryReport& memory,
                              const std::string& balance) {
  std::string text = fmt::format("\n{:<20}{:.4f} on {} samples (best {:.4f})\n", "test accuracy",
                                 test.accuracy, format_count(test.samples), best_accuracy);
  text += fmt::format("{:<20}{:.4f}\n", "test loss", test.loss);
  text += fmt::format("{:<20}{:.1f}\n", "images/s", images_per_second());
  text += balance;
  text += fmt::format("{:<20}{}\n", "peak memory a rank", peak_memory_text(memory, 20));
  if (const std::string device = device_memory_text(memory); !device.empty())
    text += fmt::format("{:<20}{}\n", "on its device", device);
  if (session_.config().grid_bits > 0)
    text += fmt::format("{:<20}{}\n", "reversal",
                        progress.range.out_of_range == 0
                            ? std::string("exact: no state value left the range")
                            : fmt::format("approximate where {} state values left the range",
                                          format_count(progress.range.out_of_range)));
  if (progress.skipped > 0)
    text += fmt::format("{:<20}{}\n", "skipped steps", format_count(progress.skipped));
  if (num_repeated_ > 0)
    text += fmt::format("{:<20}{}: numbers had changed\n", "computed again",
                        format_count(num_repeated_));
  if (progress.num_rewinds() > 0)
    text +=
        fmt::format("{:<20}{}, to step{} {}\n", "rewinds", progress.num_rewinds(),
                    progress.num_rewinds() == 1 ? "" : "s", fmt::join(progress.rewound_to, ", "));
  text += fmt::format("{:<20}{}", "files", session_.config().output);
  log_.print(text);
}

}  // namespace revode
