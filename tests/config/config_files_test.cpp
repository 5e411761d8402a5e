// What options become and come from: a checkpoint's config, INI files written and shipped, --help,
// the nearest word.
#include <algorithm>
#include <filesystem>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "revode/backend/backend.hpp"
#include "revode/config/config.hpp"
#include "revode/data/dataset.hpp"
#include "revode/files/json_text.hpp"
#include "revode/model/architecture.hpp"
#include "revode/pipeline/schedule.hpp"

#include "config/config_support.hpp"
#include "config/options.hpp"

namespace revode {
namespace {

using test::expect_input_error;
using test::parse;
using test::TemporaryFile;

/// A config as a run of a small network leaves it in its checkpoint.
nlohmann::json stored_config() {
  return parse_json(R"({
    "arch": "leapfrog", "blocks": [3, 2, 1], "widths": [8, 16, 32], "step-size": 0.05, "grid-bits": 12,
    "classes": 10, "image": [3, 32, 32], "dataset": "synthetic", "train-fraction": 0.5, "augment": false,
    "batch-size": 64, "micro-batches": 4, "epochs": 9, "learning-rate": 0.2, "lr-decay-epochs": [5, 7],
    "seed": 18446744073709551615, "unknown-to-this-version": 3})");
}

nlohmann::json model_alone() {
  nlohmann::json stored;
  for (const char* key : {"arch", "blocks", "widths", "step-size", "grid-bits", "classes", "image"})
    stored[key] = stored_config()[key];
  return stored;
}

Config with_stored(const std::vector<std::string>& words, StoredUse use,
                   const nlohmann::json& stored = stored_config()) {
  Config config = parse(words);
  apply_stored(config, stored, use, "m.h5");
  return config;
}

void expect_stored_error(const std::vector<std::string>& words, StoredUse use,
                         const nlohmann::json& stored, const std::vector<std::string>& parts) {
  SCOPED_TRACE(testing::PrintToString(words));
  expect_input_error([&] { with_stored(words, use, stored); }, parts);
}

// Neither waits for a writer nor reads for ever.
TEST(IniFile, WhatIsNoFileIsRefusedAtOnce) {
  const TemporaryFile file("");
  const std::string fifo = file.path() + ".fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  test::expect_error({"--config", fifo}, {"--config", fifo, "FIFO"});
  std::filesystem::remove(fifo);
  test::expect_error({"--config", "/dev/zero"}, {"--config /dev/zero", "1048576 bytes"});
  test::expect_error({"--config", "/"}, {"--config /", "folder"});
}

// So that a run's config.ini serves another dataset.
TEST(IniFile, ImageSizeGoesWithTheDatasetOfTheFile) {
  const TemporaryFile file("dataset = synthetic\nimage-size = 48\n");
  const std::vector<std::string> with_file{"--config", file.path()};
  const auto size_with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = with_file;
    words.insert(words.end(), more.begin(), more.end());
    return parse(words).image_size;
  };

  EXPECT_EQ(size_with({}), 48);
  EXPECT_EQ(size_with({"--dataset", "synthetic"}), 48);
  EXPECT_EQ(size_with({"--image-size", "64"}), 64);
  EXPECT_FALSE(size_with({"--dataset", "cifar10", "--data-dir", "d"}));
}

TEST(StoredConfig, FillsWhatWasNotGiven) {
  const Config config =
      with_stored({"--resume", "m.h5", "--learning-rate", "0.01"}, StoredUse::resume);

  EXPECT_EQ(config.arch, "leapfrog");
  EXPECT_EQ(config.blocks, (std::vector{3, 2, 1}));
  EXPECT_EQ(config.step_size, 0.05);
  EXPECT_EQ(config.grid_bits, 12);
  EXPECT_EQ(config.train_fraction, 0.5);
  EXPECT_FALSE(config.augment);
  EXPECT_EQ(config.batch_size, 64);
  EXPECT_EQ(config.micro_batches, 4);
  EXPECT_EQ(config.epochs, 9);
  EXPECT_EQ(config.seed, 18446744073709551615u);
  EXPECT_EQ(config.lr_decay_epochs, (std::vector{5, 7}));
  EXPECT_EQ(config.learning_rate, 0.01);
  EXPECT_EQ(config.momentum, 0.9);
  EXPECT_FALSE(config.given("arch"));
}

