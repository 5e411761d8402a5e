// Which checkpoint a run starts from, and where it writes.
#pragma once

#include <memory>
#include <string>

#include "revode/comm/communicator.hpp"
#include "revode/config/config.hpp"
#include "revode/run/run_folder.hpp"

namespace revode {

/// Where a run starts: from initial weights, from a given model, or from where another run stood.
struct StartPoint {
  enum class Kind { fresh, weights, resume };
  Kind kind = Kind::fresh;
  std::string file;  ///< checkpoint to read, unless fresh
  /// --resume auto found results that nothing can be gone on from: the run begins anew.
  bool begins_anew = false;
  /// Held from now on; on rank 0 alone.
  std::unique_ptr<RunFolder> folder;
};

/// Follows --resume and --checkpoint: finds the file (`--resume auto`: the newest complete
/// checkpoint of the output folder; says which damaged ones it passed over), and fills the options
/// that were not given from its config. Also settles, makes and holds the output folder.
/// Collective; throws errors that all ranks share.
StartPoint choose_start(Config& config, const Communicator& communicator);

/// Collective. Throws an input error that all ranks share, naming `option`, where a rank does not
/// see the same folder as rank 0, whose path it is (nodes without a common file system, or a
/// relative path from other working folders). Looks again for 10 s: network file systems show new
/// files late.
void check_folder_is_shared(const std::string& option, const std::filesystem::path& folder,
                            const Communicator& communicator);

/// Collective. Whether all ranks see, without long waiting, what rank 0 makes in its `folder`.
bool is_folder_shared(const std::filesystem::path& folder, const Communicator& communicator);

}  // namespace revode
