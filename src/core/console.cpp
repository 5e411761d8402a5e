#include "revode/core/console.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "revode/core/error.hpp"

namespace revode {
namespace {

void print_line(std::string_view kind, std::string_view message) noexcept {
  try {
    write_all(STDERR_FILENO, fmt::format("revode: {}: {}\n", kind, one_line(message)));
  } catch (...) {  // No memory for the line: the message as it is.
    write_all(STDERR_FILENO, message);
    write_all(STDERR_FILENO, "\n");
  }
}

}  // namespace

bool write_all(int descriptor, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t done = ::write(descriptor, text.data(), text.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(done));
  }
  return true;
}

std::string one_line(std::string_view text) {
  std::string line;
  for (const char character : text) {
    const auto code = static_cast<unsigned char>(character);
    if (character == '\n') {
      line += "\\n";
    } else if (character == '\t') {
      line += "\\t";
    } else if (code < ' ' || code == 0x7f) {
      line += fmt::format("\\x{:02x}", code);
    } else {
      line += character;
    }
  }
  return line;
}

void print_error(std::string_view message) noexcept { print_line("error", message); }

void print_note(std::string_view message) noexcept { print_line("note", message); }

void print_result(std::string_view text) {
  // Not through stdio: what it holds back would be lost, or written twice, where the flush fails.
  if (!write_all(STDOUT_FILENO, text))
    throw run_error("the result can't be written to standard output: {}", std::strerror(errno));
}

void open_missing_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    // The lowest free number is taken, which is this one. Only to read from: writing to what was
    // closed stays an error.
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) ::open("/dev/null", O_RDONLY);
}

}  // namespace revode
