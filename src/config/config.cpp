// The command line and the INI file beneath it, and what options ask of each other. What single
// options are is the table's business (options.cpp).
#include "revode/config/config.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "revode/core/error.hpp"
#include "revode/data/dataset.hpp"

#include "config/ini_file.hpp"
#include "config/options.hpp"

namespace revode {
namespace {

namespace po = boost::program_options;

/// Option name -> the text that was given for it.
using Texts = std::map<std::string, std::string, std::less<>>;

Command parse_command(std::string_view word) {
  if (const std::optional<Command> command = find_command(word)) return *command;
  const std::vector<std::string> names = command_names();
  throw input_error("unknown command '{}': did you mean '{}'? Commands: {} (none: train)", word,
                    nearest(word, names), fmt::join(names, ", "));
}

[[noreturn]] void refuse_unknown_option(const std::string& name, Command command) {
  std::vector<std::string> names;
  for (const Option& option : option_table()) {
    if (option.taken_by(command)) names.push_back(option.name);
  }
  throw input_error("unknown option '--{}': did you mean '--{}'? `revode {} --help` lists all",
                    name, nearest(name, names), to_string(command));
}

/// Boost attaches optional values only after '=': "--resume FILE" becomes "--resume=FILE", and the
/// bare option its implied value.
std::vector<std::string> attach_optional_values(std::vector<std::string> words) {
  std::vector<std::string> attached;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool named = words[i].starts_with("--");
    const Option* option = named ? find_option(words[i].substr(2)) : nullptr;
    if (!option || option->implied_value.empty()) {
      attached.push_back(words[i]);
    } else if (i + 1 < words.size() && !words[i + 1].starts_with("-")) {
      attached.push_back(words[i] + "=" + words[i + 1]);
      ++i;
    } else {
      attached.push_back(words[i] + "=" + option->implied_value);
    }
  }
  return attached;
}

std::vector<po::option> split_into_options(const std::vector<std::string>& words) {
  po::options_description description;
  for (const Option& option : option_table()) {
    const po::value_semantic* value =
        option.is_switch()
            ? new po::untyped_value(true)
            : static_cast<po::value_semantic*>(new po::typed_value<std::string, char>(nullptr));
    description.add_options()(option.name.c_str(), value);
  }
  // No guessing: an abbreviation may be a misspelt option.
  using namespace po::command_line_style;
  try {
    return po::command_line_parser(words)
        .options(description)
        .style(allow_long | long_allow_adjacent | long_allow_next)
        .allow_unregistered()
        .run()
        .options;
  } catch (const po::invalid_command_line_syntax& error) {
    std::string name = error.get_option_name();
    name.erase(0, name.find_first_not_of('-'));
    const Option* option = find_option(name);
    if (option && option->is_switch()) throw input_error("--{} takes no value", name);
    throw input_error("--{} needs a value: expected {}", name,
                      option ? option->rule.expects : "a value");
  } catch (const po::error& error) {
    throw input_error("{}", error.what());
  }
}

/// The option's text, from one option of the command line as Boost split it.
std::string text_of(const Option& option, const po::option& given) {
  if (option.is_switch()) return "on";
  // "--depth --steps 5": Boost takes the next word, whatever it is.
  const bool next_word = given.original_tokens.size() > 1;
  const std::string& text = given.value.front();
  REVODE_REQUIRE(!next_word || !text.starts_with("--"),
                 "--{} needs a value before '{}': expected {}", option.name, text,
                 option.rule.expects);
  return text;
}

Texts read_command_line(const std::vector<std::string>& words, Command command) {
  Texts texts;
  const auto add = [&](const std::string& name, const std::string& text) {
    const auto [present, inserted] = texts.emplace(name, text);
    REVODE_REQUIRE(inserted, "--{} is given twice ('{}' and '{}'): give it once", name,
                   present->second, text);
  };
  for (const po::option& given : split_into_options(attach_optional_values(words))) {
    if (given.unregistered) refuse_unknown_option(given.string_key, command);
    if (given.string_key.empty()) {
      const std::string& word = given.value.front();
      if (word == "-h") {
        add("help", "on");
        continue;
      }
      if (word.size() > 1 && word.starts_with("-")) {
        refuse_unknown_option(word.substr(1), command);
      }
      REVODE_REQUIRE(!find_command(word), "the command '{}' must come first: revode {} [options]",
                     word, word);
      REVODE_REQUIRE(command == Command::info,
                     "'{}' is neither an option nor the value of one; options begin with --", word);
      add("checkpoint", word);
      continue;
    }
    const Option& option = *find_option(given.string_key);
    REVODE_REQUIRE(option.taken_by(command),
                   "revode {} does not take --{}; `revode {} --help` lists its options",
                   to_string(command), option.name, to_string(command));
    add(option.name, text_of(option, given));
  }
  return texts;
}

void apply_text(const Option& option, std::string_view text, std::string_view where,
                Config& config) {
  set_value(option, config, parse_value(option, text, where));
  config.given_options.insert(option.name);
}

/// Applies what the INI file says and the command line does not.
void apply_ini(const std::string& file, const Texts& command_line, Config& config) {
  // --depth and --blocks say the same thing: the command line's one replaces the file's other. A
  // dataset that is read has a size of its own, whatever the file's has.
  const auto dataset = command_line.find("dataset");
  const bool reads_images =
      dataset != command_line.end() && !dataset_info(dataset->second).is_drawn();
  const auto replaced = [&](const std::string& name) {
    return command_line.contains(name) || (name == "depth" && command_line.contains("blocks")) ||
           (name == "blocks" && command_line.contains("depth")) ||
           (name == "image-size" && reads_images);
  };
  for (const IniEntry& entry : read_ini_file(file)) {
    const std::string where = fmt::format("{} line {}: {}", file, entry.line, entry.key);
    const Option* option = find_option(entry.key);
    if (!option || !option->is_ini_key()) {
      std::vector<std::string> keys;
      for (const Option& row : option_table()) {
        if (row.is_ini_key()) keys.push_back(row.name);
      }
      REVODE_REQUIRE(!option, "{} is not a key of an INI file: give it on the command line", where);
      throw input_error("{} is not an option: did you mean '{}'?", where, nearest(entry.key, keys));
    }
    const Value value = parse_value(*option, entry.value, where);
    if (replaced(entry.key) || !option->taken_by(config.command)) continue;
    set_value(*option, config, value);
    config.given_options.insert(option->name);
  }
}

/// What holds whatever a checkpoint says.
void check_files(const Config& config) {
  REVODE_REQUIRE(config.resume.empty() || config.checkpoint.empty(),
                 "--resume and --checkpoint exclude each other: --resume goes on with a run, "
                 "--checkpoint starts a new one from given weights");
  const bool needs_checkpoint = config.command == Command::eval || config.command == Command::info;
  REVODE_REQUIRE(!needs_checkpoint || !config.checkpoint.empty() || config.print_config,
                 "revode {} needs --checkpoint FILE: the file to read", to_string(config.command));
}

}  // namespace

