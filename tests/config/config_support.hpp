// For tests of options: a command line from words, and input errors with the parts their sentence
// must hold.
#pragma once

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "revode/config/config.hpp"
#include "revode/core/error.hpp"

namespace revode::test {

inline Config parse(const std::vector<std::string>& words) {
  std::vector<const char*> arguments{"revode"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  return parse_command_line(static_cast<int>(arguments.size()), arguments.data());
}

/// `action` must throw an input error whose message is one line that holds every one of `parts`.
template <typename Action>
void expect_input_error(Action action, const std::vector<std::string>& parts) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.status(), ExitStatus::bad_input) << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
    }
    return;
  }
  ADD_FAILURE() << "no error; expected one with '" << parts.front() << "'";
}

inline void expect_error(const std::vector<std::string>& words,
                         const std::vector<std::string>& parts) {
  SCOPED_TRACE(testing::PrintToString(words));
  expect_input_error([&] { parse(words); }, parts);
}

/// A file with a text, removed at the end of its scope.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    static std::atomic<int> count{0};
    path_ = std::filesystem::path(testing::TempDir()) /
            ("revode_config_" + std::to_string(getpid()) + "_" + std::to_string(count++) + ".ini");
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace revode::test
