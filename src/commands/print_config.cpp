// --print-config: the options as a run would resolve them, as an INI file that --config reads back.
#include "revode/config/run_plan.hpp"
#include "revode/core/console.hpp"
#include "revode/train/stored_options.hpp"

#include "commands/commands.hpp"

namespace revode {

ExitStatus print_config(Config config) {
  const bool resumes = !config.resume.empty() && !config.resumes_newest();
  const std::string& file = resumes ? config.resume : config.checkpoint;
  if (!file.empty())
    fill_from_checkpoint(config, resumes ? StoredUse::resume : StoredUse::model, file);
  resolve(config);
  print_result(config_to_ini(config));
  return ExitStatus::success;
}

}  // namespace revode
