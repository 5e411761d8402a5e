// What replicas of the network exchange: each takes its own micro-batches of a mini-batch, then all
// of them do the same work with the same numbers. All calls are collective over the replicas
// (Grid::data()), and free where there is one.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "revode/comm/grid.hpp"
#include "revode/pipeline/network_work.hpp"
#include "revode/train/network.hpp"

namespace revode {

/// Sums of gradients, still in integers, over all replicas: so their order and grouping leave no
/// trace.
void add_up_gradients(Network& network);

/// Every replica gets the batch-norm statistics of all micro-batches.
void share_statistics(Network& network);

/// rows [samples, row_size], on the last ranks: each replica has filled in those of its
/// micro-batches, and gets the others.
void share_rows(const Grid& grid, const MiniBatchSource& source, std::size_t row_size,
                std::vector<float>& rows);

/// Throws a run error that all ranks share, and that names rank and array, where weights or
/// velocity of a replica are not those of the first, bit for bit. Collective over all ranks.
void require_equal_replicas(Network& network);

}  // namespace revode
