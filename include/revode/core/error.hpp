// Errors and how they end the program. Knows nothing of ranks: main decides who prints.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace revode {

/// Exit statuses of the program.
enum class ExitStatus : int {
  success = 0,
  failure = 1,    ///< failed while running
  bad_input = 2,  ///< bad usage, configuration or input
  stopped = 75,   ///< stopped by a signal after saving
};

/// Who met an error: main prints a shared one on rank 0 alone; a rank's own ends the whole job.
enum class ErrorScope { this_rank, all_ranks };

/// One sentence for the user (what was found, what was expected, what to try) and the exit status
/// that goes with it.
class Error : public std::runtime_error {
 public:
  Error(ExitStatus status, const std::string& message, ErrorScope scope = ErrorScope::this_rank)
      : std::runtime_error(message), status_(status), scope_(scope) {}

  ExitStatus status() const { return status_; }
  ErrorScope scope() const { return scope_; }

 private:
  ExitStatus status_;
  ErrorScope scope_;
};

/// An error in what the user gave: an option, a file, a folder (exit status 2).
template <typename... Args>
Error input_error(fmt::format_string<Args...> format, Args&&... args) {
  return Error(ExitStatus::bad_input, fmt::format(format, std::forward<Args>(args)...));
}

/// An error while running: a disk that is full, a value that is not finite (exit status 1).
template <typename... Args>
Error run_error(fmt::format_string<Args...> format, Args&&... args) {
  return Error(ExitStatus::failure, fmt::format(format, std::forward<Args>(args)...));
}

/// The exception that is being handled, as an Error: one of ours as it is; of others what a person
/// can use, after `context` (what was being done) where nothing better is known. To be called in a
/// catch block.
Error current_error(std::string_view context = "internal error");

namespace detail {
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);
}  // namespace detail

}  // namespace revode

/// Always on, for input, files and shapes at public entries: throws an input_error with the message
/// given.
#define REVODE_REQUIRE(condition, ...)                          \
  do {                                                          \
    if (!(condition)) throw ::revode::input_error(__VA_ARGS__); \
  } while (false)

/// Always on, for our own mistakes at public entries: throws a std::logic_error, an internal error
/// (exit status 1).
#define REVODE_CHECK(condition, ...)                                      \
  do {                                                                    \
    if (!(condition)) throw std::logic_error(::fmt::format(__VA_ARGS__)); \
  } while (false)

/// Debug builds only, for our own mistakes. The expression must have no side effects.
#ifdef NDEBUG
#define REVODE_ASSERT(condition) static_cast<void>(0)
#else
#define REVODE_ASSERT(condition)      \
  ((condition) ? static_cast<void>(0) \
               : ::revode::detail::assertion_failed(#condition, __FILE__, __LINE__))
#endif
