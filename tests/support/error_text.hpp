// The message of the Error that an action throws, so that a test can look for what it must name.
#pragma once

#include <stdexcept>
#include <string>

#include "revode/core/error.hpp"

namespace revode {

/// "" where nothing is thrown. `expected` is the exit status that the error must carry; another
/// gives "wrong status: ...".
template <typename Action>
std::string error_text(ExitStatus expected, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return (error.status() == expected ? "" : "wrong status: ") + std::string(error.what());
  }
  return "";
}

/// "" where nothing is thrown: the message of a mistake of our own (REVODE_CHECK).
template <typename Action>
std::string mistake_text(Action&& action) {
  try {
    action();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace revode
