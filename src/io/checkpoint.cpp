// Names of checkpoint files: how they are listed and pointed to. What is in them:
// checkpoint_writer.cpp, checkpoint_reader.cpp.
#include "revode/io/checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "revode/core/error.hpp"

#include "io/durable_files.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

/// The step in "checkpoint-<step>.h5"; nothing for any other name.
std::optional<std::int64_t> step_of(std::string_view name) {
  constexpr std::string_view prefix = "checkpoint-";
  constexpr std::string_view suffix = ".h5";
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
  if (name.size() <= prefix.size() + suffix.size()) return std::nullopt;
  const char* first = name.data() + prefix.size();
  const char* last = name.data() + name.size() - suffix.size();
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(first, last, step);
  if (error != std::errc{} || end != last || step < 0) return std::nullopt;
  return step;
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("checkpoint-{}.h5", step); }

std::vector<fs::path> list_checkpoints(const fs::path& folder) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    std::error_code ignored;
    const auto step = step_of(item->path().filename().string());
    if (step && item->is_regular_file(ignored)) found.emplace_back(*step, item->path());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw input_error("cannot list the checkpoints in '{}': {}", folder.string(), error.message());
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> files;
  for (auto& [step, file] : found) files.push_back(std::move(file));
  return files;
}

void publish_link(const fs::path& target, const fs::path& link) {
  // Relative, so that the folder can be moved or copied as a whole.
  const fs::path folder = link.has_parent_path() ? link.parent_path() : fs::path(".");
  const fs::path relative = target.lexically_proximate(folder);
  const fs::path temporary = temporary_name(link);
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(relative, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw run_error("cannot point '{}' to '{}': {}", link.string(), target.string(),
                    error.message());
  }
  sync_to_disk(folder);
}

}  // namespace revode
