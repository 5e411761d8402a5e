// Names of checkpoint files: how they are listed and pointed to, and what is left of killed runs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace revode {

/// Points `link` (a symbolic link in the folder of `target`) to `target`, atomically. One process
/// calls it.
void publish_link(const std::filesystem::path& target, const std::filesystem::path& link);

/// Removes what a run of ours that was killed while writing left in its own folder: temporary files
/// of checkpoint-<step>.h5, of best.h5 and of `others`, and links for latest.h5, by exactly these
/// names. Only for who alone writes there. Says which they were; a folder that can't be read has
/// none.
std::vector<std::filesystem::path> remove_left_over_temporaries(
    const std::filesystem::path& folder, std::initializer_list<std::string_view> others = {});

/// checkpoint-<step>.h5 files of a folder, oldest first (by step). Empty where the folder does not
/// exist.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

/// The file name of a step's checkpoint.
std::string checkpoint_name(std::int64_t step);
/// The step of such a name; nothing for any other name.
std::optional<std::int64_t> step_of_checkpoint(std::string_view name);

}  // namespace revode
