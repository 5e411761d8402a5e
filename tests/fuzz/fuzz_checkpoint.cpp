// The checkpoint reader on files that HDF5 can read, but that hold what no run writes. The input is
// the text of checkpoint_text.hpp; the mutator changes it line by line and word by word, so that
// most files get past the checksums.
#include <random>

#include "fuzz/checkpoint_reading.hpp"
#include "fuzz/checkpoint_text.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace revode {
namespace {

using Random = std::minstd_rand;
using checkpoint_text::join;
using checkpoint_text::split;

std::size_t below(Random& random, std::size_t bound) {
  return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random);
}

template <typename Items>
auto& one_of(Random& random, Items& items) {
  return items[below(random, std::size(items))];
}

/// Bytes as libFuzzer changes them.
std::string changed_bytes(std::string text) {
  const std::size_t size = text.size();
  text.resize(size + 16);
  text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, text.size()));
  return text;
}

constexpr const char* numbers[] = {"0",
                                   "-1",
                                   "1",
                                   "2",
                                   "3",
                                   "16",
                                   "127",
                                   "1024",
                                   "1000001",
                                   "4294967296",
                                   "2147483647",
                                   "2147483648",
                                   "-2147483649",
                                   "9007199254740993",
                                   "9223372036854775807",
                                   "-9223372036854775808",
                                   "18446744073709551615",
                                   "0.1",
                                   "-0.0",
                                   "1e308",
                                   "1e-320",
                                   "nan",
                                   "inf",
                                   "-inf"};
constexpr const char* shapes[] = {"-",
                                  "0",
                                  "1",
                                  "2",
                                  "3",
                                  "2x2",
                                  "0x4",
                                  "4x0",
                                  "1x1099511627776",
                                  "1099511627776x1099511627776",
                                  "4294967296x4294967296x4294967296",
                                  "1x1000000000",
                                  "1000000000x1",
                                  "2x3x3x3",
                                  "18446744073709551615"};
constexpr const char* types[] = {"i8", "u8", "i32", "i64", "u64", "f32", "f64", "be64"};
constexpr const char* kinds[] = {"text", "vtext", "int", "float", "list", "array", "hard", "soft"};
constexpr const char* blocks[] = {"block good",
                                  "block good",
                                  "block one",
                                  "block wrong",
                                  "",
                                  "block "
                                  "00000000\\_18446744073709551615\\_18446744073709551615\\_/"
                                  "model\\n00000000\\_1024\\_1\\_structure"};
constexpr const char* json_values[] = {"null",
                                       "true",
                                       "-1",
                                       "0",
                                       "1",
                                       "1e300",
                                       "1.5",
                                       "2147483648",
                                       "18446744073709551615",
                                       "\"\"",
                                       "\"leapfrog\"",
                                       "\"midpoint\"",
                                       "\"cifar10\"",
                                       "\"a\\nb\"",
                                       "[]",
                                       "[1]",
                                       "[1,2]",
                                       "[1000000,1000000]",
                                       "[2147483647]",
                                       "[3,16,16]",
                                       "[3,1024,1024]",
                                       "[[1]]",
                                       "{}",
                                       "{\"a\":1}"};
constexpr const char* more_lines[] = {
    "hard /model/loop /model",
    "soft /model/nowhere /none",
    "soft /progress /model",
    "list /progress step 2 1",
    "text / config {}",
    "array /progress/step f32 2 1",
    "array /logits f32 2x10 0",
    "array /labels f32 2 0",
    "text / config [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]",
    "int / version i64 2",
    "float / version f64 1",
    "text / format revode\\nx",
    "int /progress \xff i64 1",
    "array /model/\xff f32 1 1",
    "array /deep/a/b/c/d/e/f/g f64 1x1x1x1x1x1x1x1x1x1x1x1x1x1x1x1 1"};

/// The config with a key gone, new or of another value.
std::string changed_config(Random& random, const std::string& text) {
  nlohmann::json config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object() || config.empty() || below(random, 4) == 0) return changed_bytes(text);
  auto item = config.begin();
  std::advance(item, below(random, config.size()));
  const std::size_t what = below(random, 8);
  if (what == 0)
    config.erase(item);
  else if (what == 1 && item->is_array())
    item->push_back(1 + below(random, 4));
  else if (what == 2 && item->is_array() && !item->empty())
    one_of(random, *item) = 1 + below(random, 40);
  else if (what == 3)
    config[changed_bytes(item.key()).substr(0, 40)] = *item;
  else
    *item = nlohmann::json::parse(one_of(random, json_values));
  return config.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void change_word(Random& random, std::vector<std::string>& words) {
  const std::string kind = words[0];
  const std::size_t index = below(random, words.size());
  std::string& word = words[index];
  const bool is_config = words.size() > 3 && words[2] == "config";
  if (is_config && index == 3)
    word = checkpoint_text::escaped(changed_config(random, checkpoint_text::unescaped(word)));
  else if (index == 0)
    word = one_of(random, kinds);
  else if (kind == "array" && index == 2)
    word = one_of(random, types);
  else if (kind == "array" && index == 3)
    word = one_of(random, shapes);
  else if ((kind == "int" || kind == "float") && index == 3)
    word = one_of(random, types);
  else if (index == 4)
    word = one_of(random, numbers);
  else
    word = checkpoint_text::escaped(changed_bytes(checkpoint_text::unescaped(word)));
}

void change(Random& random, std::vector<std::string>& lines) {
  std::string& line = one_of(random, lines);
  switch (below(random, 10)) {
    case 0:
      lines.erase(lines.begin() + (&line - lines.data()));
      break;
    case 1:
      std::swap(line, one_of(random, lines));
      break;
    case 2: {
      const std::string copy = line;
      lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(below(random, lines.size())), copy);
      break;
    }
    case 3:
      lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(below(random, lines.size())),
                   one_of(random, more_lines));
      break;
    case 4:
      std::erase_if(lines, [](const std::string& one) { return one.starts_with("block"); });
      lines.push_back(one_of(random, blocks));
      break;
    case 5: {  // what runs have most of: a config
      const auto config = std::ranges::find_if(
          lines, [](const std::string& one) { return one.starts_with("text / config "); });
      if (config == lines.end()) break;
      std::vector<std::string> words = split(*config, ' ');
      words[3] =
          checkpoint_text::escaped(changed_config(random, checkpoint_text::unescaped(words[3])));
      *config = join(words, ' ');
      break;
    }
    default: {
      std::vector<std::string> words = split(line, ' ');
      change_word(random, words);
      line = join(words, ' ');
    }
  }
  if (lines.empty()) lines.emplace_back();
}

}  // namespace
}  // namespace revode

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  using namespace revode;
  Random random(seed);
  std::vector<std::string> lines = split(as_text(data, size), '\n');
  for (std::size_t changes = 1 + below(random, 3); changes > 0; --changes) change(random, lines);
  const std::string text = join(lines, '\n').substr(0, max_size);
  std::copy(text.begin(), text.end(), data);
  return text.size();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace revode;
  const auto file = scratch() / "made.h5";
  checkpoint_text::write_file(file, as_text(data, size));
  read_checkpoint(file.string(), as_text(data, size));
  return 0;
}
