// The checkpoint reader on files with damaged bytes: what HDF5 makes of broken structures. The
// input: places and values of bytes of a whole file. Damage that HDF5 itself does not survive is
// that library's matter (tools/fuzz tells it apart by the stack).
#include "fuzz/checkpoint_reading.hpp"
#include "fuzz/checkpoint_text.hpp"

namespace revode {
namespace {

/// A network of one block, with a checksum of all bytes that is made to fit again.
constexpr const char* whole_file =
    R"(text / format revode
int / version i32 1
text / config {"arch":"leapfrog","blocks":[1],"widths":[2],"step-size":0.1,"grid-bits":16,"classes":10,"image":[3,16,16]}
vtext / note text
array /model/input/mean f32 3 0.5
array /model/input/std f32 3 0.25
array /model/opening/kernel f32 2x3x3x3 0.1
array /model/opening/norm/scale f32 2 1
array /model/opening/norm/shift f32 2 0
array /model/opening/norm/mean f32 2 0
array /model/opening/norm/variance f32 2 1
array /model/stage_1/kernel f32 1x2x2x3x3 0.1
array /model/stage_1/bias f32 1x2 0
array /model/closing/norm/scale f32 2 1
array /model/closing/norm/shift f32 2 0
array /model/closing/norm/mean f32 2 0
array /model/closing/norm/variance f32 2 1
array /model/closing/weight f32 10x2 0.1
array /model/closing/bias f32 10 0
int /progress step i64 1
block one
)";

struct WholeFile {
  std::vector<unsigned char> bytes;
  std::uint64_t block_size = 0;
};

const WholeFile& whole() {
  static const WholeFile made = [] {
    const std::string file = (scratch() / "whole.h5").string();
    const std::uint64_t block_size = checkpoint_text::write_file(file, whole_file);
    require(accepts("", [&] { start_from(file, StoredUse::model); }), "a whole file is refused");
    return WholeFile{read_bytes(file), block_size};
  }();
  return made;
}

}  // namespace
}  // namespace revode

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace revode;
  std::vector<unsigned char> bytes = whole().bytes;
  const std::uint64_t block_size = whole().block_size;
  const auto file = scratch() / "damaged.h5";
  // Three bytes a change: the place in two, from the end of the block on, and what is added.
  for (std::size_t i = 0; i + 3 <= size; i += 3) {
    const std::size_t place = block_size + (data[i] << 8 | data[i + 1]);
    if (place < bytes.size()) bytes[place] = static_cast<unsigned char>(bytes[place] + data[i + 2]);
  }
  write_bytes(file, bytes);
  checkpoint_text::detail::write_block(file, block_size,
                                       checkpoint_text::checksum_of_all(file, block_size));
  read_checkpoint(file.string(), "");
  return 0;
}
