#include "revode/files/json_text.hpp"

#include <istream>
#include <utility>

#include <nlohmann/json.hpp>

namespace revode {

namespace {

template <typename Json, typename Text>
Json parse(Text&& text) {
  bool is_too_deep = false;
  const auto check_depth = [&](int depth, typename Json::parse_event_t, Json&) {
    is_too_deep |= depth > max_json_depth;
    return !is_too_deep;
  };
  Json value = Json::parse(std::forward<Text>(text), check_depth, /*allow_exceptions=*/false);
  return is_too_deep ? Json(Json::value_t::discarded) : value;
}

}  // namespace

nlohmann::json parse_json(std::string_view text) { return parse<nlohmann::json>(text); }

nlohmann::json parse_json(std::istream& text) { return parse<nlohmann::json>(text); }

nlohmann::ordered_json parse_ordered_json(std::string_view text) {
  return parse<nlohmann::ordered_json>(text);
}

std::string to_text(const nlohmann::json& value, int indent) { return value.dump(indent); }

std::string to_text(const nlohmann::ordered_json& value, int indent) { return value.dump(indent); }

std::string to_printable_text(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace revode