TEST(StoredConfig, PrecedenceIsCommandLineThenFileThenCheckpointThenDefaults) {
  const TemporaryFile ini("learning-rate = 0.3\nlr-decay = 0.3\n");
  nlohmann::json stored = stored_config();
  stored["lr-decay"] = 0.4;
  stored["momentum"] = 0.4;

  const Config config =
      with_stored({"--resume", "m.h5", "--config", ini.path(), "--learning-rate", "0.01"},
                  StoredUse::resume, stored);

  EXPECT_EQ(config.learning_rate, 0.01);
  EXPECT_EQ(config.lr_decay, 0.3);
  EXPECT_EQ(config.momentum, 0.4);
  EXPECT_EQ(config.clip_norm, 0);
}

TEST(StoredConfig, ModelMustNotBeContradicted) {
  const std::vector<std::vector<std::string>> contradictions{{"--arch", "midpoint", "leapfrog"},
                                                             {"--blocks", "1,2,3", "3,2,1"},
                                                             {"--widths", "8,16,16", "8,16,32"},
                                                             {"--step-size", "0.1", "0.05"},
                                                             {"--grid-bits", "16", "12"}};
  for (const auto& item : contradictions) {
    const std::vector<std::string> expected{item[0] + " " + item[1], item[2], "m.h5"};
    expect_stored_error({"eval", "--checkpoint", "m.h5", item[0], item[1]}, StoredUse::model,
                        stored_config(), expected);
    expect_stored_error({"--resume", "m.h5", item[0], item[1]}, StoredUse::resume, stored_config(),
                        expected);
  }
  EXPECT_EQ(with_stored({"eval", "--checkpoint", "m.h5", "--step-size", "0.05"}, StoredUse::model)
                .step_size,
            0.05);
}

TEST(StoredConfig, RunMustNotBeContradictedByAResumeAlone) {
  const std::vector<std::vector<std::string>> contradictions{
      {"--train-fraction", "1", "0.5"},
      {"--augment", "on", "off"},
      {"--batch-size", "32", "64"},
      {"--micro-batches", "2", "4"},
      {"--seed", "1", "18446744073709551615"}};
  for (const auto& item : contradictions) {
    expect_stored_error({"--resume", "m.h5", item[0], item[1]}, StoredUse::resume, stored_config(),
                        {item[0] + " " + item[1], item[2], "m.h5", "--checkpoint"});
    EXPECT_NO_THROW(with_stored({"--checkpoint", "m.h5", item[0], item[1]}, StoredUse::model));
  }
  expect_stored_error({"--resume", "m.h5", "--dataset", "cifar10", "--data-dir", "d"},
                      StoredUse::resume, stored_config(), {"--dataset cifar10", "synthetic"});
}

TEST(StoredConfig, RatesLengthAndComputingMayChangeOnResume) {
  const Config config = with_stored(
      {"--resume", "m.h5", "--epochs", "20", "--steps", "7", "--learning-rate", "0.5",
       "--lr-decay-epochs", "none", "--schedule", "gpipe", "--time-ranks", "3", "--output", "o"},
      StoredUse::resume);

  EXPECT_EQ(config.epochs, 20);
  EXPECT_EQ(config.steps, 7);
  EXPECT_EQ(config.learning_rate, 0.5);
  EXPECT_TRUE(config.lr_decay_epochs.empty());
  EXPECT_EQ(config.schedule, "gpipe");
}

TEST(StoredConfig, ModelAloneIsEnoughToEvaluate) {
  const Config config =
      with_stored({"eval", "--checkpoint", "m.h5"}, StoredUse::model, model_alone());

  EXPECT_EQ(config.arch, "leapfrog");
  EXPECT_EQ(config.dataset, "synthetic");
  EXPECT_EQ(config.batch_size, 100);
}

