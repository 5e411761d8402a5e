// How ranks that do something together agree on whether it went well. Knows nothing of what they
// do.
#pragma once

#include <functional>
#include <string_view>

#include <mpi.h>

namespace revode {

/// Collective. Runs `action` on every rank; where it throws on any, every rank throws the error of
/// the lowest such rank, with scope all_ranks; where only some failed and rank 0 is none of them,
/// it says which. What is neither an Error nor known to current_error() becomes a failed run, as
/// "`context`: ...". So no rank goes on to a collective call that another never reaches; the action
/// itself must not leave a collective call half way on one rank alone. With MPI_COMM_NULL there is
/// no one to agree with: the action is run, and its Error keeps its scope.
void on_all_ranks(MPI_Comm communicator, std::string_view context,
                  const std::function<void()>& action);

/// The same, with the action run on rank 0 alone.
void on_first_rank(MPI_Comm communicator, std::string_view context,
                   const std::function<void()>& action);

/// Throws a run error with MPI's own text where `code` is not MPI_SUCCESS.
void check_mpi(int code, std::string_view call);

}  // namespace revode
