#include "checkpoint/checksums.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <zlib.h>

#include "revode/core/error.hpp"

#include "checkpoint/checkpoint_inspection.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

// The block: a first line with the checksum of what follows it up to the end of the block, a line a
// piece, zeros.
constexpr std::string_view first_word = "revode-checksums 1 ";
constexpr std::size_t hex_digits = 8;
constexpr std::size_t first_line_size = first_word.size() + hex_digits + 1;
constexpr std::uint64_t smallest_block = 512;
constexpr const char* structure = "structure";

/// A run of bytes with a checksum of its own; for the structure, all bytes behind the block that
/// are of no array, and their number.
struct Piece {
  std::string name;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint32_t checksum = 0;
};

std::uint32_t add_bytes(std::uint32_t checksum, const char* bytes, std::size_t size) {
  return static_cast<std::uint32_t>(
      crc32_z(checksum, reinterpret_cast<const unsigned char*>(bytes), size));
}

std::string text_of(const std::vector<Piece>& pieces) {
  std::string text;
  for (const Piece& piece : pieces)
    text += fmt::format("{:08x} {} {} {}\n", piece.checksum, piece.offset, piece.size, piece.name);
  return text;
}

std::ifstream open_bytes(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw input_error("cannot read '{}': {}", file.string(), std::strerror(errno));
  return stream;
}

/// Sets the checksums of `arrays` (sorted by offset, apart from each other) as the file has them
/// and returns the structure's.
Piece compute(const fs::path& file, std::uint64_t block_size, std::vector<Piece>& arrays) {
  std::ifstream stream = open_bytes(file);
  stream.seekg(static_cast<std::streamoff>(block_size));
  Piece rest{structure, block_size, 0, 0};
  constexpr std::uint64_t chunk_size = 1 << 20;
  std::vector<char> chunk(chunk_size);
  const auto add = [&](Piece& piece, std::uint64_t size) {
    while (size > 0) {
      const std::uint64_t step = std::min(size, chunk_size);
      if (!stream.read(chunk.data(), static_cast<std::streamsize>(step)))
        throw input_error("'{}' is damaged: it ends inside {}", file.string(), piece.name);
      piece.checksum = add_bytes(piece.checksum, chunk.data(), step);
      size -= step;
    }
  };
  std::uint64_t at = block_size;
  const auto add_structure_until = [&](std::uint64_t end) {
    add(rest, end - at);
    rest.size += end - at;
  };
  for (Piece& array : arrays) {
    add_structure_until(array.offset);
    array.checksum = 0;
    add(array, array.size);
    at = array.offset + array.size;
  }
  add_structure_until(std::max<std::uint64_t>(at, fs::file_size(file)));
  return rest;
}

/// Where the arrays of a file lie, in that order. Offsets count from its first byte, block
/// included.
std::vector<Piece> find_arrays(const fs::path& file) {
  const Hdf5Handle opened = open_alone(file);
  std::vector<Piece> pieces;
  for (const FoundDataset& found : find_datasets(opened.get())) {
    const Hdf5Handle dataset(REVODE_HDF5(H5Dopen2(opened.get(), found.path.c_str(), H5P_DEFAULT)),
                             H5Dclose);
    const haddr_t offset = H5Dget_offset(dataset.get());
    if (offset == HADDR_UNDEF)
      throw run_error("'{}' has the array {} in pieces", file.string(), found.path);
    pieces.push_back({found.path, offset, H5Dget_storage_size(dataset.get()), 0});
  }
  std::ranges::sort(pieces, {}, &Piece::offset);
  return pieces;
}

/// The size of the user block, 0 where there is none.
std::uint64_t block_size_of(const fs::path& file) {
  const Hdf5Handle opened = open_alone(file);
  const Hdf5Handle creation(REVODE_HDF5(H5Fget_create_plist(opened.get())), H5Pclose);
  hsize_t size = 0;
  REVODE_HDF5(H5Pget_userblock(creation.get(), &size));
  return size;
}

/// The pieces that a block names, or nothing where it is not as it was written.
std::optional<std::vector<Piece>> parse(const std::string& block) {
  const std::string_view rest = std::string_view(block).substr(first_line_size);
  const std::string first_line =
      fmt::format("{}{:08x}\n", first_word, add_bytes(0, rest.data(), rest.size()));
  if (!block.starts_with(first_line)) return std::nullopt;
  std::vector<Piece> pieces;
  std::istringstream lines{std::string(rest.substr(0, rest.find('\0')))};
  for (std::string line; std::getline(lines, line);) {
    Piece piece;
    std::istringstream words(line);
    words >> std::hex >> piece.checksum >> std::dec >> piece.offset >> piece.size >> std::ws;
    std::getline(words, piece.name);
    pieces.push_back(piece);
  }
  return pieces;
}

