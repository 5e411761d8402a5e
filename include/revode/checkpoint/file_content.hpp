// What an existing file holds, told from its content: who decides whether a path may be written
// asks this, since a name says nothing of what would be lost.
#pragma once

#include <filesystem>

namespace revode {

enum class FileContent {
  other,            ///< nothing of ours, or not to be told: no such file, no HDF5, damaged
  checkpoint,       ///< of this program's format and none of the results
  eval_result,      ///< `eval --output`: /logits and /labels, no /model
  gradient_result,  ///< `gradient --output`: /logits and /model, root attribute `regularization`
};

/// Looks into a regular file (links are followed; anything else is `other` and not opened). Reads
/// no arrays and holds nothing against checksums. Never throws an Error.
FileContent content_of(const std::filesystem::path& file);

}  // namespace revode
