// The names and types of a checkpoint file that its writer and its reader share.
// docs/file-format.md describes them to users.
#pragma once

namespace revode::checkpoint_format {

inline constexpr const char* format_name = "revode";  ///< root attribute `format`
inline constexpr int version = 1;                     ///< root attribute `version`
inline constexpr const char* format_attribute = "format";
inline constexpr const char* version_attribute = "version";
inline constexpr const char* config_attribute = "config";
inline constexpr const char* progress_group = "/progress";

}  // namespace revode::checkpoint_format