/// pieces: the arrays, sorted by offset, and the structure.
std::string block_of(std::uint64_t block_size, const std::vector<Piece>& pieces) {
  std::string block(block_size - first_line_size, '\0');
  const std::string text = text_of(pieces);
  REVODE_CHECK(text.size() <= block.size(), "a block of {} bytes has no room for {} checksums",
               block_size, pieces.size());
  block.replace(0, text.size(), text);
  block.insert(0, fmt::format("{}{:08x}\n", first_word, add_bytes(0, block.data(), block.size())));
  return block;
}

}  // namespace

std::uint32_t checksum_of(std::span<const char> bytes) {
  return add_bytes(0, bytes.data(), bytes.size());
}

std::uint32_t joined_checksum(std::uint32_t first, std::uint32_t second,
                              std::uint64_t second_size) {
  return static_cast<std::uint32_t>(
      crc32_combine64(first, second, static_cast<z_off64_t>(second_size)));
}

std::uint64_t checksum_block_size(const std::vector<std::string>& array_paths) {
  constexpr std::size_t numbers = hex_digits + 2 * 20 + 4;  // two 64-bit numbers, blanks, line end
  std::uint64_t size = first_line_size + numbers + std::strlen(structure);
  for (const std::string& path : array_paths) size += numbers + path.size();
  return std::max(smallest_block, std::bit_ceil(size));
}

std::string checksum_block(std::vector<ArrayPlace> arrays, std::span<const char> front,
                           std::uint64_t file_bytes) {
  std::ranges::sort(arrays, {}, &ArrayPlace::offset);
  std::vector<std::string> paths;
  for (const ArrayPlace& array : arrays) paths.push_back(array.path);
  const std::uint64_t block_size = checksum_block_size(paths);
  const std::span<const char> behind_block = front.subspan(block_size);
  Piece rest{structure, block_size, file_bytes - block_size, checksum_of(behind_block)};
  std::vector<Piece> pieces;
  for (const ArrayPlace& array : arrays) {
    pieces.push_back({array.path, array.offset, array.bytes, array.checksum});
    rest.size -= array.bytes;
  }
  const std::vector<char> zeros(rest.size - behind_block.size());
  rest.checksum = add_bytes(rest.checksum, zeros.data(), zeros.size());
  pieces.push_back(std::move(rest));
  return block_of(block_size, pieces);
}

void write_checksums(const fs::path& file) {
  const std::uint64_t block_size = block_size_of(file);
  std::vector<Piece> pieces = find_arrays(file);
  pieces.push_back(compute(file, block_size, pieces));
  const std::string block = block_of(block_size, pieces);
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.write(block.data(), static_cast<std::streamsize>(block.size()));
  stream.close();
  if (!stream) throw run_error("the checksums can't be written: {}", std::strerror(errno));
}

bool has_checksums(const fs::path& file) {
  std::string word(first_word.size(), '\0');
  open_bytes(file).read(word.data(), static_cast<std::streamsize>(word.size()));
  return word == first_word;
}

CheckedFile check_checksums(const fs::path& file) {
  const std::uint64_t block_size = block_size_of(file);
  if (block_size == 0) return {};
  std::string block(block_size, '\0');
  const bool read =
      !open_bytes(file).read(block.data(), static_cast<std::streamsize>(block_size)).fail();
  const std::optional<std::vector<Piece>> written = read ? parse(block) : std::nullopt;
  REVODE_REQUIRE(written && !written->empty(),
                 "'{}' is damaged: its first {} bytes are not the checksums that were written",
                 file.string(), block_size);

  std::vector<Piece> found(written->begin(), written->end() - 1);
  found.push_back(compute(file, block_size, found));
  std::vector<std::string> damaged;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i].checksum == (*written)[i].checksum && found[i].size == (*written)[i].size)
      continue;
    damaged.push_back(found[i].name == structure ? "the part that is no array" : found[i].name);
  }
  REVODE_REQUIRE(damaged.empty(), "'{}' is damaged: {} {} not what was written", file.string(),
                 fmt::join(damaged, ", "), damaged.size() == 1 ? "is" : "are");
  return {true, found.size() - 1, fs::file_size(file)};
}

}  // namespace revode
