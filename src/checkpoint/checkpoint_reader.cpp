// Reads checkpoints. One process looks through the file first and puts every doubt into words; the
// other ranks are told what it found. Then each rank reads its own rows by itself, so that damage
// met by one never leaves others waiting, and all agree on how it went.
#include "revode/checkpoint/checkpoint_reader.hpp"

#include <algorithm>
#include <cmath>

#include "revode/comm/agreement.hpp"
#include "revode/core/activity.hpp"
#include "revode/core/error.hpp"

#include "checkpoint/checkpoint_inspection.hpp"
#include "checkpoint/hdf5_handles.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

/// Collective: `value` of rank 0 on every rank, unchanged to the last bit. Not as JSON's text,
/// which has no word for nan.
nlohmann::json broadcast(const nlohmann::json& value, MPI_Comm communicator) {
  std::vector<std::uint8_t> bytes = nlohmann::json::to_cbor(value);
  const ActivityScope at(
      {.what = "reads a checkpoint with the others", .waits_for = Activity::everybody});
  auto length = static_cast<std::int64_t>(bytes.size());
  check_mpi(MPI_Bcast(&length, 1, MPI_INT64_T, 0, communicator), "MPI_Bcast");
  bytes.resize(length);
  check_mpi(MPI_Bcast(bytes.data(), static_cast<int>(length), MPI_BYTE, 0, communicator),
            "MPI_Bcast");
  return nlohmann::json::from_cbor(bytes);
}

int num_ranks(MPI_Comm communicator) {
  int number = 1;
  if (communicator != MPI_COMM_NULL)
    check_mpi(MPI_Comm_size(communicator, &number), "MPI_Comm_size");
  return number;
}

void read_rows(hid_t file, const ArraySlice& slice) {
  const Hdf5Handle dataset(REVODE_HDF5(H5Dopen2(file, slice.path.c_str(), H5P_DEFAULT)), H5Dclose);
  const Hdf5Selection selection =
      select_rows(dataset.get(), slice.shape, slice.first_row, slice.num_rows);
  REVODE_HDF5(H5Dread(dataset.get(), H5T_NATIVE_FLOAT, selection.memory.get(), selection.file.get(),
                      H5P_DEFAULT, slice.data));
}

void check_same(const fs::path& file, const FileIdentity& mine, const FileIdentity& first_ranks) {
  REVODE_REQUIRE(mine == first_ranks,
                 "'{}' is another file here than on rank 0: {} bytes with digest {:08x}, expected "
                 "{} bytes with digest {:08x}; give a path that all ranks share",
                 file.string(), mine.bytes, mine.digest, first_ranks.bytes, first_ranks.digest);
}

}  // namespace

struct CheckpointReader::Impl {
  fs::path path;
  MPI_Comm communicator;
  std::string context;
  Inspection found;
  std::vector<ArrayInfo> arrays;
  Hdf5Handle file;
};

CheckpointReader::CheckpointReader(const fs::path& file, MPI_Comm communicator, Checksums checksums)
    : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.path = file;
  impl.communicator = communicator;
  impl.context = fmt::format("cannot read '{}'", file.string());
  nlohmann::json found;
  on_first_rank(communicator, impl.context, [&] {
    silence_hdf5();
    found = inspect_checkpoint(file, checksums == Checksums::verify);
  });
  if (communicator != MPI_COMM_NULL) found = broadcast(found, communicator);
  impl.found = found.get<Inspection>();
  for (const FoundDataset& dataset : impl.found.datasets) {
    if (dataset.is_floating_point) impl.arrays.push_back({dataset.path, dataset.shape});
  }
  // What only one rank sees, such as a path that names another file on its host, all hear of.
  const bool is_alone = num_ranks(communicator) == 1;
  on_all_ranks(communicator, impl.context, [&] {
    if (!is_alone) check_file(file);
  });
  on_all_ranks(communicator, impl.context, [&] {
    if (!is_alone) check_same(file, identity_of(file), impl.found.identity);
    silence_hdf5();
    impl.file = open_alone(file);
  });
}

CheckpointReader::CheckpointReader(const fs::path& file, Checksums checksums)
    : CheckpointReader(file, MPI_COMM_NULL, checksums) {}

CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;

const nlohmann::json& CheckpointReader::config() const { return impl_->found.config; }

const Attributes& CheckpointReader::progress() const { return impl_->found.progress; }

const std::vector<CheckpointReader::ArrayInfo>& CheckpointReader::arrays() const {
  return impl_->arrays;
}

bool CheckpointReader::has(const std::string& path) const {
  return std::any_of(impl_->arrays.begin(), impl_->arrays.end(),
                     [&](const ArrayInfo& array) { return array.path == path; });
}

bool CheckpointReader::has_checksums() const { return impl_->found.has_checksums; }

void CheckpointReader::check(const std::string& path,
                             const std::vector<std::int64_t>& shape) const {
  on_all_ranks(impl_->communicator, impl_->context,
               [&] { check_array(impl_->path, impl_->found.datasets, path, shape); });
}

void CheckpointReader::read(const ArraySlice& slice) const {
  const Impl& impl = *impl_;
  on_all_ranks(impl.communicator, impl.context, [&] {
    check_array(impl.path, impl.found.datasets, slice.path, slice.shape);
    const bool fits = !slice.shape.empty() && slice.first_row >= 0 && slice.num_rows >= 0 &&
                      slice.first_row + slice.num_rows <= slice.shape[0];
    if (!fits || (slice.num_rows > 0 && slice.data == nullptr)) {
      throw run_error("array '{}' is to be read into rows that it does not have", slice.path);
    }
  });
  on_all_ranks(impl.communicator, fmt::format("{}, array {}", impl.context, slice.path), [&] {
    if (slice.num_rows == 0) return;
    try {
      read_rows(impl.file.get(), slice);
    } catch (const Hdf5Failure& failure) {
      throw input_error("'{}' is damaged: array {} can't be read: {}", impl.path.string(),
                        slice.path, failure.what());
    }
  });
}

std::optional<std::string> first_non_finite(const CheckpointReader& reader) {
  constexpr std::int64_t piece_elements = 1 << 20;
  std::vector<float> values;
  for (const auto& [path, shape] : reader.arrays()) {
    std::int64_t row_size = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) row_size *= shape[i];
    if (shape.empty() || row_size == 0) continue;  // a single number, or none: nothing of ours
    const std::int64_t piece_rows = std::max<std::int64_t>(1, piece_elements / row_size);
    for (std::int64_t first = 0; first < shape[0]; first += piece_rows) {
      const std::int64_t rows = std::min(piece_rows, shape[0] - first);
      values.resize(rows * row_size);
      reader.read({path, shape, first, rows, values.data()});
      if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); }))
        return path;
    }
  }
  return std::nullopt;
}

}  // namespace revode
