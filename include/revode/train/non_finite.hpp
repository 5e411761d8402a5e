// Numbers of a run that are not finite: what was met where, and the error that it becomes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "revode/core/error.hpp"

namespace revode {

/// What may help a run that has diverged.
inline constexpr const char* divergence_advice =
    "a smaller --learning-rate or --step-size, or --clip-norm, may help";

/// In words, the same on every rank.
struct NonFinite {
  std::string what;       ///< "the loss is not finite", say: the same on any grid
  std::string event;      ///< what, when and where
  std::string advice;     ///< may be empty
  std::int64_t step = 0;  ///< of a run: the one that was not done, or after which it was met
};

/// An error that all ranks share.
class NonFiniteError : public Error {
 public:
  /// more: something to be added.
  explicit NonFiniteError(NonFinite found, const std::string& more = "")
      : Error(ExitStatus::failure, sentence(found, more), ErrorScope::all_ranks),
        found_(std::move(found)) {}

  const NonFinite& found() const { return found_; }

 private:
  static std::string sentence(const NonFinite& found, const std::string& more) {
    std::string text = found.event;
    for (const std::string& part : {found.advice, more})
      if (!part.empty()) text += "; " + part;
    return text;
  }

  NonFinite found_;
};

}  // namespace revode
