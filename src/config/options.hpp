// The table of options and what follows from a row: reading a value from text or JSON, checking,
// printing, storing it. Knows single options; which options there must be together is config.cpp's
// business.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/config/config.hpp"

namespace revode {

/// A value of any option.
using Value =
    std::variant<bool, int, std::int64_t, std::uint64_t, double, std::string, std::vector<int>>;

/// Where an option's value lives. Its type decides how the value is read and printed.
using Field = std::variant<bool Config::*, int Config::*, std::optional<int> Config::*,
                           std::optional<std::int64_t> Config::*, std::uint64_t Config::*,
                           double Config::*, std::string Config::*, std::vector<int> Config::*>;

/// The headings of --help, in its order.
enum class Group { model, data, training, computing, files, general };
inline constexpr int num_groups = 6;
std::string_view to_string(Group group);

/// Sets of commands, one bit a command.
namespace commands {
constexpr unsigned bit(Command command) { return 1u << static_cast<unsigned>(command); }
inline constexpr unsigned train = bit(Command::train);
inline constexpr unsigned eval = bit(Command::eval);
inline constexpr unsigned gradient = bit(Command::gradient);
inline constexpr unsigned verify = bit(Command::verify);
inline constexpr unsigned bench = bit(Command::bench);
inline constexpr unsigned plan = bit(Command::plan);
inline constexpr unsigned analyze = bit(Command::analyze);
inline constexpr unsigned info = bit(Command::info);
inline constexpr unsigned pipelines = train | eval | gradient | verify | bench;
inline constexpr unsigned networks = pipelines | analyze;
inline constexpr unsigned all = networks | plan | info;
}  // namespace commands

/// The place of an option in a checkpoint's config.
enum class Stored {
  no,      ///< it does not change the numbers
  model,   ///< part of the model: a reader must not contradict it
  run,     ///< part of the run: a resume must not contradict it
  policy,  ///< may change from one resume to the next
};

/// Which values an option takes, beyond the type of its field.
struct Rule {
  std::string expects;  ///< completes "expected ..."
  std::function<bool(const Value&)> accepts;
  std::vector<std::string> choices = {};  ///< the words, where the value is one of a few
  bool may_be_none = false;               ///< lists: the word "none" is the empty list
};

struct Option {
  std::string name;
  std::string value_name;  ///< empty: a switch
  std::string help;
  std::string
      default_note;  ///< in --help where Config{} holds no value: what follows from the rest
  Group group;
  unsigned commands;
  Stored stored;
  Field field;
  Rule rule;
  std::string implied_value = {};  ///< the value of the bare option, where it may stand alone

  bool taken_by(Command command) const { return (commands & commands::bit(command)) != 0; }
  bool is_switch() const { return value_name.empty(); }
  bool is_ini_key() const { return group != Group::general; }
};

/// All options, in the order of --help.
const std::vector<Option>& option_table();
/// Null where there is no such option.
const Option* find_option(std::string_view name);
/// Nothing for an unknown name.
std::optional<Command> find_command(std::string_view name);

/// The whole of `text` as a number; nothing for anything else, a value that does not fit, or one
/// that is not finite.
template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if constexpr (std::is_floating_point_v<Number>) {
    if (!std::isfinite(number)) return std::nullopt;
  }
  return number;
}

/// Reads a value of `option`. `where` opens the input error that is thrown for a value the row does
/// not take.
Value parse_value(const Option& option, std::string_view text, std::string_view where);
Value value_from_json(const Option& option, const nlohmann::json& json, std::string_view where);

/// As the command line and INI files write it; doubles in the shortest form that reads back to the
/// same bits.
std::string to_text(const Value& value);
nlohmann::json to_json(const Value& value);

/// The value in `config`; nothing where the field is empty.
std::optional<Value> get_value(const Option& option, const Config& config);
void set_value(const Option& option, Config& config, const Value& value);

}  // namespace revode
