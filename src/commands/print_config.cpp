// --print-config: the options as a run would resolve them, as an INI file that --config reads back.
#include "revode/checkpoint/checkpoint.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/core/console.hpp"

#include "commands/commands.hpp"

namespace revode {

ExitStatus print_config(Config config) {
  const bool resumes = !config.resume.empty() && config.resume != "auto";
  const std::string& file = resumes ? config.resume : config.checkpoint;
  if (!file.empty())
    apply_stored(config, CheckpointReader(file).config(),
                 resumes ? StoredUse::resume : StoredUse::model, file);
  resolve(config);
  print_result(config_to_ini(config));
  return ExitStatus::success;
}

}  // namespace revode
