#include "revode/comm/communicator.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <limits>
#include <numeric>
#include <type_traits>

#include <fmt/format.h>
#include <sched.h>

#include "revode/comm/agreement.hpp"
#include "revode/core/error.hpp"

namespace revode {
namespace {

/// In a call that all ranks of a communicator make: "waits in MPI_Barrier".
constexpr Activity collective(std::string_view what) {
  return {.what = what, .waits_for = Activity::everybody};
}

int message_length(std::size_t size) {
  if (size > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    throw run_error("a message of {} values is too long for MPI: use more --micro-batches", size);
  return static_cast<int>(size);
}

// MPI guarantees tags up to 32767: 3 bits for the kind, 4 for the slice, 8 for the micro-batch. The
// last two wrap, harmlessly: messages between two ranks keep their order, and receives are posted
// in it.
int number_of(const MessageTag& tag) {
  return static_cast<int>(tag.kind) + 8 * (tag.slice % 16) + 128 * (tag.micro_batch % 256);
}

}  // namespace

Request& Request::operator=(Request&& other) noexcept {
  std::swap(request_, other.request_);
  std::swap(waits_for_, other.waits_for_);
  return *this;
}

Request::~Request() {
  if (!active() || std::uncaught_exceptions() > 0) return;
  std::fputs("revode: internal error: a message was dropped while under way\n", stderr);
  std::terminate();
}

bool Request::done() {
  if (!active()) return true;
  int flag = 0;
  check_mpi(MPI_Test(&request_, &flag, MPI_STATUS_IGNORE), "MPI_Test");
  return flag != 0;
}

void Request::wait() {
  if (!active()) return;
  const ActivityScope at({.what = "waits for a message", .waits_for = waits_for_});
  check_mpi(MPI_Wait(&request_, MPI_STATUS_IGNORE), "MPI_Wait");
}

Communicator::Communicator(MPI_Comm parent) {
  const ActivityScope at(collective("waits in MPI_Comm_dup"));
  check_mpi(MPI_Comm_dup(parent, &handle_), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(handle_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(handle_, &size_), "MPI_Comm_size");
  MPI_Group here = MPI_GROUP_NULL, job = MPI_GROUP_NULL;
  check_mpi(MPI_Comm_group(handle_, &here), "MPI_Comm_group");
  check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &job), "MPI_Comm_group");
  std::vector<int> ranks(size_);
  std::iota(ranks.begin(), ranks.end(), 0);
  ranks_in_job_.resize(size_);
  check_mpi(MPI_Group_translate_ranks(here, size_, ranks.data(), job, ranks_in_job_.data()),
            "MPI_Group_translate_ranks");
  MPI_Group_free(&here);
  MPI_Group_free(&job);
}

Communicator::~Communicator() {
  // Freeing is collective: while an error is on its way out the other ranks will not take part.
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&handle_);
}

Communicator Communicator::split(int group, int place) const {
  struct Part {
    MPI_Comm handle = MPI_COMM_NULL;
    ~Part() {
      if (handle != MPI_COMM_NULL) MPI_Comm_free(&handle);
    }
  } part;
  const ActivityScope at(collective("waits in MPI_Comm_split"));
  check_mpi(MPI_Comm_split(handle_, group, place, &part.handle), "MPI_Comm_split");
  return Communicator(part.handle);
}

std::string Communicator::library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  check_mpi(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version");
  // Open MPI: "Open MPI v4.1.4, package: ..., repo rev: ..."; MPICH: lines of "name: value".
  const std::string_view whole(text.data(), length);
  return std::string(whole.substr(0, whole.find_first_of(",\n")));
}

namespace {

/// `code` of a call that moves `size` floats to or from `peer`.
void check_message(int code, std::string_view call, std::string_view direction, int peer,
                   std::size_t size, int tag) {
  if (code != MPI_SUCCESS)
    check_mpi(code,
              fmt::format("{} of {} values {} rank {} (tag {})", call, size, direction, peer, tag));
}

}  // namespace

