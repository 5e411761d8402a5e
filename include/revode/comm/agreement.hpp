// How ranks that do something together agree on whether it went well. Knows nothing of what they
// do.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include <mpi.h>

#include "revode/core/error.hpp"

namespace revode {

/// A call of MPI that failed. Where the other ranks are is not known then: there is nothing to
/// agree on any more, and the rank ends the job.
class MpiError : public Error {
 public:
  explicit MpiError(const std::string& message) : Error(ExitStatus::failure, message) {}
};

/// Collective. Runs `action` on every rank; where it throws on any, every rank throws the error of
/// the lowest such rank, with scope all_ranks; where only some failed and rank 0 is none of them,
/// it says which. What is neither an Error nor known to current_error() becomes a failed run, as
/// "`context`: ...". So no rank goes on to a collective call that another never reaches. The action
/// makes no collective calls, unless what they end with is the same on every rank, and begins
/// no other agreement of several ranks (REVODE_CHECKed). An MpiError is passed on at once. With
/// MPI_COMM_NULL there is no one to agree with: the action is run, and its Error keeps its scope.
void on_all_ranks(MPI_Comm communicator, std::string_view context,
                  const std::function<void()>& action);

/// The same, with the action run on rank 0 alone.
void on_first_rank(MPI_Comm communicator, std::string_view context,
                   const std::function<void()>& action);

/// Throws an MpiError with MPI's own text where `code` is not MPI_SUCCESS.
void check_mpi(int code, std::string_view call);

}  // namespace revode