TEST(StoredConfig, MissingAndMalformedKeysAreNamed) {
  const nlohmann::json model = model_alone();
  for (const auto& [key, value] : model.items()) {
    nlohmann::json stored = model;
    stored.erase(key);
    expect_stored_error({"eval", "--checkpoint", "m.h5"}, StoredUse::model, stored,
                        {"m.h5", "'" + key + "'"});
  }
  const std::vector<std::pair<std::string, nlohmann::json>> malformed{
      {"step-size", "0.1"},        {"step-size", -1},   {"blocks", {1, 2.5}}, {"blocks", 3},
      {"arch", "resnet"},          {"grid-bits", 16.5}, {"grid-bits", 5},     {"seed", -1},
      {"batch-size", 99999999999}, {"image", 3},        {"classes", "ten"},   {"augment", 1}};
  for (const auto& [key, value] : malformed) {
    nlohmann::json stored = stored_config();
    stored[key] = value;
    SCOPED_TRACE(to_text(value));
    expect_stored_error({"eval", "--checkpoint", "m.h5"}, StoredUse::model, stored,
                        {"m.h5", "'" + key + "'"});
  }
  expect_stored_error({"eval", "--checkpoint", "m.h5"}, StoredUse::model, nlohmann::json::array(),
                      {"m.h5", "array", "object"});
}

TEST(StoredConfig, ImagesMustBeThoseOfTheModel) {
  expect_stored_error({"eval", "--checkpoint", "m.h5", "--dataset", "cifar100", "--data-dir", "d"},
                      StoredUse::model, stored_config(), {"cifar100", "100 classes", "m.h5", "10"});
  expect_stored_error({"eval", "--checkpoint", "m.h5", "--dataset", "stl10", "--data-dir", "d"},
                      StoredUse::model, stored_config(), {"stl10", "[3,96,96]", "[3,32,32]"});
  EXPECT_EQ(with_stored({"eval", "--checkpoint", "m.h5", "--dataset", "cifar10", "--data-dir", "d"},
                        StoredUse::model)
                .dataset,
            "cifar10");
}

// The file's "image" says the size, whoever wrote it.
TEST(StoredConfig, ImagesAreDrawnAtTheSizeOfTheModel) {
  nlohmann::json stored = stored_config(), alone = model_alone();
  stored["image"] = alone["image"] = {3, 48, 48};
  const std::vector<std::string> resume{"--resume", "m.h5"},
      resume_with_size{"--resume", "m.h5", "--image-size", "48"};
  EXPECT_EQ(with_stored({"eval", "--checkpoint", "m.h5"}, StoredUse::model, alone).image_size, 48);
  EXPECT_EQ(with_stored(resume, StoredUse::resume, stored).image_size, 48);
  EXPECT_EQ(with_stored(resume_with_size, StoredUse::resume, stored).image_size, 48);
  EXPECT_EQ(with_stored(resume, StoredUse::resume).image_size, 32);

  const std::vector<std::string> expected{"--image-size 32", "[3,48,48]", "m.h5"};
  expect_stored_error({"eval", "--checkpoint", "m.h5", "--image-size", "32"}, StoredUse::model,
                      stored, expected);
  expect_stored_error({"--resume", "m.h5", "--image-size", "32"}, StoredUse::resume, stored,
                      expected);
  expect_stored_error({"eval", "--checkpoint", "m.h5", "--dataset", "stl10", "--data-dir", "d"},
                      StoredUse::model, stored, {"--dataset stl10", "[3,96,96]", "[3,48,48]"});
  for (const nlohmann::json& image : {nlohmann::json{3, 48, 32}, nlohmann::json{1, 48, 48},
                                      nlohmann::json{3, 8, 8}, nlohmann::json{3, 2048, 2048},
                                      nlohmann::json{3, 48.5, 48.5}, nlohmann::json::array({48})}) {
    stored["image"] = image;
    expect_stored_error({"eval", "--checkpoint", "m.h5"}, StoredUse::model, stored,
                        {"--dataset synthetic", to_text(image), "m.h5"});
  }
}

// --resume auto reads a second file where the first one is of no use.
TEST(StoredConfig, ASecondFileSaysTheSizeAnew) {
  nlohmann::json stored = stored_config();
  stored["image"] = {3, 48, 48};
  Config config = with_stored({"--resume", "m.h5"}, StoredUse::resume, stored);

  apply_stored(config, stored_config(), StoredUse::resume, "n.h5");

  EXPECT_EQ(config.image_size, 32);
}

TEST(StoredConfig, DatasetOfTheCheckpointNeedsItsFolder) {
  nlohmann::json stored = stored_config();
  stored["dataset"] = "cifar10";

  expect_stored_error({"eval", "--checkpoint", "m.h5"}, StoredUse::model, stored,
                      {"cifar10", "needs --data-dir"});
  expect_stored_error({"eval", "--checkpoint", "m.h5", "--data-dir", "d"}, StoredUse::model,
                      stored_config(), {"--data-dir d", "without --dataset"});
  EXPECT_EQ(
      with_stored({"eval", "--checkpoint", "m.h5", "--data-dir", "d"}, StoredUse::model, stored)
          .dataset,
      "cifar10");
}

