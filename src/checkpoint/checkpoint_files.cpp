// Names of checkpoint files: how they are listed and pointed to. What is in them:
// checkpoint_writer.cpp, checkpoint_reader.cpp.
#include "revode/checkpoint/checkpoint_files.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "revode/core/error.hpp"
#include "revode/files/durable_files.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

bool is_letter_or_digit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/// "best.h5" of ".best.h5.a1B2c3.tmp" (make_temporary_file()); nothing for any other name.
std::optional<std::string_view> name_of_temporary(std::string_view name) {
  constexpr std::string_view end = ".tmp";
  constexpr std::size_t behind = 1 + num_temporary_signs + end.size();
  if (name.size() <= 1 + behind || name.front() != '.' || !name.ends_with(end)) return std::nullopt;
  const std::string_view signs = name.substr(name.size() - behind, 1 + num_temporary_signs);
  if (signs.front() != '.' || !std::ranges::all_of(signs.substr(1), is_letter_or_digit))
    return std::nullopt;
  return name.substr(1, name.size() - 1 - behind);
}

}  // namespace

std::optional<std::int64_t> step_of_checkpoint(std::string_view name) {
  constexpr std::string_view prefix = "checkpoint-";
  constexpr std::string_view suffix = ".h5";
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
  if (name.size() <= prefix.size() + suffix.size()) return std::nullopt;
  const char* first = name.data() + prefix.size();
  const char* last = name.data() + name.size() - suffix.size();
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(first, last, step);
  if (error != std::errc{} || end != last || step < 0 || name != checkpoint_name(step))
    return std::nullopt;
  return step;
}

std::string checkpoint_name(std::int64_t step) { return fmt::format("checkpoint-{}.h5", step); }

std::vector<fs::path> list_checkpoints(const fs::path& folder) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    std::error_code ignored;
    const auto step = step_of_checkpoint(item->path().filename().string());
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

std::vector<fs::path> remove_left_over_temporaries(const fs::path& folder,
                                                   std::initializer_list<std::string_view> others) {
  std::vector<fs::path> removed;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    const std::string file_name = item->path().filename().string();
    const auto name = name_of_temporary(file_name);
    if (!name) continue;
    std::error_code ignored;
    const fs::file_type type = item->symlink_status(ignored).type();
    const bool is_ours = *name == "latest.h5"
                             ? type == fs::file_type::symlink
                             : (*name == "best.h5" || step_of_checkpoint(*name) ||
                                std::ranges::find(others, *name) != others.end()) &&
                                   type == fs::file_type::regular;
    if (is_ours && fs::remove(item->path(), ignored)) removed.push_back(item->path());
  }
  std::ranges::sort(removed);
  return removed;
}

void publish_link(const fs::path& target, const fs::path& link) {
  // Relative, so that the folder can be moved or copied as a whole.
  const fs::path folder = link.has_parent_path() ? link.parent_path() : fs::path(".");
  const fs::path relative = target.lexically_proximate(folder);
  fs::path temporary;
  try {
    temporary = make_temporary_link(relative, link);
    fs::rename(temporary, link);
  } catch (const std::exception& error) {
    std::error_code ignored;
    if (!temporary.empty()) fs::remove(temporary, ignored);
    const auto* reason = dynamic_cast<const fs::filesystem_error*>(&error);
    throw run_error("cannot point '{}' to '{}': {}", link.string(), target.string(),
                    reason != nullptr ? reason->code().message() : error.what());
  }
  sync_to_disk(folder, link);
}

}  // namespace revode
