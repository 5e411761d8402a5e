// Which backends there are. A new one is a folder of its own and one line here.
#include <fmt/ranges.h>

#include "revode/backend/backend.hpp"
#include "revode/core/error.hpp"

namespace revode {
namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Backend<float>> (*make)(int num_threads);
};

// The first is what "auto" means.
constexpr Entry entries[] = {
    {"cpu", make_cpu_backend},
    {"reference", [](int) { return make_reference_backend<float>(); }},
};

}  // namespace

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.emplace_back(entry.name);
  return names;
}

std::unique_ptr<Backend<float>> make_backend(std::string_view name, int num_threads) {
  for (const Entry& entry : entries)
    if (name == "auto" || name == entry.name) return entry.make(num_threads);
  throw input_error("--backend: found '{}', expected auto, {}", name,
                    fmt::join(backend_names(), ", "));
}

}  // namespace revode
