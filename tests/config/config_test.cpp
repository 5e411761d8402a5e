// The command line and the INI file beneath it: values, precedence, and what is said about
// mistakes.
#include "revode/config/config.hpp"

#include <gtest/gtest.h>

#include "revode/core/error.hpp"

#include "config/config_support.hpp"

namespace revode {
namespace {

using test::expect_error;
using test::parse;
using test::TemporaryFile;

TEST(CommandLine, WithoutWordsIsTrainingWithDefaults) {
  const Config config = parse({});

  EXPECT_EQ(config.command, Command::train);
  EXPECT_EQ(config.arch, "hamiltonian");
  EXPECT_EQ(config.dataset, "synthetic");
  EXPECT_EQ(config.step_size, 0.1);
  EXPECT_EQ(config.grid_bits, 16);
  EXPECT_EQ(config.batch_size, 100);
  EXPECT_EQ(config.weight_decay, 2e-4);
  EXPECT_FALSE(config.depth.has_value());
  EXPECT_TRUE(config.given_options.empty());
}

TEST(CommandLine, ReadsEveryKindOfValue) {
  const Config config = parse({"train",
                               "--arch=leapfrog",
                               "--blocks",
                               "3,2,1",
                               "--widths=8,16,32",
                               "--step-size",
                               "0.05",
                               "--seed",
                               "18446744073709551615",
                               "--steps",
                               "5000000000",
                               "--augment",
                               "off",
                               "--lr-decay-epochs",
                               "none",
                               "--epochs=7",
                               "--output",
                               "runs/a b",
                               "--json",
                               "-"});

  EXPECT_EQ(config.arch, "leapfrog");
  EXPECT_EQ(config.blocks, (std::vector{3, 2, 1}));
  EXPECT_EQ(config.widths, (std::vector{8, 16, 32}));
  EXPECT_EQ(config.step_size, 0.05);
  EXPECT_EQ(config.seed, 18446744073709551615u);
  EXPECT_EQ(config.steps, 5000000000);
  EXPECT_FALSE(config.augment);
  EXPECT_TRUE(config.lr_decay_epochs.empty());
  EXPECT_EQ(config.epochs, 7);
  EXPECT_EQ(config.output, "runs/a b");
  EXPECT_EQ(config.json, "-");
  EXPECT_TRUE(config.given("epochs"));
  EXPECT_FALSE(config.given("depth"));
}

TEST(CommandLine, ResumeAndAugmentMayStandAlone) {
  EXPECT_EQ(parse({"--resume"}).resume, "auto");
  EXPECT_EQ(parse({"--resume", "--steps", "4"}).resume, "auto");
  EXPECT_EQ(parse({"--resume", "--steps", "4"}).steps, 4);
  EXPECT_EQ(parse({"--resume", "auto", "--steps", "4"}).resume, "auto");
  EXPECT_EQ(parse({"--resume", "a/latest.h5", "--steps", "4"}).resume, "a/latest.h5");
  EXPECT_EQ(parse({"--resume=b.h5"}).resume, "b.h5");
  EXPECT_TRUE(parse({"--augment"}).augment);
  EXPECT_TRUE(parse({"--augment", "--steps", "4"}).augment);
  EXPECT_FALSE(parse({"--augment=off"}).augment);
}

TEST(CommandLine, InfoTakesItsFileEitherWay) {
  EXPECT_EQ(parse({"info", "a.h5"}).checkpoint, "a.h5");
  EXPECT_EQ(parse({"info", "--checkpoint", "a.h5", "--json", "-"}).checkpoint, "a.h5");
  expect_error({"info"}, {"revode info", "--checkpoint FILE"});
  expect_error({"info", "a.h5", "--checkpoint", "b.h5"}, {"--checkpoint", "twice", "b.h5"});
  expect_error({"info", "a.h5", "b.h5"}, {"twice", "b.h5"});
}

TEST(CommandLine, HelpAndVersionNeedNothingElse) {
  EXPECT_TRUE(parse({"--help"}).help);
  EXPECT_TRUE(parse({"-h"}).help);
  EXPECT_TRUE(parse({"eval", "--help"}).help);
  EXPECT_EQ(parse({"eval", "--help"}).command, Command::eval);
  EXPECT_TRUE(parse({"--version"}).version);
  EXPECT_TRUE(parse({"--dataset", "cifar10", "--help"}).help);
  expect_error({"--help=yes"}, {"--help takes no value"});
}

TEST(CommandLine, UnknownWordsNameTheNearestOne) {
  expect_error({"--dept", "74"}, {"--dept'", "did you mean '--depth'"});
  expect_error({"--dept=74"}, {"--dept'", "did you mean '--depth'"});
  expect_error({"--learningrate", "1"}, {"'--learning-rate'"});
  expect_error({"-depth", "74"}, {"'--depth'"});
  expect_error({"--arch", "hamiltonain"},
               {"--arch", "'hamiltonain'", "did you mean 'hamiltonian'"});
  expect_error({"--dataset", "cifar"}, {"--dataset", "'cifar'", "cifar100", "'cifar10'"});
  expect_error({"--schedule", "1f1"}, {"--schedule", "'1f1b'"});
  expect_error({"--progress", "onn"}, {"--progress", "'on'"});
  expect_error({"--activations", "stor"}, {"--activations", "'store'"});
  expect_error({"eval", "--checkpoint", "a", "--split", "tst"}, {"--split", "'test'"});
  expect_error({"evl"},
               {"'evl'", "'eval'", "train, eval, gradient, verify, bench, plan, analyze, info"});
}

TEST(CommandLine, AbbreviationsAreNotGuessed) {
  expect_error({"--learn", "1"}, {"unknown option '--learn'"});
  expect_error({"--vers"}, {"unknown option '--vers'", "'--version'"});
}

TEST(CommandLine, APlanNeedsRanksAndAMachineAndNoImages) {
  expect_error({"plan", "--depth", "74"}, {"--ranks N"});
  expect_error({"plan", "--ranks", "4"}, {"--machine FILE", "bench --machine-file"});
  const Config config =
      parse({"plan", "--ranks", "4", "--machine", "m.json", "--dataset", "cifar10", "--search"});
  EXPECT_EQ(config.ranks, 4);
  EXPECT_TRUE(config.search);
  EXPECT_TRUE(config.data_dir.empty());
}

TEST(CommandLine, BenchTakesWhatDeterminesATrainingStep) {
  const Config config =
      parse({"bench", "--arch",          "leapfrog", "--depth",       "26",    "--batch-size",
             "8",     "--micro-batches", "2",        "--threads",     "2",     "--backend",
             "cpu",   "--schedule",      "gpipe",    "--activations", "store", "--steps",
             "3",     "--seed",          "5",        "--augment",     "off",   "--json",
             "-"});

  EXPECT_EQ(config.command, Command::bench);
  EXPECT_EQ(config.activations, "store");
  EXPECT_EQ(config.steps, 3);
  EXPECT_FALSE(config.augment);
}

TEST(CommandLine, OptionsOfOtherCommandsAreRefusedByName) {
  expect_error({"info", "a.h5", "--epochs", "3"}, {"revode info", "--epochs"});
  expect_error({"eval", "--checkpoint", "a", "--learning-rate", "1"}, {"eval", "--learning-rate"});
  expect_error({"--samples", "0:4"}, {"revode train", "--samples"});
  expect_error({"verify", "--dataset", "cifar10"}, {"revode verify", "--dataset"});
  expect_error({"bench", "--epochs", "3"}, {"revode bench", "--epochs"});
  expect_error({"bench", "--output", "a"}, {"revode bench", "--output"});
}

TEST(CommandLine, StrayAndRepeatedWordsAreErrors) {
  expect_error({"--depth", "74", "stray"}, {"'stray'"});
  expect_error({"--depth", "74", "eval"}, {"'eval'", "come first"});
  expect_error({"--depth", "74", "--depth", "26"}, {"--depth", "twice", "74", "26"});
  expect_error({"--config", "a.ini", "--config", "b.ini"}, {"--config", "twice"});
  expect_error({"--augment", "--augment", "off"}, {"--augment", "twice"});
}

TEST(CommandLine, MissingValuesAreErrors) {
  expect_error({"--depth"}, {"--depth needs a value", "whole number"});
  expect_error({"--depth="}, {"--depth needs a value"});
  expect_error({"--depth", "--steps", "4"}, {"--depth needs a value", "--steps"});
  expect_error({"--output", ""}, {"--output", "''", "expected a folder"});
  expect_error({"--output", "a\nb"}, {"--output", "expected a folder"});
}

TEST(CommandLine, ResumeAndCheckpointExcludeEachOther) {
  expect_error({"--resume", "a.h5", "--checkpoint", "b.h5"}, {"--resume", "--checkpoint"});
  expect_error({"eval"}, {"revode eval needs --checkpoint"});
}

/// An option with a value, taken or not.
struct ValueCase {
  std::string option;
  std::string value;
};

std::vector<std::string> words_of(const ValueCase& item) {
  if (item.option == "--samples") return {"gradient", item.option, item.value};
  return {item.option, item.value};
}

class RefusedValue : public testing::TestWithParam<ValueCase> {};

TEST_P(RefusedValue, NamesOptionValueAndExpectation) {
  const auto& [option, value] = GetParam();

  expect_error(words_of(GetParam()), {option + ": found '" + value + "'", "expected "});
}

INSTANTIATE_TEST_SUITE_P(
    Config, RefusedValue,
    testing::Values(ValueCase{"--step-size", "0"}, ValueCase{"--step-size", "-1"},
                    ValueCase{"--step-size", "nan"}, ValueCase{"--step-size", "inf"},
                    ValueCase{"--step-size", "1e999"}, ValueCase{"--step-size", "0.1x"},
                    ValueCase{"--step-size", " 1"}, ValueCase{"--grid-bits", "7"},
                    ValueCase{"--grid-bits", "23"}, ValueCase{"--grid-bits", "-8"},
                    ValueCase{"--grid-bits", "16.0"}, ValueCase{"--batch-size", "0"},
                    ValueCase{"--batch-size", "1e3"}, ValueCase{"--batch-size", "12abc"},
                    ValueCase{"--batch-size", "99999999999"}, ValueCase{"--batch-size", "-5"},
                    ValueCase{"--micro-batches", "0"}, ValueCase{"--train-fraction", "0"},
                    ValueCase{"--train-fraction", "1.01"}, ValueCase{"--learning-rate", "-0.1"},
                    ValueCase{"--lr-decay", "0"}, ValueCase{"--lr-decay-epochs", "80,40"},
                    ValueCase{"--lr-decay-epochs", "80,80"},
                    ValueCase{"--lr-decay-epochs", "-1,80"}, ValueCase{"--lr-decay-epochs", "80,"},
                    ValueCase{"--momentum", "1"}, ValueCase{"--momentum", "-0.1"},
                    ValueCase{"--weight-decay", "-1"}, ValueCase{"--smoothness", "-1"},
                    ValueCase{"--clip-norm", "-1"}, ValueCase{"--warmup-epochs", "-1"},
                    ValueCase{"--threads", "0"}, ValueCase{"--time-ranks", "0"},
                    ValueCase{"--data-ranks", "0"}, ValueCase{"--keep-checkpoints", "-1"},
                    ValueCase{"--checkpoint-every", "0"}, ValueCase{"--log-every", "0"},
                    ValueCase{"--depth", "0"}, ValueCase{"--depth", "74.5"},
                    ValueCase{"--image-size", "15"}, ValueCase{"--image-size", "1025"},
                    ValueCase{"--blocks", "1,0,1"}, ValueCase{"--blocks", "1,,1"},
                    ValueCase{"--blocks", "none"}, ValueCase{"--blocks", "1 2"},
                    ValueCase{"--widths", "-8,16"}, ValueCase{"--epochs", "-1"},
                    ValueCase{"--steps", "9223372036854775808"}, ValueCase{"--seed", "-1"},
                    ValueCase{"--seed", "18446744073709551616"}, ValueCase{"--augment", "yes"},
                    ValueCase{"--samples", "3"}, ValueCase{"--samples", "3:3"},
                    ValueCase{"--samples", "4:3"}, ValueCase{"--samples", "-1:3"},
                    ValueCase{"--samples", "0:3x"}, ValueCase{"--samples", ":3"},
                    ValueCase{"--backend", "gpu"}));

class TakenValue : public testing::TestWithParam<ValueCase> {};

TEST_P(TakenValue, IsAtTheEdgeOfItsRange) {
  const Config config = parse(words_of(GetParam()));

  EXPECT_TRUE(config.given(GetParam().option.substr(2)));
}

INSTANTIATE_TEST_SUITE_P(
    Config, TakenValue,
    testing::Values(ValueCase{"--step-size", "1e-30"}, ValueCase{"--grid-bits", "0"},
                    ValueCase{"--grid-bits", "8"}, ValueCase{"--grid-bits", "22"},
                    ValueCase{"--batch-size", "1"}, ValueCase{"--batch-size", "2147483647"},
                    ValueCase{"--train-fraction", "1"}, ValueCase{"--learning-rate", "0"},
                    ValueCase{"--lr-decay-epochs", "0,1"}, ValueCase{"--momentum", "0"},
                    ValueCase{"--weight-decay", "0"}, ValueCase{"--keep-checkpoints", "0"},
                    ValueCase{"--steps", "0"}, ValueCase{"--epochs", "0"}, ValueCase{"--seed", "0"},
                    ValueCase{"--samples", "0:1"}, ValueCase{"--backend", "reference"},
                    ValueCase{"--precision", "bf16"}));

TEST(Config, ValuesThatAreTooLargeAreCalledSo) {
  expect_error({"--batch-size", "99999999999"}, {"too large"});
}

TEST(Config, MicroBatchesNeedAnImageEach) {
  EXPECT_EQ(parse({"--batch-size", "8", "--micro-batches", "8"}).micro_batches, 8);
  expect_error({"--batch-size", "8", "--micro-batches", "9"}, {"--micro-batches 9", "at most 8"});
  expect_error({"gradient", "--samples", "2:5", "--micro-batches", "4"},
               {"--micro-batches 4", "3"});
}

TEST(Config, MiniBatchIsTheSamplesOfAGradient) {
  EXPECT_EQ(mini_batch_size(parse({"--batch-size", "8"})), 8);
  EXPECT_EQ(mini_batch_size(parse({"gradient", "--samples", "2:5"})), 3);
  EXPECT_EQ(mini_batch_size(parse({"gradient", "--batch-size", "8"})), 8);
  EXPECT_EQ(parse_sample_range("2:5")->first, 2);
  EXPECT_EQ(parse_sample_range("2:5")->last, 5);
  EXPECT_FALSE(parse_sample_range("5:2").has_value());
}

TEST(Config, FolderAndDatasetGoTogether) {
  EXPECT_EQ(parse({"--dataset", "cifar10", "--data-dir", "d"}).data_dir, "d");
  expect_error({"--data-dir", "d"}, {"--data-dir d", "--dataset", "cifar10"});
  for (const char* name : {"cifar10", "cifar100", "stl10"}) {
    expect_error({"--dataset", name}, {name, "needs --data-dir"});
  }
  EXPECT_EQ(parse({"--dataset", "cifar10", "--print-config"}).dataset, "cifar10");
}

TEST(Config, TracedStepsNeedAFile) {
  EXPECT_EQ(parse({"--trace", "t.json", "--trace-steps", "1"}).trace_steps, 1);
  EXPECT_EQ(parse({"bench", "--trace", "t.json"}).trace, "t.json");
  expect_error({"--trace-steps", "5"}, {"--trace-steps 5", "--trace FILE"});
  expect_error({"--trace", "t.json", "--trace-steps", "0"}, {"--trace-steps", "at least 1"});
  expect_error({"--trace", ""}, {"--trace", "expected a file"});
  expect_error({"verify", "--trace", "t.json"}, {"revode verify", "--trace"});

  const std::string printed = config_to_ini(parse({}));
  EXPECT_EQ(printed.find("trace"), std::string::npos) << "an INI file that would be refused";
}

TEST(Config, FolderMayWaitForTheDatasetOfACheckpoint) {
  EXPECT_EQ(parse({"eval", "--checkpoint", "a.h5", "--data-dir", "d"}).data_dir, "d");
  EXPECT_EQ(parse({"--resume", "a.h5", "--data-dir", "d"}).data_dir, "d");
}

TEST(IniFile, CommandLineBeatsFileBeatsDefaults) {
  const TemporaryFile ini(
      "# a comment\n\nstep-size = 0.2   # another\nbatch-size=10\n; third\n"
      "seed = 7\r\naugment = off\n");

  const Config config = parse({"--config", ini.path(), "--batch-size", "20"});

  EXPECT_EQ(config.step_size, 0.2);
  EXPECT_EQ(config.batch_size, 20);
  EXPECT_EQ(config.seed, 7u);
  EXPECT_FALSE(config.augment);
  EXPECT_EQ(config.momentum, 0.9);
  EXPECT_TRUE(config.given("step-size"));
  EXPECT_TRUE(config.given("batch-size"));
  EXPECT_FALSE(config.given("momentum"));
}

TEST(IniFile, DepthAndBlocksReplaceEachOther) {
  const TemporaryFile with_depth("depth = 74\n");
  const TemporaryFile with_blocks("blocks = 7,6,5\n");

  const Config blocks = parse({"--config", with_depth.path(), "--blocks", "4,3,2"});
  const Config depth = parse({"--config", with_blocks.path(), "--depth", "26"});

  EXPECT_FALSE(blocks.depth.has_value());
  EXPECT_FALSE(blocks.given("depth"));
  EXPECT_EQ(depth.depth, 26);
  EXPECT_TRUE(depth.blocks.empty());
}

TEST(IniFile, KeysOfOtherCommandsAreCheckedAndLeftOut) {
  const TemporaryFile good("epochs = 3\nseed = 7\n");
  const TemporaryFile bad("epochs = three\n");

  const Config config = parse({"eval", "--checkpoint", "a.h5", "--config", good.path()});

  EXPECT_FALSE(config.given("epochs"));
  EXPECT_FALSE(config.epochs.has_value());
  expect_error({"eval", "--checkpoint", "a.h5", "--config", bad.path()}, {"line 1", "'three'"});
}

TEST(IniFile, MistakesNameFileLineAndKey) {
  const auto expect_ini_error = [](const std::string& text, std::vector<std::string> parts) {
    const TemporaryFile ini(text);
    parts.push_back(ini.path());
    expect_error({"--config", ini.path()}, parts);
  };

  expect_ini_error("\nstep_size = 0.1\n", {"line 2", "step_size", "did you mean 'step-size'"});
  expect_ini_error("seed = 1\nstep-size = -1\n", {"line 2", "step-size", "'-1'", "above 0"});
  expect_ini_error("seed = 1\n# x\nseed = 2\n", {"line 3", "seed", "twice", "line 1"});
  expect_ini_error("seed = 1\nseed 2\n", {"line 2", "'seed 2'", "key = value"});
  expect_ini_error("[model]\n", {"line 1", "[model]", "sections"});
  expect_ini_error("help = on\n", {"line 1", "help", "command line"});
  expect_ini_error("config = x.ini\n", {"line 1", "config", "command line"});
  expect_ini_error("output =\n", {"line 1", "output", "''", "expected"});
  expect_ini_error("precision = bf17\n", {"line 1", "precision", "'bf17'", "fp32, tf32 or bf16"});
}

TEST(IniFile, MissingFilesAndFoldersAreErrors) {
  expect_error({"--config", "/nonexistent/a.ini"},
               {"--config", "/nonexistent/a.ini", "No such file"});
  expect_error({"--config", testing::TempDir()}, {"--config", "folder"});
}

}  // namespace
}  // namespace revode
