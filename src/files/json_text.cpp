#include "revode/files/json_text.hpp"

#include <istream>

#include <nlohmann/json.hpp>

namespace revode {

nlohmann::json parse_json(std::string_view text) {
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

nlohmann::json parse_json(std::istream& text) {
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text) {
  return nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string to_text(const nlohmann::json& value, int indent) { return value.dump(indent); }

std::string to_text(const nlohmann::ordered_json& value, int indent) { return value.dump(indent); }

std::string to_printable_text(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace revode
