// The one table of options. A new option is one row here and one field of Config; parsing,
// checking, --help, INI files and the checkpoint's config follow from the row. Words that a
// registry knows (architectures, datasets, schedules, backends) are asked for there.
#include "config/options.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <type_traits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "revode/backend/backend.hpp"
#include "revode/data/dataset.hpp"
#include "revode/model/architecture.hpp"
#include "revode/pipeline/schedule.hpp"

namespace revode {
namespace {

/// The condition holds for a number, or for every item of a list.
template <typename Condition>
std::function<bool(const Value&)> each(Condition condition) {
  return [condition](const Value& value) {
    const auto test = [&]<typename T>(const T& held) {
      if constexpr (std::is_same_v<T, std::vector<int>>) {
        return std::all_of(held.begin(), held.end(), condition);
      } else if constexpr (std::is_arithmetic_v<T>) {
        return condition(static_cast<double>(held));
      } else {
        return false;
      }
    };
    return std::visit(test, value);
  };
}

Rule whole(int low, std::string_view meaning = "") {
  return {.expects = fmt::format("a whole number of at least {}{}", low, meaning),
          .accepts = each([low](double number) { return number >= low; })};
}

Rule whole_between(int low, int high) {
  return {.expects = fmt::format("a whole number from {} to {}", low, high),
          .accepts = each([=](double number) { return number >= low && number <= high; })};
}

Rule counts() {
  return {.expects = "whole numbers of at least 1 separated by commas",
          .accepts = each([](double number) { return number >= 1; })};
}

Rule number_above(double low) {
  return {.expects = fmt::format("a number above {}", low),
          .accepts = each([low](double number) { return number > low; })};
}

Rule number_from(double low, std::string_view meaning = "") {
  return {.expects = fmt::format("a number of at least {}{}", low, meaning),
          .accepts = each([low](double number) { return number >= low; })};
}

Rule grid() {
  return {.expects = "0 (off) or a whole number from 8 to 22",
          .accepts = each([](double bits) { return bits == 0 || (bits >= 8 && bits <= 22); })};
}

Rule fraction() {
  return {.expects = "a number above 0 and at most 1",
          .accepts = each([](double number) { return number > 0 && number <= 1; })};
}

Rule momentum_factor() {
  return {.expects = "a number from 0 to below 1",
          .accepts = each([](double number) { return number >= 0 && number < 1; })};
}

Rule ascending_epochs() {
  const auto ascending = [](const Value& value) {
    const auto& epochs = std::get<std::vector<int>>(value);
    return std::adjacent_find(epochs.begin(), epochs.end(), std::greater_equal<>()) ==
               epochs.end() &&
           (epochs.empty() || epochs.front() >= 0);
  };
  return {.expects = "epochs in ascending order separated by commas (80,120,160), or none",
          .accepts = ascending,
          .may_be_none = true};
}

Rule one_of(std::vector<std::string> words) {
  std::string expects = fmt::format("{}", fmt::join(words.begin(), words.end() - 1, ", "));
  expects += (expects.empty() ? "" : " or ") + words.back();
  return {.expects = std::move(expects),
          .accepts =
              [words](const Value& value) {
                return std::find(words.begin(), words.end(), std::get<std::string>(value)) !=
                       words.end();
              },
          .choices = words};
}

std::vector<std::string> auto_and(std::vector<std::string> words) {
  words.insert(words.begin(), "auto");
  return words;
}

Rule on_or_off() { return {.expects = "on or off", .accepts = {}, .choices = {"on", "off"}}; }

Rule duration() {
  return {.expects = "hours and minutes (12:30), and seconds where wanted (12:30:00)",
          .accepts = [](const Value& value) {
            return parse_time_limit(std::get<std::string>(value)).has_value();
          }};
}

Rule bytes() {
  return {.expects = "bytes, with K, M, G or T where wanted (800M, 1.5G)",
          .accepts = [](const Value& value) {
            return parse_bytes(std::get<std::string>(value)).has_value();
          }};
}

Rule text(std::string expects) { return {.expects = std::move(expects), .accepts = {}}; }

Rule sample_range() {
  return {.expects = "first:last with 0 <= first < last (last is not included)",
          .accepts = [](const Value& value) {
            return parse_sample_range(std::get<std::string>(value)).has_value();
          }};
}

using enum Group;

/// Columns: name, value, help, default note, group, commands, place in the checkpoint, field,
/// rule[, bare value].
std::vector<Option> make_table() {
  using namespace commands;
  const unsigned writes = eval | gradient;
  const unsigned reads = writes | analyze;
  const unsigned trains = train | bench;
  const unsigned described = networks | plan;
  const unsigned pipelined = pipelines | plan;
  return {
      // The model.
      {"arch", "NAME", "architecture", "", model, described, Stored::model, &Config::arch,
       one_of(architecture_names())},
      {"depth", "D", "layers: 2 + 4 (hamiltonian) or 2 (others) a block",
       "74, or what --blocks makes", model, described, Stored::no, &Config::depth, whole(1)},
      {"blocks", "A,B,C", "blocks at each resolution", "from --depth", model, described,
       Stored::model, &Config::blocks, counts()},
      {"widths", "A,B,C", "channels at each resolution", "32,64,112; from depth 100 on 32,64,128",
       model, described, Stored::model, &Config::widths, counts()},
      {"step-size", "H", "time step of a block", "", model, described, Stored::model,
       &Config::step_size, number_above(0)},
      {"grid-bits", "G",
       "round increments to multiples of 2^-G, so that states are rebuilt bit for "
       "bit: 8 to 22; 0: off",
       "", model, described, Stored::model, &Config::grid_bits, grid()},

      // The data.
      {"dataset", "NAME", "images to train on or to evaluate", "", data, trains | reads | plan,
       Stored::run, &Config::dataset, one_of(dataset_names())},
      {"data-dir", "DIR", "folder that holds the dataset's binary files", "", data, trains | reads,
       Stored::no, &Config::data_dir, text("a folder")},
      {"image-size", "N",
       "side of the synthetic images in pixels; above 128 there are fewer, of as many pixels in "
       "all",
       "32", data, described, Stored::no, &Config::image_size,
       whole_between(smallest_image_size, largest_image_size)},
      {"train-fraction", "F", "train on this share of each class", "", data, trains | plan,
       Stored::run, &Config::train_fraction, fraction()},
      {"augment", "on|off", "random crops and flips while training", "", data, trains, Stored::run,
       &Config::augment, on_or_off(), "on"},
      {"split", "NAME", "split to read", "", data, reads, Stored::no, &Config::split,
       one_of({"train", "test"})},
      {"samples", "A:B", "samples A to B - 1 of the split, one mini-batch",
       "0:batch size; analyze: 0:4", data, gradient | analyze, Stored::no, &Config::samples,
       sample_range()},

      // Training.
      {"batch-size", "N", "images a step, over all replicas; verify takes 16 unless told", "",
       training, pipelined, Stored::run, &Config::batch_size, whole(1)},
      {"micro-batches", "N", "parts of a mini-batch that follow each other through the ranks",
       "4, fewer where the batch is smaller", training, pipelined, Stored::run,
       &Config::micro_batches, whole(1)},
      {"epochs", "N", "epochs, counted from the beginning of the run", "200; synthetic: 10",
       training, train | plan, Stored::policy, &Config::epochs, whole(0)},
      {"steps", "N",
       "steps, counted from the beginning of the run; the first of the two "
       "bounds ends it; bench: steps to time",
       "no bound; bench: 10", training, trains | plan, Stored::policy, &Config::steps, whole(0)},
      {"learning-rate", "R", "learning rate", "", training, trains, Stored::policy,
       &Config::learning_rate, number_from(0)},
      {"lr-decay-epochs", "A,B,..", "epochs from which on the rate is decayed; none: never", "",
       training, train, Stored::policy, &Config::lr_decay_epochs, ascending_epochs()},
      {"lr-decay", "F", "factor of each decay", "", training, train, Stored::policy,
       &Config::lr_decay, number_above(0)},
      {"warmup-epochs", "N", "epochs over which the rate rises to its value", "", training, train,
       Stored::policy, &Config::warmup_epochs, whole(0)},
      {"eval-every", "N", "epochs between evaluations on the test split; 0: at the end alone", "",
       training, train | plan, Stored::policy, &Config::eval_every,
       whole(0, " (0: at the end alone)")},
      {"momentum", "M", "momentum of SGD", "", training, trains, Stored::policy, &Config::momentum,
       momentum_factor()},
      {"weight-decay", "A", "weight of the squared kernels", "", training, trains | gradient,
       Stored::policy, &Config::weight_decay, number_from(0)},
      {"smoothness", "A", "weight of the smoothness of the weights in time", "", training,
       trains | gradient, Stored::policy, &Config::smoothness, number_from(0)},
      {"clip-norm", "C", "clip the norm of the gradient; 0: off", "", training, trains,
       Stored::policy, &Config::clip_norm, number_from(0, " (0: off)")},
      {"on-nonfinite", "NAME",
       "where a loss or a gradient is not finite: stop the run, skip the update, or rewind to the "
       "last checkpoint, with another order of the images and a lower rate for a while",
       "stop", training, train, Stored::policy, &Config::on_nonfinite,
       one_of({"stop", "skip", "rewind"})},
      {"max-rewinds", "N", "how often --on-nonfinite rewind may go back before the run stops", "3",
       training, train, Stored::policy, &Config::max_rewinds, whole_between(1, most_rewinds)},
      {"seed", "N", "seed of weights, shuffles and augmentation", "", training,
       trains | gradient | verify | analyze, Stored::run, &Config::seed,
       text("a whole number from 0 to 18446744073709551615")},

      // How it is computed.
      {"schedule", "NAME",
       "order of the micro-batches; auto: what the simulation finds best for the measured costs",
       "", computing, pipelined, Stored::no, &Config::schedule, one_of(auto_and(schedule_names()))},
      {"slices-per-rank", "V", "thin slices that a rank owns, every T-th of the depth",
       "1; train, bench and plan with --schedule auto: up to 4", computing, pipelined, Stored::no,
       &Config::slices_per_rank, whole(1)},
      {"partition", "NAME",
       "how the depth is cut: equal numbers of blocks, multiply-adds, or time measured at start-up",
       "", computing, trains | plan, Stored::no, &Config::partition,
       one_of({"uniform", "flops", "measured"})},
      {"machine", "FILE",
       "costs of layers from a file of bench --machine-file, instead of measuring", "", computing,
       trains | plan, Stored::no, &Config::machine, text("a machine file")},
      {"memory-limit", "SIZE",
       "most memory of a rank for weights and states (800M, 1.5G); --schedule auto heeds it",
       "no limit", computing, trains | plan, Stored::no, &Config::memory_limit, bytes()},
      {"ranks", "N", "ranks to plan for, which need not be there", "", computing, plan, Stored::no,
       &Config::ranks, whole(1)},
      {"ranks-per-node", "N", "ranks that share a node",
       "processors / threads a rank of the machine file", computing, plan, Stored::no,
       &Config::ranks_per_node, whole(1)},
      {"time-ranks", "T", "ranks that share the depth of a replica", "all ranks / D", computing,
       pipelined, Stored::no, &Config::time_ranks, whole(1)},
      {"data-ranks", "D", "replicas, which share the micro-batches; T x D is the number of ranks",
       "all ranks / T; 1 where neither is given", computing, pipelined, Stored::no,
       &Config::data_ranks, whole(1)},
      {"threads", "N", "threads a rank", "the cores it may use, shared with the host's ranks",
       computing, networks, Stored::no, &Config::threads, whole(1)},
      {"backend", "NAME", "kernels that compute", "", computing, networks, Stored::no,
       &Config::backend, one_of(auto_and(backend_names()))},
      {"precision", "NAME", "what the products of convolutions are rounded to; sums stay fp32", "",
       computing, networks, Stored::policy, &Config::precision, one_of(precision_names())},
      {"activations", "NAME", "rebuild states on the way back, or store them for comparison", "",
       computing, trains | gradient | verify | plan, Stored::no, &Config::activations,
       one_of({"reverse", "store"})},
      {"check-reversal", "N",
       "hold the states of every N-th step that are rebuilt against those of its forward sweep; 0: "
       "never",
       "", computing, train, Stored::no, &Config::check_reversal, whole(0, " (0: never)")},

      {"eigenvalues", "N", "eigenvalues of largest magnitude of each block and image; 0: all", "",
       computing, analyze, Stored::no, &Config::eigenvalues, whole(0, " (0: all)")},

      // Files and reports.
      {"output", "PATH", "train: folder of the run; eval, gradient: HDF5 file of the results",
       "train: runs/<arch>-<depth>-<dataset>", files, train | writes, Stored::no, &Config::output,
       text("a folder (train) or a file")},
      {"checkpoint-every", "N", "steps between checkpoints", "once an epoch", files, train | plan,
       Stored::no, &Config::checkpoint_every, whole(1)},
      {"keep-checkpoints", "N", "newest checkpoints to keep; 0: all", "", files, train, Stored::no,
       &Config::keep_checkpoints, whole(0, " (0: all)")},
      {"on-save-error", "NAME",
       "where a checkpoint or the metrics can't be written: end the run, or train on and try again",
       "", files, train, Stored::no, &Config::on_save_error, one_of({"stop", "continue"})},
      {"time-limit", "HH:MM[:SS]", "save and stop, as at a signal, before so long is over",
       "in a SLURM job: its end", files, train, Stored::no, &Config::time_limit, duration()},
      {"hang-timeout", "SECONDS", "end the job where nothing moves for so long; 0: never",
       "600, or more where a rank was busy for long; analyze: 0", files, networks, Stored::no,
       &Config::hang_timeout, whole(0, " (0: never)")},
      {"resume", "[FILE|auto]", "go on from a checkpoint; auto: the newest in --output", "", files,
       train, Stored::no, &Config::resume, text("a checkpoint or auto"), "auto"},
      {"checkpoint", "FILE", "checkpoint to read; train: start from its weights", "", files,
       trains | reads | info, Stored::no, &Config::checkpoint, text("a checkpoint")},
      {"json", "FILE", "write the result as one JSON object; -: to standard output", "", files, all,
       Stored::no, &Config::json, text("a file or -")},
      {"trace", "FILE",
       "write what every rank did in the last steps, for Perfetto (Chrome's format); plan: what it "
       "would do in one",
       "", files, trains | plan, Stored::no, &Config::trace, text("a file")},
      {"trace-steps", "N", "steps that --trace keeps", "10", files, trains, Stored::no,
       &Config::trace_steps, whole(1)},
      {"machine-file", "FILE", "write what the layers take here, to be read by --machine", "",
       files, bench, Stored::no, &Config::machine_file, text("a file")},
      {"log-every", "N", "steps between lines of the log", "", files, train | eval, Stored::no,
       &Config::log_every, whole(1)},
      {"progress", "NAME", "live progress line (auto: where it is a terminal)", "", files,
       train | eval, Stored::no, &Config::progress, one_of({"auto", "on", "off"})},

      // Not keys of an INI file.
      {"config", "FILE",
       "read options from an INI file (keys: option names); the command line "
       "goes first",
       "", general, all, Stored::no, &Config::config_file, text("an INI file")},
      {"check",
       "",
       "hold every byte of the file against its checksums",
       "",
       general,
       info,
       Stored::no,
       &Config::check,
       {}},
      {"search",
       "",
       "look for the best grid, micro-batches, schedule and slices",
       "",
       general,
       plan,
       Stored::no,
       &Config::search,
       {}},
      {"plan-only",
       "",
       "print what the run would take on its ranks, as plan does, and stop",
       "",
       general,
       train,
       Stored::no,
       &Config::plan_only,
       {}},
      {"print-config",
       "",
       "print the resolved options as an INI file and stop",
       "",
       general,
       all,
       Stored::no,
       &Config::print_config,
       {}},
      {"help", "", "print this text and stop", "", general, all, Stored::no, &Config::help, {}},
      {"version",
       "",
       "print version and revision and stop",
       "",
       general,
       all,
       Stored::no,
       &Config::version,
       {}},
  };
}

}  // namespace

std::string_view to_string(Group group) {
  static constexpr std::array<std::string_view, num_groups> headings{
      "Model", "Data", "Training", "Computing", "Files and reports", "General"};
  return headings[static_cast<std::size_t>(group)];
}

const std::vector<Option>& option_table() {
  static const std::vector<Option> table = make_table();
  return table;
}

const Option* find_option(std::string_view name) {
  const std::vector<Option>& table = option_table();
  const auto row = std::find_if(table.begin(), table.end(),
                                [&](const Option& option) { return option.name == name; });
  return row == table.end() ? nullptr : &*row;
}

std::vector<std::string> command_names() {
  return {"train", "eval", "gradient", "verify", "bench", "plan", "analyze", "info"};
}

std::string_view to_string(Command command) {
  static const std::vector<std::string> names = command_names();
  return names[static_cast<std::size_t>(command)];
}

std::optional<Command> find_command(std::string_view name) {
  const std::vector<std::string> names = command_names();
  const auto found = std::ranges::find(names, name);
  if (found == names.end()) return std::nullopt;
  return static_cast<Command>(found - names.begin());
}

}  // namespace revode