namespace {

template <typename T>
MPI_Datatype datatype() {
  if constexpr (std::is_same_v<T, float>) return MPI_FLOAT;
  if constexpr (std::is_same_v<T, double>) return MPI_DOUBLE;
  if constexpr (std::is_same_v<T, std::int64_t>) return MPI_INT64_T;
  if constexpr (std::is_same_v<T, char>) return MPI_CHAR;
}

template <typename T>
Request send_to(std::span<const T> values, int to, int tag, const Communicator& communicator) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_message(MPI_Isend(values.data(), message_length(values.size()), datatype<T>(), to, tag,
                          communicator.handle(), &request),
                "MPI_Isend", "to", to, values.size(), tag);
  return {request, communicator.rank_in_job(to)};
}

template <typename T>
Request receive_from(std::span<T> values, int from, int tag, const Communicator& communicator) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_message(MPI_Irecv(values.data(), message_length(values.size()), datatype<T>(), from, tag,
                          communicator.handle(), &request),
                "MPI_Irecv", "from", from, values.size(), tag);
  return {request, communicator.rank_in_job(from)};
}

}  // namespace

Request Communicator::send(std::span<const float> values, int to, const MessageTag& tag) const {
  return send_to(values, to, number_of(tag), *this);
}

Request Communicator::receive(std::span<float> values, int from, const MessageTag& tag) const {
  return receive_from(values, from, number_of(tag), *this);
}

Request Communicator::send(std::span<const std::int64_t> values, int to,
                           const MessageTag& tag) const {
  return send_to(values, to, number_of(tag), *this);
}

Request Communicator::receive(std::span<std::int64_t> values, int from,
                              const MessageTag& tag) const {
  return receive_from(values, from, number_of(tag), *this);
}

Request Communicator::sum(std::span<std::int64_t> values) const {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, values.data(), message_length(values.size()), MPI_INT64_T,
                           MPI_SUM, handle_, &request),
            "MPI_Iallreduce");
  return {request, Activity::everybody};
}

void Communicator::barrier() const {
  const ActivityScope at(collective("waits in MPI_Barrier"));
  check_mpi(MPI_Barrier(handle_), "MPI_Barrier");
}

std::vector<std::int64_t> Communicator::all_gather(std::int64_t value) const {
  const ActivityScope at(collective("waits in MPI_Allgather"));
  std::vector<std::int64_t> all(size_);
  check_mpi(MPI_Allgather(&value, 1, MPI_INT64_T, all.data(), 1, MPI_INT64_T, handle_),
            "MPI_Allgather");
  return all;
}

namespace {

/// Every rank's values, one behind the other, and where each rank's begin.
template <typename T>
std::pair<std::vector<T>, std::vector<int>> gather_all(std::span<const T> values,
                                                       const Communicator& communicator) {
  const ActivityScope at(collective("waits in MPI_Allgather"));
  std::vector<int> counts(communicator.size()), offsets(communicator.size());
  const int count = message_length(values.size());
  check_mpi(MPI_Allgather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, communicator.handle()),
            "MPI_Allgather");
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
  std::vector<T> all(offsets.back() + counts.back());
  check_mpi(MPI_Allgatherv(values.data(), count, datatype<T>(), all.data(), counts.data(),
                           offsets.data(), datatype<T>(), communicator.handle()),
            "MPI_Allgatherv");
  return {std::move(all), std::move(offsets)};
}

}  // namespace

std::vector<double> Communicator::all_gather(std::span<const double> values) const {
  return gather_all(values, *this).first;
}

std::vector<std::vector<std::int64_t>> Communicator::all_gather_each(
    std::span<const std::int64_t> values) const {
  auto [all, offsets] = gather_all(values, *this);
  offsets.push_back(static_cast<int>(all.size()));
  std::vector<std::vector<std::int64_t>> by_rank;
  for (int rank = 0; rank < size_; ++rank)
    by_rank.emplace_back(all.begin() + offsets[rank], all.begin() + offsets[rank + 1]);
  return by_rank;
}

