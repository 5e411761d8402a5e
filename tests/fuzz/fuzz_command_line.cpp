// Command line and INI file. The input: a word of the command line a line; after a line "---", if
// there is one, the INI file.
#include <vector>

#include <nlohmann/json.hpp>

#include "revode/config/config.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/files/json_text.hpp"

#include "fuzz/fuzz_support.hpp"

namespace revode {
namespace {

constexpr std::string_view separator = "---\n";

Config parse(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"revode"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_command_line(static_cast<int>(argv.size()), argv.data());
}

std::string write_ini(const char* name, std::string_view text) {
  const std::string file = (scratch() / name).string();
  std::ofstream(file, std::ios::binary) << text;
  return file;
}

/// What `config` is printed as must be read as the same.
void check_that_ini_is_read_back(const Config& config) {
  const std::string text = config_to_ini(config);
  std::vector<std::string> words{std::string(to_string(config.command)),
                                 "--config=" + write_ini("again.ini", text)};
  const std::string again = config_to_ini(parse(words));
  require(again == text, "an INI file of ours that is read as another", text + " / " + again);
}

void use(const Config& config) {
  if (config.help) require(!help_text(config.command).empty(), "no help");
  if (config.help || config.version) return;
  option_texts(config);
  to_text(config_to_json(config));
  if (!config.print_config) check_that_ini_is_read_back(config);
  if (config.command == Command::info) return;
  Config resolved = config;
  resolve(resolved);
}

}  // namespace
}  // namespace revode

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace revode;
  std::string_view text = as_text(data, size);
  std::vector<std::string> words;
  while (!text.empty() && !text.starts_with(separator)) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view word = text.substr(0, end);
    words.emplace_back(word.substr(0, word.find('\0')));  // as argv has it
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  std::string_view shown = "";
  if (text.starts_with(separator)) {
    shown = text.substr(separator.size());
    words.push_back("--config=" + write_ini("given.ini", shown));
  }
  Config config;
  const bool read = accepts(shown, [&] { config = parse(words); });
  if (read) accepts(shown, [&] { use(config); });
  return 0;
}
