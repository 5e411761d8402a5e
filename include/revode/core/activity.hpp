// What the main thread of this process is at, for another thread that watches over it: a stack of
// scopes, since a message is waited for within a sweep within a step. One stack a process: only its
// main thread calls MPI and HDF5. A scope costs two locks that nobody else wants.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace revode {

struct Activity {
  static constexpr int nobody = -1;  ///< it gets on by itself
  static constexpr int everybody = -2;
  static constexpr int none = -1;

  std::string_view what;  ///< of static storage: "writes a checkpoint"
  int waits_for =
      nobody;  ///< the rank of the job without which it does not get on, or one of these
  std::int64_t step = none;
  int micro_batch = none;  ///< of the mini-batch
  int slice = none;
};

/// "computes forward (micro-batch 3, slice 1)".
std::string to_string(const Activity& activity);

/// Is at `activity` while it lives; to be made by the main thread alone.
class ActivityScope {
 public:
  explicit ActivityScope(const Activity& activity);
  ~ActivityScope();
  ActivityScope(const ActivityScope&) = delete;
  ActivityScope& operator=(const ActivityScope&) = delete;
};

/// Called by the main thread at the beginning of every scope, before it counts: tests make ranks
/// fail there. Null: nobody is called.
inline void (*on_activity)(const Activity&) = nullptr;

struct ActivityState {
  std::vector<Activity> stack;  ///< the outermost first
  std::uint64_t changes = 0;    ///< scopes begun and ended so far
};
/// Of the main thread, now. For any thread.
ActivityState current_activity();

}  // namespace revode
