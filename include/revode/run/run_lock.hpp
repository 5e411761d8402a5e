// One run a folder: the sign that a process is writing there.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

namespace revode {

/// How a folder is held.
struct LockSettings {
  /// Locks of the system where the file system has them: they die with their process. Without them
  /// (false in tests, and on file systems that have none) what counts is whether the holder gives
  /// signs of life.
  bool system_locks = true;
  std::chrono::milliseconds beat{5000};      ///< between two signs of life
  std::chrono::milliseconds silence{60000};  ///< after which a holder counts as dead
};

/// Holds a folder until it goes. In the folder there is a file of file_name meanwhile: host,
/// process, job, and a count that goes up with each sign of life.
class RunLock {
 public:
  static constexpr const char* file_name = ".revode-lock";

  /// Throws an input error naming the holder where another process holds the folder. A holder that
  /// is known to be dead, or silent for so long, is followed with a note. The folder must exist.
  explicit RunLock(const std::filesystem::path& folder, LockSettings settings = {});
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// False once another process has taken the folder: this one had been silent for too long
  /// (stopped, or swapped out).
  bool held() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace revode
