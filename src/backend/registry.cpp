// Which backends there are. A new one is a folder of its own and one line here.
#include <fmt/ranges.h>

#include "revode/backend/backend.hpp"
#include "revode/core/error.hpp"

#include "backend/cuda/plugin_loader.hpp"

namespace revode {
namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Backend<float>> (*make)(int num_threads);
};

constexpr Entry entries[] = {
    {"cpu", make_cpu_backend},
    {"cuda", [](int) { return cuda::make_plugin_backend(); }},
    {"reference", [](int) { return make_reference_backend<float>(); }},
};

/// Said by take_no_gpu().
std::string& reason_against_gpus() {
  static std::string reason;
  return reason;
}

}  // namespace

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.emplace_back(entry.name);
  return names;
}

std::vector<std::string> usable_backend_names() {
  std::vector<std::string> names = backend_names();
  if (!cuda::find_gpu().reason.empty()) std::erase(names, "cuda");
  return names;
}

NoGpu why_no_gpu() {
  if (!reason_against_gpus().empty()) return {reason_against_gpus(), true};
  return cuda::find_gpu();
}

void take_no_gpu(const std::string& reason) { reason_against_gpus() = reason; }

std::unique_ptr<Backend<float>> make_backend(std::string_view name, int num_threads) {
  if (name == "auto") name = why_no_gpu().reason.empty() ? "cuda" : "cpu";
  for (const Entry& entry : entries)
    if (name == entry.name) return entry.make(num_threads);
  throw input_error("--backend: found '{}', expected auto, {}", name,
                    fmt::join(backend_names(), ", "));
}

}  // namespace revode
