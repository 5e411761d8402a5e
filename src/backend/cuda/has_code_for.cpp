#include <charconv>

#include "backend/cuda/plugin.hpp"

namespace revode::cuda {

bool has_code_for(int capability, std::string_view architectures) {
  while (!architectures.empty()) {
    const std::string_view one = architectures.substr(0, architectures.find(','));
    architectures.remove_prefix(one.size());
    if (!architectures.empty()) architectures.remove_prefix(1);

    int built_for = 0;
    const char* end = std::from_chars(one.data(), one.data() + one.size(), built_for).ptr;
    const std::string_view kind(end, static_cast<std::size_t>(one.data() + one.size() - end));
    // "80" is both kinds; "90a" runs on that capability alone.
    if (kind.starts_with('a')) {
      if (capability == built_for) return true;
      continue;
    }
    if (kind != "-real" && capability >= built_for) return true;
    if (kind != "-virtual" && capability / 10 == built_for / 10 && capability >= built_for)
      return true;
  }
  return false;
}

}  // namespace revode::cuda