Config parse_command_line(int argc, const char* const* argv) {
  Config config;

  // 1. The command: the first word, unless that is an option.
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (!words.empty() && !words.front().starts_with("-")) {
    config.command = parse_command(words.front());
    words.erase(words.begin());
  }

  // 2. The command line, checked first, since its mistakes are the nearest at hand.
  const Texts texts = read_command_line(words, config.command);
  for (const auto& [name, text] : texts) {
    apply_text(*find_option(name), text, fmt::format("--{}", name), config);
  }
  if (config.help || config.version) return config;

  // 3. The INI file beneath it.
  if (!config.config_file.empty()) apply_ini(config.config_file, texts, config);

  // 4. Options against each other, as far as no checkpoint has a say.
  check_files(config);
  if (config.checkpoint.empty() && config.resume.empty()) check_config(config);
  return config;
}

std::optional<std::int64_t> parse_bytes(std::string_view text) {
  constexpr std::string_view units = "KMGT";
  double unit = 1;
  if (const auto power = text.empty() ? text.npos : units.find(text.back()); power != text.npos) {
    unit = std::ldexp(1.0, 10 * (static_cast<int>(power) + 1));
    text.remove_suffix(1);
  }
  const std::optional<double> number = parse_number<double>(text);
  constexpr double most = 0x1p62;
  if (!number || *number * unit < 1 || *number * unit > most) return std::nullopt;
  return static_cast<std::int64_t>(*number * unit);
}

