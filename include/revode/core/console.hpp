// The program's two streams. Errors and notes are one line each and never fail; results fail loudly
// where they can't be written, since nobody would miss them otherwise.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace revode {

/// `text` on one line: line breaks and other control characters as \n, \t, \x1b.
std::string one_line(std::string_view text);

/// "revode: error: <message>" and "revode: note: <message>" on standard error. What can't be
/// written there is lost.
void print_error(std::string_view message) noexcept;
void print_note(std::string_view message) noexcept;

/// Writes to standard output and returns once the system has taken it. Throws a run error.
void print_result(std::string_view text);

template <typename... Args>
requires(sizeof...(Args) > 0) void print_result(fmt::format_string<Args...> format,
                                                Args&&... args) {
  print_result(std::string_view(fmt::format(format, std::forward<Args>(args)...)));
}

/// The whole of `text` to a descriptor; false, with errno set, where that fails.
bool write_all(int descriptor, std::string_view text) noexcept;

/// Gives descriptors 0, 1 and 2 a harmless meaning where the caller has closed them: else the next
/// file that is opened would take the number, and messages would end up in it.
void open_missing_streams();

}  // namespace revode
