// All options: one struct, one table (src/config/options.cpp) that parses, documents, validates,
// prints and goes into the checkpoint. Deliberately knows nothing of depth arithmetic or of how
// many ranks there are: what options mean together is run_plan.hpp's.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace revode {

enum class Command { train, eval, gradient, verify, bench, plan, analyze, info };
std::string_view to_string(Command command);

/// More rewinds than this no run may ask for.
inline constexpr int most_rewinds = 100;

/// Values after the command line and INI file, before a checkpoint's or the architecture's defaults
/// fill what is empty. Empty means: no value yet in an optional, "" in a string, {} in a list.
struct Config {
  Command command = Command::train;

  // The model. What is not given follows from the others (see Architecture).
  std::string arch = "hamiltonian";
  std::optional<int> depth;
  std::vector<int> blocks;
  std::vector<int> widths;
  double step_size = 0.1;
  int grid_bits = 16;

  // The data.
  std::string dataset = "synthetic";
  std::string data_dir;
  std::optional<int> image_size;  ///< of images that are drawn; default 32
  double train_fraction = 1;
  bool augment = true;

  // Training.
  int batch_size = 100;
  std::optional<int> micro_batches;  ///< default 4, fewer where the batch is smaller
  std::optional<int> epochs;         ///< default 200; synthetic: 10
  std::optional<std::int64_t> steps;
  double learning_rate = 0.1;
  std::vector<int> lr_decay_epochs{80, 120, 160};  ///< ascending; empty: the rate never decays
  double lr_decay = 0.1;
  int warmup_epochs = 0;
  int eval_every = 1;  ///< epochs; 0: at the end alone
  double momentum = 0.9;
  double weight_decay = 2e-4;
  double smoothness = 2e-4;
  double clip_norm = 0;            ///< 0: off
  std::string on_nonfinite;        ///< empty: stop
  std::optional<int> max_rewinds;  ///< default 3
  std::uint64_t seed = 1;

  // How it is computed.
  std::string schedule = "auto";
  std::optional<int> slices_per_rank;  ///< default 1; --schedule auto may take more
  std::string partition = "measured";
  std::string machine;                ///< a file
  std::optional<int> ranks;           ///< plan: of a job that is not there
  std::string memory_limit;           ///< "<number>[K|M|G|T]", bytes of a rank; empty: none
  std::optional<int> ranks_per_node;  ///< plan: default: what the machine file says
  std::optional<int> time_ranks;      ///< default: all ranks, shared with the replicas asked for
  std::optional<int> data_ranks;      ///< default: what --time-ranks leaves, else 1
  std::optional<int> threads;  ///< default: the rank's cores, shared with the host's other ranks
  std::string backend = "auto";
  std::string precision = "fp32";
  std::string activations = "reverse";
  int check_reversal = 0;  ///< steps from one check to the next; 0: never

  // Files and reports.
  std::string output;  ///< train: default "runs/<arch>-<depth>-<dataset>"; eval, gradient: a file
  std::optional<std::int64_t> checkpoint_every;  ///< steps; default once an epoch
  int keep_checkpoints = 3;                      ///< 0: all
  std::string on_save_error = "stop";
  std::string time_limit;           ///< "HH:MM[:SS]"; empty: none
  std::optional<int> hang_timeout;  ///< seconds; 0: none
  std::string resume;               ///< empty, "auto" or a file
  std::string checkpoint;           ///< a file
  std::string samples;              ///< "first:last"
  int eigenvalues = 6;              ///< analyze: of a block and image; 0: all
  std::string split = "test";
  std::string json;                ///< a file or "-"
  std::string trace;               ///< a file
  std::optional<int> trace_steps;  ///< default 10
  std::string machine_file;        ///< to be written
  int log_every = 10;              ///< steps
  std::string progress = "auto";

  // Asked for beside or instead of running; not keys of an INI file.
  std::string config_file;
  bool check = false;
  bool search = false;
  bool plan_only = false;
  bool print_config = false;
  bool help = false;
  bool version = false;

  /// Names of the options that the command line or the INI file gave (command line: all of them;
  /// INI: those the command takes).
  std::set<std::string, std::less<>> given_options;
  bool given(std::string_view option) const { return given_options.contains(option); }