std::vector<std::string> Communicator::all_gather(const std::string& text) const {
  const auto [all, offsets] = gather_all(std::span<const char>(text), *this);
  std::vector<std::string> texts;
  for (int rank = 0; rank < size_; ++rank) {
    const std::size_t end = rank + 1 < size_ ? offsets[rank + 1] : all.size();
    texts.emplace_back(all.begin() + offsets[rank], all.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return texts;
}

std::vector<std::vector<std::int64_t>> Communicator::gather(
    std::span<const std::int64_t> values) const {
  const ActivityScope at(collective("waits in MPI_Gather"));
  std::vector<int> lengths(size_), offsets(size_);
  const int length = message_length(values.size());
  check_mpi(MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, 0, handle_), "MPI_Gather");
  std::exclusive_scan(lengths.begin(), lengths.end(), offsets.begin(), 0);
  std::vector<std::int64_t> all(is_root() ? offsets.back() + lengths.back() : 0);
  check_mpi(MPI_Gatherv(values.data(), length, MPI_INT64_T, all.data(), lengths.data(),
                        offsets.data(), MPI_INT64_T, 0, handle_),
            "MPI_Gatherv");
  std::vector<std::vector<std::int64_t>> by_rank;
  for (int rank = 0; is_root() && rank < size_; ++rank) {
    const auto begin = all.begin() + offsets[rank];
    by_rank.emplace_back(begin, begin + lengths[rank]);
  }
  return by_rank;
}

void Communicator::broadcast(std::span<double> values, int root) const {
  const ActivityScope at(collective("waits in MPI_Bcast"));
  check_mpi(MPI_Bcast(values.data(), message_length(values.size()), MPI_DOUBLE, root, handle_),
            "MPI_Bcast");
}

void Communicator::broadcast(std::span<float> values, int root) const {
  const ActivityScope at(collective("waits in MPI_Bcast"));
  check_mpi(MPI_Bcast(values.data(), message_length(values.size()), MPI_FLOAT, root, handle_),
            "MPI_Bcast");
}

std::string Communicator::broadcast(const std::string& text, int root) const {
  const ActivityScope at(collective("waits in MPI_Bcast"));
  std::int64_t length = static_cast<std::int64_t>(text.size());
  check_mpi(MPI_Bcast(&length, 1, MPI_INT64_T, root, handle_), "MPI_Bcast");
  std::string result = rank_ == root ? text : std::string(length, '\0');
  check_mpi(MPI_Bcast(result.data(), message_length(result.size()), MPI_CHAR, root, handle_),
            "MPI_Bcast");
  return result;
}

void Communicator::agree(const std::function<void()>& action) const {
  on_all_ranks(handle_, "internal error", action);
}

void Communicator::require_same(const std::vector<Fact>& facts, std::string_view advice) const {
  std::string mine;
  for (const Fact& fact : facts) mine += fact.value + '\0';
  const std::string roots = broadcast(mine, 0);
  // Not through agree(), which would tell the rank twice.
  std::string difference;
  std::size_t begin = 0;
  for (const Fact& fact : facts) {
    const std::size_t end = roots.find('\0', begin);
    const std::string_view value = std::string_view(roots).substr(begin, end - begin);
    if (value != fact.value) {
      difference = fmt::format("ranks disagree on {}: '{}' on rank 0, '{}' on rank {}; {}",
                               fact.name, value, fact.value, rank_, advice);
      break;
    }
    begin = end + 1;
  }
  const std::vector<std::int64_t> differs = all_gather(std::int64_t{!difference.empty()});
  const auto first = std::ranges::find(differs, 1);
  if (first == differs.end()) return;
  throw Error(ExitStatus::bad_input,
              broadcast(difference, static_cast<int>(first - differs.begin())),
              ErrorScope::all_ranks);
}

std::vector<int> Communicator::ranks_of_host() const {
  const ActivityScope at(collective("waits in MPI_Comm_split_type"));
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(handle_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  int num_ranks = 1;
  check_mpi(MPI_Comm_size(host, &num_ranks), "MPI_Comm_size");
  std::vector<int> ranks(num_ranks);
  check_mpi(MPI_Allgather(&rank_, 1, MPI_INT, ranks.data(), 1, MPI_INT, host), "MPI_Allgather");
  check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");
  return ranks;
}

Communicator::HostShare Communicator::host_share() const {
  const ActivityScope at(collective("waits in MPI_Comm_split_type"));
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(handle_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  int num_ranks = 1;
  check_mpi(MPI_Comm_size(host, &num_ranks), "MPI_Comm_size");
  cpu_set_t mine;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof mine, &mine);
  std::vector<cpu_set_t> all(num_ranks);
  check_mpi(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, host),
            "MPI_Allgather");
  check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");
  HostShare share{0, CPU_COUNT(&mine)};
  for (const cpu_set_t& theirs : all) {
    cpu_set_t common;
    CPU_AND(&common, &mine, &theirs);
    share.num_sharing += CPU_COUNT(&common) > 0;
  }
  return share;
}

}  // namespace revode
