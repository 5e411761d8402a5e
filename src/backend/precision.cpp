#include "revode/backend/precision.hpp"

#include <fmt/ranges.h>

#include "revode/core/error.hpp"

namespace revode {
namespace {

struct Entry {
  std::string_view name;
  Precision precision;
};

constexpr Entry entries[] = {
    {"fp32", Precision::fp32}, {"tf32", Precision::tf32}, {"bf16", Precision::bf16}};

}  // namespace

std::vector<std::string> precision_names() {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.emplace_back(entry.name);
  return names;
}

std::string_view to_string(Precision precision) {
  return entries[static_cast<int>(precision)].name;
}

Precision precision_of(std::string_view name) {
  for (const Entry& entry : entries)
    if (name == entry.name) return entry.precision;
  throw input_error("--precision: found '{}', expected one of {}", name,
                    fmt::join(precision_names(), ", "));
}

}  // namespace revode
