// Options from a checkpoint: its config is read, and laid beneath the options that were given. The
// one place that does; what agrees with what is apply_stored()'s business.
#pragma once

#include <string>

#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/comm/communicator.hpp"
#include "revode/config/config.hpp"

namespace revode {

/// Fills options that were not given from the config of `file`, whose checksums are verified, and
/// checks them; see apply_stored(). For one process.
void fill_from_checkpoint(Config& config, StoredUse use, const std::string& file);

/// The same on every rank: rank 0 reads, and notes where damage could not be seen. Collective;
/// errors are shared.
void fill_from_checkpoint(Config& config, StoredUse use, const std::string& file,
                          CheckpointReader::Checksums checksums, const Communicator& communicator);

}  // namespace revode