TEST(StoredConfig, StoredMicroBatchesYieldToASmallerBatch) {
  const std::vector<std::string> gradient{"gradient", "--checkpoint", "m.h5", "--samples"};
  auto three = gradient;
  three.push_back("0:3");
  auto four = gradient;
  four.push_back("0:4");

  EXPECT_FALSE(with_stored(three, StoredUse::model).micro_batches.has_value());
  EXPECT_EQ(with_stored(four, StoredUse::model).micro_batches, 4);
}

TEST(ConfigJson, HoldsWhatDeterminesTheNumbersAndNothingElse) {
  const nlohmann::json json =
      config_to_json(parse({"--blocks", "3,2,1", "--augment", "off", "--threads", "2", "--output",
                            "o", "--lr-decay-epochs", "none", "--seed", "18446744073709551615"}));

  EXPECT_EQ(json["blocks"], nlohmann::json({3, 2, 1}));
  EXPECT_TRUE(json["step-size"].is_number());
  EXPECT_EQ(json["step-size"], 0.1);
  EXPECT_EQ(json["seed"], 18446744073709551615u);
  EXPECT_EQ(json["augment"], false);
  EXPECT_EQ(json["lr-decay-epochs"], nlohmann::json::array());
  for (const char* key : {"arch", "grid-bits", "dataset", "train-fraction", "batch-size",
                          "learning-rate", "lr-decay", "momentum", "weight-decay", "smoothness"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  for (const char* key : {"threads", "time-ranks", "data-ranks", "schedule", "output", "log-every",
                          "widths", "steps", "data-dir", "image-size", "help"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
}

TEST(ConfigJson, ReadsBackToTheSameValues) {
  const Config written = parse({"--arch", "midpoint", "--blocks", "3,2,1", "--widths", "8,16,32",
                                "--step-size", "0.1234567890123456789", "--micro-batches", "3",
                                "--steps", "5000000000", "--lr-decay-epochs", "none"});
  nlohmann::json stored = parse_json(to_text(config_to_json(written)));
  stored["classes"] = 10;
  stored["image"] = {3, 32, 32};

  const Config read = with_stored({"--resume", "m.h5"}, StoredUse::resume, stored);

  EXPECT_EQ(config_to_json(read), config_to_json(written));
  EXPECT_EQ(read.step_size, written.step_size);
  EXPECT_TRUE(read.lr_decay_epochs.empty());
}

TEST(ConfigIni, ReadsBackToTheSameValues) {
  const std::vector<std::vector<std::string>> command_lines{
      {},
      {"--arch", "midpoint", "--blocks", "3,2,1", "--widths", "8,16,32", "--step-size",
       "0.1234567890123456789", "--learning-rate", "1e-7", "--steps", "5000000000",
       "--lr-decay-epochs", "none", "--seed", "18446744073709551615", "--augment", "off"},
      {"--output", "runs/#1 # \"x\" ", "--json", "-"},
      {"--image-size", "224"},
      {"--output", "\"quoted\"", "--dataset", "cifar10", "--data-dir", "#d"},
      {"gradient", "--samples", "3:9", "--output", " g.h5", "--split", "train"},
      {"info", "\"a # b"}};
  for (const std::vector<std::string>& words : command_lines) {
    SCOPED_TRACE(testing::PrintToString(words));
    const Config written = parse(words);
    const TemporaryFile ini(config_to_ini(written));

    const Config read = parse({std::string(to_string(written.command)), "--config", ini.path()});

    EXPECT_EQ(config_to_ini(read), config_to_ini(written));
    for (const Option& option : option_table()) {
      if (option.is_ini_key() && option.taken_by(written.command)) {
        EXPECT_EQ(get_value(option, read), get_value(option, written)) << option.name;
      }
    }
  }
}

std::vector<std::filesystem::path> shipped_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(REVODE_CONFIGS_DIR)) {
    if (entry.path().extension() == ".ini") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST(ShippedConfigs, AllParseAndAreWhatTheirNamesSay) {
  const std::vector<std::filesystem::path> files = shipped_files();

  ASSERT_EQ(files.size(), 16u);
  for (const std::filesystem::path& file : files) {
    SCOPED_TRACE(file);
    const std::string name = file.stem();
    const bool laptop = name == "laptop";
    const std::vector<std::string> words{"--config", file.string()};
    auto with_folder = words;
    if (!laptop) with_folder.insert(with_folder.end(), {"--data-dir", "d"});

    const Config config = parse(with_folder);

    if (laptop) {
      EXPECT_EQ(config.dataset, "synthetic");
      continue;
    }
    EXPECT_TRUE(name.starts_with(config.arch));
    EXPECT_TRUE(name.ends_with("-" + config.dataset));
    if (config.depth) {
      EXPECT_NE(name.find("-" + std::to_string(*config.depth) + "-"), std::string::npos);
    }
    EXPECT_EQ(config.micro_batches, 1);
    EXPECT_EQ(config.epochs, 200);
    EXPECT_EQ(config.lr_decay_epochs, (std::vector{80, 120, 160}));
    const int batch = config.dataset == "stl10" ? 128 : config.depth == 1202 ? 32 : 100;
    EXPECT_EQ(config.batch_size, batch);
    test::expect_error(words, {config.dataset, "needs --data-dir"});
  }
}

TEST(OptionTable, RowsAreComplete) {
  std::vector<std::string> names;
  for (const Option& option : option_table()) {
    SCOPED_TRACE(option.name);
    names.push_back(option.name);
    EXPECT_FALSE(option.help.empty());
    EXPECT_NE(option.commands, 0u);
    EXPECT_EQ(option.is_switch(), option.rule.expects.empty());
    const std::optional<Value> preset = get_value(option, Config{});
    if (preset && !option.is_switch()) {
      EXPECT_EQ(parse_value(option, to_text(*preset), "default"), *preset);
    }
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end()) << "a name is there twice";
}

TEST(OptionTable, TakesWhatTheRegistriesKnow) {
  const auto takes_all = [](const std::string& option, const std::vector<std::string>& names) {
    EXPECT_FALSE(names.empty());
    for (const std::string& name : names)
      EXPECT_NO_THROW(parse({"--" + option, name, "--print-config"})) << option << ' ' << name;
  };
  takes_all("arch", architecture_names());
  takes_all("dataset", dataset_names());
  std::vector<std::string> schedules = schedule_names();
  schedules.insert(schedules.begin(), "auto");
  takes_all("schedule", schedules);
  takes_all("backend", backend_names());
  takes_all("backend", {"auto"});
}

TEST(Help, ShowsTheOptionsOfItsCommandWithinAHundredColumns) {
  for (const std::string& name : command_names()) {
    SCOPED_TRACE(name);
    const Command command = *find_command(name);
    const std::string text = help_text(command);

    for (const Option& option : option_table()) {
      const bool shown = text.find("  --" + option.name + " ") != std::string::npos;
      EXPECT_EQ(shown, option.taken_by(command)) << option.name;
    }
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(line.size(), 100u) << line;
      EXPECT_FALSE(line.ends_with(' ')) << line;
    }
  }
}

TEST(Help, NamesDefaultsChoicesAndExamples) {
  const std::string text = help_text(Command::train);

  for (const char* part :
       {"(default 0.1)", "hamiltonian, leapfrog, midpoint", "(default hamiltonian)", "80,120,160",
        "0.0002", "Model:", "Training:", "mpirun -n 8 revode --depth 1202", "gradient", "verify"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }
}

TEST(Version, IsNameAndNumber) {
  const std::string text = version_text();

  EXPECT_TRUE(text.starts_with("revode "));
  EXPECT_TRUE(std::isdigit(static_cast<unsigned char>(text.at(7)))) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(Nearest, CountsInsertionsDeletionsReplacementsAndSwaps) {
  EXPECT_EQ(nearest("dept", {"steps", "depth", "epochs"}), "depth");
  EXPECT_EQ(nearest("stpe", {"stage", "step", "stop"}), "step");
  EXPECT_EQ(nearest("epoch", {"depth", "epochs"}), "epochs");
  EXPECT_EQ(nearest("vers", {"steps", "version"}), "version");
  EXPECT_EQ(nearest("", {"abc", "ab"}), "ab");
  EXPECT_EQ(nearest("x", {"a", "b"}), "a");
  EXPECT_EQ(nearest("depht" + std::string(std::size_t{1} << 26, 'x'), {"steps", "depth"}), "depth");
}

}  // namespace
}  // namespace revode
