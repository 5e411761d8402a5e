// Values of options: from text, from JSON, to text, to JSON, into and out of Config. Which options
// exist is options.cpp's.
#include <algorithm>
#include <type_traits>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"

#include "config/options.hpp"

namespace revode {
namespace {

/// std::optional<T> -> T.
template <typename T>
struct Held {
  using type = T;
};
template <typename T>
struct Held<std::optional<T>> {
  using type = T;
};

template <typename T>
constexpr bool is_optional = !std::is_same_v<T, typename Held<T>::type>;

std::optional<std::vector<int>> parse_list(std::string_view text, bool may_be_none) {
  std::vector<int> list;
  if (may_be_none && text == "none") return list;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::optional<int> item = parse_number<int>(text.substr(0, comma));
    if (!item) return std::nullopt;
    list.push_back(*item);
    if (comma == std::string_view::npos) return list;
    text.remove_prefix(comma + 1);
  }
}

template <typename T>
std::optional<Value> parse_as(std::string_view text, const Rule& rule) {
  std::optional<T> parsed;
  if constexpr (std::is_same_v<T, bool>) {
    if (text == "on") parsed = true;
    if (text == "off") parsed = false;
  } else if constexpr (std::is_same_v<T, std::string>) {
    // A control character could not be written to config.ini and read back.
    const bool plain = std::none_of(text.begin(), text.end(),
                                    [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; });
    if (!text.empty() && plain) parsed = std::string(text);
  } else if constexpr (std::is_same_v<T, std::vector<int>>) {
    parsed = parse_list(text, rule.may_be_none);
  } else {
    parsed = parse_number<T>(text);
  }
  if (!parsed) return std::nullopt;
  return Value(std::move(*parsed));
}

template <typename T>
std::optional<Value> from_json_as(const nlohmann::json& json, const Rule& rule) {
  if constexpr (std::is_same_v<T, bool>) {
    if (json.is_boolean()) return Value(json.get<bool>());
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (json.is_string()) return parse_as<T>(json.get<std::string>(), rule);
  } else if constexpr (std::is_same_v<T, double>) {
    if (json.is_number()) return Value(json.get<double>());
  } else if constexpr (std::is_same_v<T, std::vector<int>>) {
    if (!json.is_array()) return std::nullopt;
    std::vector<int> list;
    for (const nlohmann::json& item : json) {
      const std::optional<Value> number = from_json_as<int>(item, rule);
      if (!number) return std::nullopt;
      list.push_back(std::get<int>(*number));
    }
    return Value(std::move(list));
  } else {
    // The digits of a JSON integer, read with the range check of the command line.
    if (json.is_number_integer()) return parse_as<T>(to_text(json), rule);
  }
  return std::nullopt;
}

/// Checks `value`, read from what the user sees as `found`, against the row's rule.
Value checked(const Option& option, std::optional<Value> value, std::string_view found,
              std::string_view where) {
  const Rule& rule = option.rule;
  if (!value || (rule.accepts && !rule.accepts(*value))) {
    if (rule.choices.empty()) {
      const bool digits = !found.empty() && found.find_first_not_of("0123456789") == found.npos;
      throw input_error("{}: found '{}'{}, expected {}", where, found,
                        digits && !value ? ", which is too large" : "", rule.expects);
    }
    throw input_error("{}: found '{}', expected {}; did you mean '{}'?", where, found, rule.expects,
                      nearest(found, rule.choices));
  }
  return std::move(*value);
}

}  // namespace

Value parse_value(const Option& option, std::string_view text, std::string_view where) {
  const auto parse = [&]<typename T>(T Config::*) {
    return parse_as<typename Held<T>::type>(text, option.rule);
  };
  return checked(option, std::visit(parse, option.field), text, where);
}

Value value_from_json(const Option& option, const nlohmann::json& json, std::string_view where) {
  const auto read = [&]<typename T>(T Config::*) {
    return from_json_as<typename Held<T>::type>(json, option.rule);
  };
  const std::string found = json.is_string() ? json.get<std::string>() : to_text(json);
  return checked(option, std::visit(read, option.field), found, where);
}

std::string to_text(const Value& value) {
  const auto print = []<typename T>(const T& held) -> std::string {
    if constexpr (std::is_same_v<T, bool>) {
      return held ? "on" : "off";
    } else if constexpr (std::is_same_v<T, std::vector<int>>) {
      return held.empty() ? "none" : fmt::format("{}", fmt::join(held, ","));
    } else {
      return fmt::format("{}", held);
    }
  };
  return std::visit(print, value);
}

nlohmann::json to_json(const Value& value) {
  return std::visit([](const auto& held) { return nlohmann::json(held); }, value);
}

std::optional<Value> get_value(const Option& option, const Config& config) {
  const auto get = [&]<typename T>(T Config::*member) -> std::optional<Value> {
    const T& field = config.*member;
    if constexpr (is_optional<T>) {
      return field ? std::optional<Value>(*field) : std::nullopt;
    } else if constexpr (std::is_same_v<T, std::string>) {
      return field.empty() ? std::nullopt : std::optional<Value>(field);
    } else if constexpr (std::is_same_v<T, std::vector<int>>) {
      const bool unset = field.empty() && !option.rule.may_be_none;
      return unset ? std::nullopt : std::optional<Value>(field);
    } else {
      return Value(field);
    }
  };
  return std::visit(get, option.field);
}

void set_value(const Option& option, Config& config, const Value& value) {
  const auto set = [&]<typename T>(T Config::*member) {
    config.*member = std::get<typename Held<T>::type>(value);
  };
  std::visit(set, option.field);
}

}  // namespace revode
