// JSON as text. The library's parser and writer are templates that take seconds to compile: they
// are compiled here, once.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace revode {

/// Levels of a JSON text that is read: more than anything of ours has, and far from where copying
/// it or writing it out again, which goes a call deeper each level, would exhaust the stack.
inline constexpr int max_json_depth = 64;

/// What `text` says; a value that is_discarded() where it is no JSON, or of more levels.
nlohmann::json parse_json(std::string_view text);
nlohmann::json parse_json(std::istream& text);
/// The same, with the keys of objects in the order of the text.
nlohmann::ordered_json parse_ordered_json(std::string_view text);

/// In one line; with an indent in several. Throws the library's exception where a string is no
/// UTF-8.
std::string to_text(const nlohmann::json& value, int indent = -1);
std::string to_text(const nlohmann::ordered_json& value, int indent = -1);
/// For messages: what is no UTF-8 is replaced.
std::string to_printable_text(const nlohmann::json& value);

}  // namespace revode
