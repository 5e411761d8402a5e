// Messages that take one line whatever they hold, and results that do not get lost in silence.
#include "revode/core/console.hpp"

#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "revode/core/error.hpp"

namespace revode {
namespace {

/// Puts `file` in the place of a stream of this process for as long as it lives.
class Redirection {
 public:
  Redirection(int descriptor, const char* file)
      : descriptor_(descriptor), saved_(::dup(descriptor)) {
    const int opened = ::open(file, O_WRONLY);
    ::dup2(opened, descriptor);
    ::close(opened);
  }
  ~Redirection() {
    ::dup2(saved_, descriptor_);
    ::close(saved_);
  }

 private:
  int descriptor_, saved_;
};

TEST(Console, ControlCharactersAreSpeltOut) {
  EXPECT_EQ(one_line("plain text, with ümlauts"), "plain text, with ümlauts");
  EXPECT_EQ(one_line("a\nb\tc\x1b[2Jd\re\x7f"), "a\\nb\\tc\\x1b[2Jd\\x0de\\x7f");
}

TEST(Console, ErrorsAreOneLine) {
  testing::internal::CaptureStderr();
  print_error("first\nsecond");
  print_note("seen");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "revode: error: first\\nsecond\nrevode: note: seen\n");
}

TEST(Console, ErrorsThatCanNotBeWrittenAreLostInSilence) {
  const Redirection full(STDERR_FILENO, "/dev/full");
  print_error("nobody sees this");  // must neither throw nor abort
}

TEST(Console, ResultsThatCanNotBeWrittenAreErrors) {
  const Redirection full(STDOUT_FILENO, "/dev/full");
  try {
    print_result("{} images\n", 3);
    FAIL() << "the result was lost";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), ExitStatus::failure);
    EXPECT_NE(std::string(error.what()).find("standard output"), std::string::npos);
  }
}

TEST(Console, ClosedStreamsAreNotTakenByTheNextFile) {
  const int saved = ::dup(STDERR_FILENO);
  ::close(STDERR_FILENO);

  open_missing_streams();
  const int next = ::open("/dev/null", O_RDONLY);

  EXPECT_NE(next, STDERR_FILENO);
  ::close(next);
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
}

}  // namespace
}  // namespace revode
