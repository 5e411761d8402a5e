// What the table of options says in words: --help, --version, INI files.
#include <cerrno>
#include <sstream>

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "revode/config/config.hpp"
#include "revode/core/error.hpp"

#include "config/ini_file.hpp"
#include "config/options.hpp"

namespace revode {
namespace {

namespace po = boost::program_options;

constexpr unsigned help_columns = 98;

constexpr std::string_view train_usage =
    R"(revode trains reversible ODE networks cut into time slices over MPI ranks.

Usage: revode [command] [options]            without a command: train

Commands:
  train      train a network; go on with a run by --resume
  eval       loss and accuracy of a checkpoint on a split
  gradient   loss and gradient of a few samples, nothing updated
  verify     check this build on this machine
  bench      how fast it trains here: images/s, GFLOP/s, phases, memory
  plan       what training would take on ranks that need not be there, and on which grid
  analyze    spectra, growth and reversal error of a network, by depth
  info       what a checkpoint holds
`revode COMMAND --help` lists the options of a command.
)";

constexpr std::string_view train_examples = R"(
Examples:
  revode                                                   train on built-in images
  mpirun -n 8 revode --depth 1202                          the same, 1202 layers cut over 8 ranks
  mpirun -n 4 revode --dataset cifar10 --data-dir DIR      train on CIFAR-10
  mpirun -n 3 revode --output RUN --resume                 go on with the run in RUN, on 3 ranks
  revode --config configs/laptop.ini --print-config        print the resolved options
)";

struct CommandTexts {
  std::string_view usage;
  std::string_view examples;
};

CommandTexts texts_of(Command command) {
  if (command == Command::eval) {
    return {
        "Usage: revode eval --checkpoint FILE [options]\n"
        "Prints loss and accuracy of a checkpoint on a split.\n",
        "\nExamples:\n"
        "  revode eval --checkpoint RUN/best.h5 --data-dir DIR --split test\n"
        "  mpirun -n 4 revode eval --checkpoint RUN/latest.h5 --output logits.h5\n"};
  }
  if (command == Command::gradient) {
    return {
        "Usage: revode gradient [--checkpoint FILE] [--samples A:B] --output FILE [options]\n"
        "Writes loss and gradient of some samples, in training mode, without augmentation.\n",
        "\nExample:\n"
        "  revode gradient --checkpoint RUN/latest.h5 --samples 0:32 --output gradient.h5\n"};
  }
  if (command == Command::verify) {
    return {
        "Usage: revode verify [options]\n"
        "Checks this build on this machine: round trip, gradient, store = reverse, serial = "
        "distributed.\n",
        "\nExample:\n  mpirun -n 4 revode verify\n"};
  }
  if (command == Command::bench) {
    return {
        "Usage: revode bench [options]\n"
        "Times training steps, forward sweeps and their phases, against the peak of this "
        "machine.\n",
        "\nExamples:\n"
        "  revode bench --depth 74 --micro-batches 1 --threads 2\n"
        "  mpirun -n 2 revode bench --arch leapfrog --depth 26 --threads 1 --json bench.json\n"};
  }
  if (command == Command::plan) {
    return {
        "Usage: revode plan --ranks N --machine FILE [--search] [options]\n"
        "Predicts what training takes on N ranks, which need not be there: time, memory, "
        "messages.\n",
        "\nExamples:\n"
        "  mpirun -n 2 revode bench --depth 1202 --machine-file node.json\n"
        "  revode plan --ranks 64 --depth 1202 --machine node.json\n"
        "  revode plan --ranks 1024 --depth 10002 --machine node.json --search --memory-limit "
        "2G\n"};
  }
  if (command == Command::analyze) {
    return {
        "Usage: revode analyze [--checkpoint FILE] [options]\n"
        "Looks at a network, block by block: eigenvalues of its Jacobians at the states that "
        "images\n"
        "have in it, growth of perturbations and adjoints, reversal error, weights. Ranks share "
        "the\n"
        "blocks; each holds the whole network.\n",
        "\nExamples:\n"
        "  revode analyze --arch midpoint --depth 26                      initial weights\n"
        "  mpirun -n 8 revode analyze --checkpoint RUN/best.h5 --json analysis.json\n"};
  }
  if (command == Command::info) {
    return {"Usage: revode info FILE [options]\nPrints what a checkpoint holds.\n",
            "\nExample:\n  revode info RUN/latest.h5\n"};
  }
  return {train_usage, train_examples};
}

