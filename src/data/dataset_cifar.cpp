// CIFAR-10 and CIFAR-100, binary version: records of label bytes followed by the image's planes R,
// G, B, row-major (www.cs.toronto.edu/~kriz/cifar.html). Files are read one after the other as one
// split.
#include <algorithm>
#include <memory>

#include "data/dataset_readers.hpp"

namespace revode {

namespace {

/// A record: `label_bytes` labels, of which the one at `label_offset` is used, then the image.
struct RecordLayout {
  const char* what;
  std::int64_t label_bytes;
  std::int64_t label_offset;
};

std::uint8_t checked_label(const RecordFile& file, std::int64_t record, std::uint8_t label,
                           int num_classes) {
  check_label(file.path(), record, label, 0, num_classes);
  return label;
}

void read_file_labels(const RecordFile& file, const RecordLayout& layout, const DatasetInfo& info,
                      std::uint8_t* labels) {
  const std::int64_t record_bytes = layout.label_bytes + info.image.size();
  for (std::int64_t record = 0; record < file.num_records(); ++record) {
    file.read(record * record_bytes + layout.label_offset, labels + record, 1);
    checked_label(file, record, labels[record], info.num_classes);
  }
}

void read_file(const RecordFile& file, const RecordLayout& layout, const DatasetInfo& info,
               std::uint8_t* labels, std::uint8_t* pixels) {
  constexpr std::int64_t chunk_records = 256;  // 0.8 MB: large reads, small scratch
  const std::int64_t image_bytes = info.image.size();
  const std::int64_t record_bytes = layout.label_bytes + image_bytes;
  std::vector<std::uint8_t> chunk(chunk_records * record_bytes);
  for (std::int64_t first = 0; first < file.num_records(); first += chunk_records) {
    const std::int64_t count = std::min(chunk_records, file.num_records() - first);
    file.read(first * record_bytes, chunk.data(), count * record_bytes);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint8_t* record = chunk.data() + i * record_bytes;
      labels[first + i] =
          checked_label(file, first + i, record[layout.label_offset], info.num_classes);
      std::copy_n(record + layout.label_bytes, image_bytes, pixels + (first + i) * image_bytes);
    }
  }
}

Dataset read_cifar(const ReadRequest& request, const RecordLayout& layout) {
  const std::int64_t image_bytes = request.info.image.size();
  std::vector<std::unique_ptr<RecordFile>> files;
  Dataset dataset{request.info, request.split, 0, {}, {}};
  for (const std::string& name : request.files) {
    files.push_back(std::make_unique<RecordFile>(request.folder / name,
                                                 layout.label_bytes + image_bytes, layout.what));
    dataset.size += files.back()->num_records();
  }
  const auto& largest =
      *std::ranges::max_element(files, {}, [](const auto& file) { return file->bytes(); });
  const bool with_images = request.contents == Contents::images_and_labels;
  check_memory(*largest, dataset.size * (1 + (with_images ? image_bytes : 0)));
  dataset.labels = Buffer<std::uint8_t>(dataset.size, Memory::data);
  if (with_images) {
    dataset.pixels = Buffer<std::uint8_t>(dataset.size * image_bytes, Memory::data);
  }

  std::int64_t first = 0;
  for (const auto& file : files) {
    std::uint8_t* labels = dataset.labels.data() + first;
    if (request.contents == Contents::labels_only) {
      read_file_labels(*file, layout, request.info, labels);
    } else {
      read_file(*file, layout, request.info, labels, dataset.pixels.data() + first * image_bytes);
    }
    first += file->num_records();
  }
  return dataset;
}

}  // namespace

Dataset read_cifar10(const ReadRequest& request) {
  return read_cifar(request, {"CIFAR-10 records", 1, 0});
}

// Bytes: coarse label (of 20), fine label (of 100), image. The fine label is the class.
Dataset read_cifar100(const ReadRequest& request) {
  return read_cifar(request, {"CIFAR-100 records", 2, 1});
}

}  // namespace revode