  // What the texts above say.
  bool resumes_newest() const { return resume == "auto"; }
  bool json_to_stdout() const { return json == "-"; }  ///< then text for people does not go there
  bool json_to_file() const { return !json.empty() && !json_to_stdout(); }
};

/// Names of the commands of this version, in the order of their enum.
std::vector<std::string> command_names();

/// Reads `revode [command] [options]` and the INI file of --config beneath it. argv[0] is the
/// program and is not read. Every value is checked against its row of the table; options are
/// checked against each other by check_config() where no checkpoint is to be read
/// (Config::checkpoint and Config::resume empty). With --help or --version nothing else is checked.
/// Throws an input error that names the option (and file and line) at fault, and the nearest valid
/// word for a misspelt one. INI keys that the command does not take are checked and then left out,
/// so that one file serves all commands.
Config parse_command_line(int argc, const char* const* argv);

/// Checks options against each other: --micro-batches <= --batch-size (gradient: the number of
/// samples), --data-dir given exactly where the dataset needs it, --image-size only where it does
/// not, --trace-steps with --trace alone.
/// Called by parse_command_line() and apply_stored(); call it yourself where `--resume auto` found
/// no checkpoint. Throws an input error.
void check_config(const Config& config);

/// Seconds of "HH:MM" or "HH:MM:SS", with minutes and seconds below 60; nothing unless above 0.
std::optional<std::int64_t> parse_time_limit(std::string_view text);

/// Bytes of "800M", "1.5G" and the like, in powers of 1024; nothing unless it is at least 1.
std::optional<std::int64_t> parse_bytes(std::string_view text);

/// Samples first .. last - 1 of a split, as --samples names them.
struct SampleRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t size() const { return last - first; }
};
/// Reads "first:last"; nothing unless 0 <= first < last.
std::optional<SampleRange> parse_sample_range(std::string_view text);

/// Images of a mini-batch: --batch-size; for gradient and analyze the number of --samples where
/// they are given.
std::int64_t mini_batch_size(const Config& config);

/// What a checkpoint's config is read for, and so which given options may differ from it.
enum class StoredUse {
  model,   ///< eval, gradient, train --checkpoint: the model must agree, all else may differ
  resume,  ///< train --resume: model, data, batch size, micro-batches and seed must agree; rates,
           ///< steps, ranks may differ
};

/// Fills options that were not given from `stored` (a checkpoint's `config`, read from `file`),
/// then runs check_config(). Throws an input error naming option, given and stored value where they
/// contradict; where a key of the model is missing or malformed; and where the dataset's classes or
/// image shape differ from the stored ones. --depth is not stored: where it was given, the caller
/// compares it with the blocks that are filled in here.
void apply_stored(Config& config, const nlohmann::json& stored, StoredUse use,
                  std::string_view file);

/// The `config` attribute of a checkpoint: what determines the numbers. Keys are option names,
/// lists are arrays, numbers are numbers, --augment is a boolean; options without a value are left
/// out. The caller fills in blocks, widths and micro-batches before, and adds "classes" and
/// "image".
nlohmann::json config_to_json(const Config& config);

/// Every option of the command that has a value, as an INI file that --config reads back to the
/// same values.
std::string config_to_ini(const Config& config);

/// One option as the command line writes it; `text` is empty where it has no value.
struct OptionText {
  std::string name;
  std::string text;
  bool given = false;
};
/// The command (by the name "command"), then every option of the table, whether the command takes
/// it or not.
std::vector<OptionText> option_texts(const Config& config);

/// The command that goes on with the run in config.output, on `num_ranks` ranks, as a shell reads
/// it: with the options that were given and are not in a checkpoint.
std::string resume_command(const Config& config, int num_ranks);

/// --help of a command: usage, options in groups with their defaults, examples; at most 100
/// columns.
std::string help_text(Command command);

/// Name and version; --version adds the revision.
std::string version_text();

/// The revision of the source tree when the program was built, as `git describe` names it;
/// "unknown" outside a repository.
std::string source_revision();

/// The candidate that `word` abbreviates, else the one with the fewest insertions, deletions,
/// replacements and swaps of neighbouring letters away from it; the first of equals. candidates
/// must not be empty.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace revode
