#include "revode/comm/agreement.hpp"

#include <climits>
#include <optional>
#include <string>

#include "revode/core/activity.hpp"
#include "revode/core/error.hpp"

namespace revode {

namespace {

bool is_within_action = false;

/// While the action of an agreement of several ranks runs.
struct WithinAction {
  WithinAction() {
    REVODE_CHECK(!is_within_action, "an agreement was begun within another");
    is_within_action = true;
  }
  ~WithinAction() { is_within_action = false; }
  WithinAction(const WithinAction&) = delete;
  WithinAction& operator=(const WithinAction&) = delete;
};

std::optional<Error> run_and_catch(std::string_view context, const std::function<void()>& action) {
  try {
    action();
  } catch (const MpiError&) {
    throw;
  } catch (...) {
    return current_error(context);
  }
  return std::nullopt;
}

/// The lowest rank that failed tells all others its status and message.
Error broadcast_error(MPI_Comm communicator, int rank, int failed_rank,
                      const std::optional<Error>& error) {
  int header[2] = {0, 0};  // exit status, length of the message
  std::string message;
  if (rank == failed_rank) {
    message = error->what();
    // Where only some ranks met it, which one did helps.
    if (failed_rank != 0) message += fmt::format(" (rank {})", rank);
    header[0] = static_cast<int>(error->status());
    header[1] = static_cast<int>(message.size());
  }
  check_mpi(MPI_Bcast(header, 2, MPI_INT, failed_rank, communicator), "MPI_Bcast");
  message.resize(header[1]);
  check_mpi(MPI_Bcast(message.data(), header[1], MPI_CHAR, failed_rank, communicator), "MPI_Bcast");
  return Error(static_cast<ExitStatus>(header[0]), message, ErrorScope::all_ranks);
}

}  // namespace

void check_mpi(int code, std::string_view call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw MpiError(fmt::format("{} failed: {}", call, std::string(text, length)));
}

void on_all_ranks(MPI_Comm communicator, std::string_view context,
                  const std::function<void()>& action) {
  if (communicator == MPI_COMM_NULL) {
    if (const auto error = run_and_catch(context, action)) throw Error(*error);
    return;
  }
  int num_ranks = 1;
  check_mpi(MPI_Comm_size(communicator, &num_ranks), "MPI_Comm_size");
  const std::optional<Error> error = [&] {
    std::optional<WithinAction> within;
    if (num_ranks > 1) within.emplace();
    return run_and_catch(context, action);
  }();
  int rank = 0;
  check_mpi(MPI_Comm_rank(communicator, &rank), "MPI_Comm_rank");
  const ActivityScope at(
      {.what = "waits for the other ranks, to agree", .waits_for = Activity::everybody});
  int failed_rank = error ? rank : INT_MAX;
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &failed_rank, 1, MPI_INT, MPI_MIN, communicator),
            "MPI_Allreduce");
  if (failed_rank != INT_MAX) throw broadcast_error(communicator, rank, failed_rank, error);
}

void on_first_rank(MPI_Comm communicator, std::string_view context,
                   const std::function<void()>& action) {
  int rank = 0;
  if (communicator != MPI_COMM_NULL) {
    check_mpi(MPI_Comm_rank(communicator, &rank), "MPI_Comm_rank");
  }
  on_all_ranks(communicator, context, [&] {
    if (rank == 0) action();
  });
}

}  // namespace revode