/// "text: choices (default)".
std::string description_of(const Option& option) {
  std::string text = option.help;
  if (!option.rule.choices.empty() && option.value_name == "NAME") {
    text += fmt::format(": {}", fmt::join(option.rule.choices, ", "));
  }
  const std::optional<Value> preset = get_value(option, Config{});
  if (!option.default_note.empty()) {
    text += fmt::format(" (default {})", option.default_note);
  } else if (preset && !option.is_switch()) {
    text += fmt::format(" (default {})", to_text(*preset));
  }
  return text;
}

template <typename Visit>
void for_each_option(Group group, Command command, Visit visit) {
  for (const Option& option : option_table()) {
    if (option.group == group && option.taken_by(command)) visit(option);
  }
}

}  // namespace

std::string help_text(Command command) {
  const CommandTexts texts = texts_of(command);
  po::options_description all("", help_columns, help_columns / 2);
  for (int index = 0; index < num_groups; ++index) {
    const auto group = static_cast<Group>(index);
    po::options_description section(std::string(to_string(group)), help_columns, help_columns / 2);
    for_each_option(group, command, [&](const Option& option) {
      const std::string description = description_of(option);
      if (option.is_switch()) {
        section.add_options()(option.name.c_str(), description.c_str());
      } else {
        section.add_options()(option.name.c_str(),
                              po::value<std::string>()->value_name(option.value_name),
                              description.c_str());
      }
    });
    if (!section.options().empty()) all.add(section);
  }
  std::ostringstream stream;
  stream << texts.usage << all << texts.examples;
  // Boost leaves the blank at which it broke a line.
  std::string text;
  std::istringstream lines(stream.str());
  for (std::string line; std::getline(lines, line);) {
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

std::vector<OptionText> option_texts(const Config& config) {
  std::vector<OptionText> texts{{"command", std::string(to_string(config.command)), true}};
  for (const Option& option : option_table()) {
    const std::optional<Value> value = get_value(option, config);
    texts.push_back({option.name, value ? to_text(*value) : "", config.given(option.name)});
  }
  return texts;
}

std::string resume_command(const Config& config, int num_ranks) {
  const auto quoted = [](const std::string& word) {
    constexpr std::string_view plain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,=+@%";
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
    std::string text = "'";
    for (const char character : word)
      text += character == '\'' ? "'\\''" : std::string(1, character);
    return text + "'";
  };
  std::string command = num_ranks > 1 ? fmt::format("mpirun -n {} ", num_ranks) : "";
  command += fmt::format("{} --output {} --resume auto", quoted(program_invocation_name),
                         quoted(config.output));
  for (const Option& option : option_table()) {
    const bool said =
        option.name == "output" || option.name == "resume" || option.name == "checkpoint";
    // The checkpoint's blocks and image.
    const bool is_known = option.name == "depth" || option.name == "image-size";
    if (said || is_known || option.stored != Stored::no || !option.is_ini_key()) continue;
    const std::optional<Value> value = get_value(option, config);
    if (config.given(option.name) && value)
      command += fmt::format(" --{} {}", option.name, quoted(to_text(*value)));
  }
  return command;
}

std::string version_text() { return "revode " REVODE_VERSION; }

std::string config_to_ini(const Config& config) {
  std::string ini;
  for (int index = 0; index < num_groups; ++index) {
    const auto group = static_cast<Group>(index);
    std::string lines;
    for_each_option(group, config.command, [&](const Option& option) {
      const std::optional<Value> value = get_value(option, config);
      if (!option.is_ini_key() || !value) return;
      lines += fmt::format("{} = {}\n", option.name, ini_value(to_text(*value)));
    });
    if (!lines.empty()) {
      ini += fmt::format("{}# {}\n{}", ini.empty() ? "" : "\n", to_string(group), lines);
    }
  }
  return ini;
}

}  // namespace revode
