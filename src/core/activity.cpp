#include "revode/core/activity.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>

#include <fmt/format.h>

namespace revode {
namespace {

/// What lies deeper is counted, and not told.
constexpr std::size_t largest_depth = 16;

struct Stack {
  std::mutex mutex;
  std::array<Activity, largest_depth> activities;
  std::size_t depth = 0;
  std::uint64_t changes = 0;
};

Stack& stack() {
  static Stack of_process;
  return of_process;
}

}  // namespace

std::string to_string(const Activity& activity) {
  std::vector<std::string> places;
  if (activity.step != Activity::none) places.push_back(fmt::format("step {}", activity.step));
  if (activity.micro_batch != Activity::none)
    places.push_back(fmt::format("micro-batch {}", activity.micro_batch));
  if (activity.slice != Activity::none) places.push_back(fmt::format("slice {}", activity.slice));
  if (places.empty()) return std::string(activity.what);
  return fmt::format("{} ({})", activity.what, fmt::join(places, ", "));
}

ActivityScope::ActivityScope(const Activity& activity) {
  if (on_activity != nullptr) on_activity(activity);
  const std::lock_guard lock(stack().mutex);
  if (stack().depth < largest_depth) stack().activities[stack().depth] = activity;
  ++stack().depth;
  ++stack().changes;
}

ActivityScope::~ActivityScope() {
  const std::lock_guard lock(stack().mutex);
  --stack().depth;
  ++stack().changes;
}

ActivityState current_activity() {
  const std::lock_guard lock(stack().mutex);
  const std::size_t told = std::min(stack().depth, largest_depth);
  return {{stack().activities.begin(), stack().activities.begin() + told}, stack().changes};
}

}  // namespace revode
