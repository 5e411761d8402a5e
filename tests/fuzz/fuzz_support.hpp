// What all fuzz targets share: what may come of an input that a fuzzer made up, and a folder for
// the files that it becomes.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"

#include "support/temporary_folder.hpp"

namespace revode {

/// Ends the process in the way that libFuzzer takes for a finding.
[[noreturn]] inline void finding(std::string_view what, std::string_view detail) {
  std::fprintf(stderr, "FINDING: %s: %s\n", std::string(what).c_str(),
               one_line(detail).substr(0, 2000).c_str());
  std::abort();
}

inline void require(bool holds, std::string_view what, std::string_view detail = "") {
  if (!holds) finding(what, detail);
}

/// Whether `action` accepts what it reads. The one other thing that it may do is to throw an input
/// error of one sentence; `input`: whose own line breaks a message may repeat (they are printed as
/// \n).
template <typename Action>
bool accepts(std::string_view input, Action&& action) {
  try {
    action();
    return true;
  } catch (const Error& error) {
    const std::string_view message = error.what();
    require(error.status() == ExitStatus::bad_input, "an error that is no input error", message);
    require(!message.empty(), "an error without a message");
    const bool breaks_of_input = input.find_first_of("\r\n") != input.npos ||
                                 input.find("\\") != input.npos;  // JSON's \n and \u000a
    require(breaks_of_input || message.find('\n') == message.npos,
            "an error message of several lines", message);
  } catch (const std::exception& error) {
    finding("an exception that is no Error", error.what());
  }
  return false;
}

/// Where this process puts files: in TMPDIR, which tools/fuzz points to memory.
inline const TemporaryFolder& scratch() {
  static const TemporaryFolder folder;
  return folder;
}

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace revode
