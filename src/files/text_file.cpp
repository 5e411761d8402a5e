#include "revode/files/text_file.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <sys/stat.h>
#include <unistd.h>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/durable_files.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

/// What a file made by open() would get.
mode_t usual_mode() {
  const mode_t mask = ::umask(0);
  ::umask(mask);
  return 0666 & ~mask;
}

}  // namespace

std::string first_line(const fs::path& file) {
  std::error_code ignored;
  std::string line;
  if (fs::is_regular_file(file, ignored)) std::getline(std::ifstream(file), line);
  return line;
}

void write_text_file(const fs::path& file, std::string_view text, std::string_view what) {
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  // The form that make_temporary_file() has, by which left over ones are found.
  static_assert(num_temporary_signs == 6);
  std::string temporary =
      (folder / fmt::format(".{}.XXXXXX.tmp", file.filename().string())).string();
  const int descriptor = ::mkstemps(temporary.data(), static_cast<int>(std::strlen(".tmp")));
  if (descriptor < 0) throw run_error("{}: can't be written: {}", what, std::strerror(errno));
  struct stat old {};
  const mode_t mode = ::stat(file.c_str(), &old) == 0 ? old.st_mode & 0777 : usual_mode();
  const bool written =
      ::fchmod(descriptor, mode) == 0 && write_all(descriptor, text) && ::fsync(descriptor) == 0;
  int reason = errno;
  ::close(descriptor);
  if (written && ::rename(temporary.c_str(), file.c_str()) == 0) return;
  if (written) reason = errno;
  ::unlink(temporary.c_str());
  throw run_error("{}: can't be written: {}", what, std::strerror(reason));
}

}  // namespace revode
