// STL-10, binary version: images in one file, labels in another; planes R, G, B are stored column
// by column and labels count from 1 (cs.stanford.edu/~acoates/stl10).
#include <utility>

#include "revode/core/error.hpp"

#include "data/dataset_readers.hpp"

namespace revode {

namespace {

/// Square planes, side x side bytes each: column-major <-> row-major, in place.
void transpose_planes(std::uint8_t* pixels, std::int64_t num_planes, int side) {
  for (std::int64_t plane = 0; plane < num_planes; ++plane) {
    std::uint8_t* values = pixels + plane * side * side;
    for (int y = 0; y < side; ++y) {
      for (int x = 0; x < y; ++x) std::swap(values[y * side + x], values[x * side + y]);
    }
  }
}

}  // namespace

Dataset read_stl10(const ReadRequest& request) {
  const ImageShape& image = request.info.image;
  const std::int64_t image_bytes = image.size();
  const RecordFile images(request.folder / request.files[0], image_bytes, "STL-10 images");
  const RecordFile labels(request.folder / request.files[1], 1, "STL-10 labels");
  REVODE_REQUIRE(images.num_records() == labels.num_records(),
                 "'{}' holds {} images and '{}' {} labels, expected as many of each",
                 images.path().string(), images.num_records(), labels.path().string(),
                 labels.num_records());

  Dataset dataset{request.info, request.split, images.num_records(), {}, {}};
  const bool with_images = request.contents == Contents::images_and_labels;
  check_memory(images, dataset.size * (1 + (with_images ? image_bytes : 0)));
  dataset.labels = Buffer<std::uint8_t>(dataset.size, Memory::data);
  labels.read(0, dataset.labels.data(), dataset.size);
  for (std::int64_t i = 0; i < dataset.size; ++i) {
    check_label(labels.path(), i, dataset.labels[i], 1, request.info.num_classes);
    --dataset.labels[i];
  }
  if (!with_images) return dataset;

  dataset.pixels = Buffer<std::uint8_t>(dataset.size * image_bytes, Memory::data);
  images.read(0, dataset.pixels.data(), dataset.size * image_bytes);
  transpose_planes(dataset.pixels.data(), dataset.size * image.channels, image.width);
  return dataset;
}

}  // namespace revode
