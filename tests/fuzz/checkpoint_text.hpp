// A checkpoint file as lines of text, which a fuzzer can change without breaking HDF5's own
// structures or the checksums:
//
//   text <object> <name> <value>            an attribute of fixed length; vtext: of variable length
//   int <object> <name> <type> <value>      i8 u8 i32 i64 u64
//   float <object> <name> <type> <value>    f16 f32 f64 be64
//   list <object> <name> <count> <value>    an attribute of several 64-bit integers
//   array <path> <type> <shape> <value>     every element the same; shape 2x3, or - for one number
//
//   hard <path> <target>                    a link; or soft
//
//   block good|one|wrong|<text>             the checksums: as the program writes them; one for all
//                                           bytes; with a wrong bit; or this text. Without: none
//
// A blank in a name or value is written \_ and a line break \n. What HDF5 refuses to make is left
// out.
#pragma once

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <zlib.h>

#include "revode/core/error.hpp"

#include "checkpoint/checksums.hpp"
#include "checkpoint/hdf5_handles.hpp"

namespace revode::checkpoint_text {

inline std::string unescaped(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool is_escape = text[i] == '\\' && i + 1 < text.size();
    if (is_escape && text[i + 1] == '_')
      plain += ' ', ++i;
    else if (is_escape && text[i + 1] == 'n')
      plain += '\n', ++i;
    else
      plain += text[i];
  }
  return plain;
}

inline std::string escaped(std::string_view plain) {
  std::string text;
  for (const char c : plain) text += c == ' ' ? "\\_" : c == '\n' ? "\\n" : std::string(1, c);
  return text;
}

inline std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

inline std::string join(const std::vector<std::string>& parts, char between) {
  std::string text;
  for (const std::string& part : parts)
    text += (&part == parts.data() ? "" : std::string(1, between)) + part;
  return text;
}

template <typename Number>
Number number(const std::string& text) {
  Number value{};
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

namespace detail {

inline hid_t type_of(const std::string& word) {
  if (word == "i8") return H5T_STD_I8LE;
  if (word == "u8") return H5T_STD_U8LE;
  if (word == "i32") return H5T_STD_I32LE;
  if (word == "i64") return H5T_STD_I64LE;
  if (word == "u64") return H5T_STD_U64LE;
  if (word == "f64") return H5T_IEEE_F64LE;
  if (word == "be64") return H5T_IEEE_F64BE;
  return H5T_IEEE_F32LE;
}

/// Lines of one file. Calls that fail are left out: the library refuses what no file can hold.
class Writer {
 public:
  Writer(const std::filesystem::path& file, std::uint64_t block_size) {
    const Hdf5Handle creation(REVODE_HDF5(H5Pcreate(H5P_FILE_CREATE)), H5Pclose);
    REVODE_HDF5(H5Pset_userblock(creation.get(), block_size));
    file_ = {REVODE_HDF5(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, creation.get(), H5P_DEFAULT)),
             H5Fclose};
    links_ = {REVODE_HDF5(H5Pcreate(H5P_LINK_CREATE)), H5Pclose};
    REVODE_HDF5(H5Pset_create_intermediate_group(links_.get(), 1));
  }

  void add(std::vector<std::string> words) {
    for (std::string& word : words) word = unescaped(word);
    words.resize(5);
    const std::string& kind = words[0];
    if (kind == "text" || kind == "vtext") add_text(words, kind == "vtext");
    if (kind == "int") {
      const bool is_unsigned = words[3] == "u64";
      const auto value = is_unsigned ? static_cast<std::int64_t>(number<std::uint64_t>(words[4]))
                                     : number<std::int64_t>(words[4]);
      add_attribute(words[1], words[2], type_of(words[3]),
                    is_unsigned ? H5T_NATIVE_UINT64 : H5T_NATIVE_INT64, &value, 1);
    }
    if (kind == "float") {
      const double value = number<double>(words[4]);
      add_attribute(words[1], words[2], type_of(words[3]), H5T_NATIVE_DOUBLE, &value, 1);
    }
    if (kind == "list") {
      const std::vector<std::int64_t> values(number<std::uint8_t>(words[3]),
                                             number<std::int64_t>(words[4]));
      add_attribute(words[1], words[2], H5T_STD_I64LE, H5T_NATIVE_INT64, values.data(),
                    values.size());
    }
    if (kind == "array") add_array(words);
    if (kind == "hard" && is_path(words[1]) && is_path(words[2]))
      H5Lcreate_hard(file_.get(), words[2].c_str(), file_.get(), words[1].c_str(), links_.get(),
                     H5P_DEFAULT);
    if (kind == "soft" && is_path(words[1]))
      H5Lcreate_soft(words[2].c_str(), file_.get(), words[1].c_str(), links_.get(), H5P_DEFAULT);
  }

 private:
  static bool is_path(const std::string& text) {
    return !text.empty() && text.find('\0') == text.npos;
  }

  void add_text(const std::vector<std::string>& words, bool is_variable) {
    const Hdf5Handle type(REVODE_HDF5(H5Tcopy(H5T_C_S1)), H5Tclose);
    H5Tset_size(type.get(), is_variable ? H5T_VARIABLE : words[3].size() + 1);
    const char* text = words[3].c_str();
    add_attribute(words[1], words[2], type.get(), type.get(),
                  is_variable ? static_cast<const void*>(&text) : text, 1);
  }

  void add_attribute(const std::string& object, const std::string& name, hid_t type,
                     hid_t memory_type, const void* value, hsize_t count) {
    if (!is_path(object) || !is_path(name)) return;
    if (H5Oexists_by_name(file_.get(), object.c_str(), H5P_DEFAULT) <= 0)
      Hdf5Handle(H5Gcreate2(file_.get(), object.c_str(), links_.get(), H5P_DEFAULT, H5P_DEFAULT),
                 H5Gclose);
    const Hdf5Handle opened(H5Oopen(file_.get(), object.c_str(), H5P_DEFAULT), H5Oclose);
    const Hdf5Handle space(
        count == 1 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &count, nullptr), H5Sclose);
    if (opened.get() < 0 || space.get() < 0) return;
    const Hdf5Handle made(
        H5Acreate2(opened.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose);
    if (made.get() >= 0 && count > 0) H5Awrite(made.get(), memory_type, value);
  }

  /// Large arrays are claimed, in pieces of which none is there.
  void add_array(const std::vector<std::string>& words) {
    if (!is_path(words[1])) return;
    constexpr double most_written = 4096;
    std::vector<hsize_t> shape;
    double count = 1;
    if (words[3] != "-")
      for (const std::string& extent : split(words[3], 'x'))
        shape.push_back(number<hsize_t>(extent));
    if (shape.size() > H5S_MAX_RANK) return;
    for (const hsize_t extent : shape) count *= static_cast<double>(extent);
    const bool is_written = count <= most_written;
    const Hdf5Handle space(
        shape.empty() ? H5Screate(H5S_SCALAR)
                      : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
        H5Sclose);
    const Hdf5Handle creation(REVODE_HDF5(H5Pcreate(H5P_DATASET_CREATE)), H5Pclose);
    const std::vector<hsize_t> ones(shape.size(), 1);
    if (!is_written) H5Pset_chunk(creation.get(), static_cast<int>(ones.size()), ones.data());
    if (space.get() < 0) return;
    const Hdf5Handle made(H5Dcreate2(file_.get(), words[1].c_str(), type_of(words[2]), space.get(),
                                     links_.get(), creation.get(), H5P_DEFAULT),
                          H5Dclose);
    if (made.get() < 0 || !is_written || count == 0) return;
    const std::vector<double> values(static_cast<std::size_t>(count), number<double>(words[4]));
    H5Dwrite(made.get(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  }

  Hdf5Handle file_, links_;
};

/// Fills the user block with `text` under a first line that fits it.
inline void write_block(const std::filesystem::path& file, std::uint64_t block_size,
                        std::string text) {
  constexpr std::size_t first_line = std::string_view("revode-checksums 1 01234567\n").size();
  text.resize(block_size - first_line);
  const auto checksum =
      crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size()));
  std::fstream(file, std::ios::binary | std::ios::in | std::ios::out)
      << fmt::format("revode-checksums 1 {:08x}\n", checksum) << text;
}

}  // namespace detail