std::optional<std::int64_t> parse_time_limit(std::string_view text) {
  std::vector<std::int64_t> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(':', begin), text.size());
    const auto part = parse_number<std::int64_t>(text.substr(begin, end - begin));
    const bool fits = part && *part >= 0 && *part < (parts.empty() ? 100000 : 60);
    if (!fits) return std::nullopt;
    parts.push_back(*part);
    begin = end + 1;
  }
  if (parts.size() < 2 || parts.size() > 3) return std::nullopt;
  const std::int64_t seconds = 3600 * parts[0] + 60 * parts[1] + (parts.size() == 3 ? parts[2] : 0);
  return seconds > 0 ? std::optional(seconds) : std::nullopt;
}

std::optional<SampleRange> parse_sample_range(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto first = parse_number<std::int64_t>(text.substr(0, colon));
  const auto last = parse_number<std::int64_t>(text.substr(colon + 1));
  if (!first || !last || *first < 0 || *first >= *last) return std::nullopt;
  return SampleRange{*first, *last};
}

std::int64_t mini_batch_size(const Config& config) {
  const bool names = config.command == Command::gradient || config.command == Command::analyze;
  const bool named = names && !config.samples.empty();
  const std::optional<SampleRange> samples =
      named ? parse_sample_range(config.samples) : std::nullopt;
  return samples ? samples->size() : config.batch_size;
}

void check_config(const Config& config) {
  check_files(config);

  const std::int64_t batch = mini_batch_size(config);
  REVODE_REQUIRE(config.micro_batches.value_or(1) <= batch,
                 "--micro-batches {}: expected at most {}, the images of a mini-batch",
                 config.micro_batches.value_or(1), batch);

  REVODE_REQUIRE(!config.trace_steps || !config.trace.empty(),
                 "--trace-steps {} without --trace FILE: say where the trace is to go",
                 config.trace_steps.value_or(0));

  REVODE_REQUIRE(config.machine.empty() || config.machine_file.empty(),
                 "--machine {} with --machine-file {}: one reads costs, the other measures and "
                 "writes them; give one",
                 config.machine, config.machine_file);

  const bool needs_folder = dataset_info(config.dataset, config.image_size).needs_folder;
  if (config.command == Command::plan) {  // it reads no images
    REVODE_REQUIRE(config.print_config || config.ranks,
                   "revode plan needs --ranks N: the ranks to plan for");
    REVODE_REQUIRE(
        config.print_config || !config.machine.empty(),
        "revode plan needs --machine FILE: what layers take on the machine; revode bench "
        "--machine-file FILE writes one there");
    return;
  }
  if (needs_folder && config.data_dir.empty() && !config.print_config) {
    throw input_error("--dataset {} needs --data-dir DIR: the folder that holds its binary files",
                      config.dataset);
  }
  if (!needs_folder && !config.data_dir.empty() && !config.given("dataset")) {
    std::vector<std::string> names = dataset_names();
    std::erase_if(names, [](const std::string& name) { return !dataset_info(name).needs_folder; });
    throw input_error("--data-dir {} without --dataset: say which it holds, {}", config.data_dir,
                      fmt::join(names, ", "));
  }
}

}  // namespace revode