/// The line of a checksum of all that is behind the block.
inline std::string checksum_of_all(const std::filesystem::path& file, std::uint64_t block_size) {
  std::ifstream stream(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  const std::uint64_t size = bytes.size() - block_size;
  const auto checksum =
      crc32(0, reinterpret_cast<const Bytef*>(bytes.data() + block_size), static_cast<uInt>(size));
  return fmt::format("{:08x} {} {} structure\n", checksum, block_size, size);
}

inline void write_block(const std::filesystem::path& file, std::uint64_t block_size,
                        const std::string& word) {
  if (word == "good" || word == "wrong") {
    try {
      write_checksums(file);
    } catch (const std::exception&) {  // What no file of ours has: arrays in pieces, say.
      detail::write_block(file, block_size, checksum_of_all(file, block_size));
    }
    constexpr int at = 40;  // in the first array's checksum or place
    if (word == "wrong")
      std::fstream(file, std::ios::binary | std::ios::in | std::ios::out).seekp(at) << '7';
  } else {
    detail::write_block(file, block_size,
                        word == "one" ? checksum_of_all(file, block_size) : unescaped(word) + "\n");
  }
}

/// Makes the file that `lines` tell. Returns the size of its user block.
inline std::uint64_t write_file(const std::filesystem::path& file, std::string_view lines) {
  silence_hdf5();
  std::vector<std::vector<std::string>> all;
  std::vector<std::string> paths;
  std::string block;
  for (const std::string& line : split(lines, '\n')) {
    all.push_back(split(line, ' '));
    if (all.back().size() < 2) continue;
    if (all.back()[0] == "array") paths.push_back(unescaped(all.back()[1]));
    if (all.back()[0] == "block") block = all.back()[1];
  }
  const std::uint64_t block_size =
      block.empty() ? 0 : std::max<std::uint64_t>(checksum_block_size(paths), 1024);
  {
    detail::Writer writer(file, block_size);
    for (auto& words : all) writer.add(words);
  }
  if (block_size > 0) write_block(file, block_size, block);
  return block_size;
}

}  // namespace revode::checkpoint_text
