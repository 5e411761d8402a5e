// Which paths may be written: a table of them, and a random walk over folders and commands.
#include "revode/run/write_permission.hpp"

#include <fstream>
#include <string>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"

#include "checkpoint/hdf5_file.hpp"
#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

class WritePermission : public testing::Test {
 protected:
  WritePermission() {
    Hdf5File(checkpoint_).text("/", "format", "revode").group("/progress");
    Hdf5File(eval_result_)
        .text("/", "format", "revode")
        .array("/logits", {2, 2}, H5T_IEEE_F32LE)
        .array("/labels", {2}, H5T_IEEE_F32LE);
    text("notes.txt", "of mine");
    text("bench.json", R"({"command": "bench", "version": "revode 0.1.0"})");
    text("eval.json", R"({"command": "eval", "version": "revode 0.1.0"})");
    fs::create_directory(folder_ / "run");
    text("run/metrics.jsonl", R"({"kind":"start","step":0})"
                              "\n");
  }
  void text(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name) << content;
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }

  Config eval(const std::string& output, const std::string& json) const {
    Config config;
    config.command = Command::eval;
    config.checkpoint = checkpoint_.string();
    config.output = output;
    config.json = json;
    return config;
  }
  void expect_refused(const Config& config, const std::string& words) {
    const std::string text = error_text(ExitStatus::bad_input, [&] { check_result_files(config); });
    EXPECT_NE(text.find(words), std::string::npos) << "'" << text << "' has no '" << words << "'";
  }

  TemporaryFolder folder_;
  fs::path checkpoint_ = folder_ / "checkpoint.h5", eval_result_ = folder_ / "eval.h5";
};

TEST_F(WritePermission, NewNamesAndEarlierResultsOfTheSameCommandMayBeWritten) {
  EXPECT_NO_THROW(check_result_files(eval(at("new.h5"), at("new.json"))));
  EXPECT_NO_THROW(check_result_files(eval(at("eval.h5"), at("eval.json"))));
  EXPECT_NO_THROW(check_result_files(eval("", "-")));
}

TEST_F(WritePermission, WhatRevodeDidNotMakeStays) {
  expect_refused(eval(at("notes.txt"), ""), "no earlier result of revode eval");
  expect_refused(eval("", at("notes.txt")), "no earlier result of revode eval");
  expect_refused(eval("", at("bench.json")), "no earlier result of revode eval");
  expect_refused(eval(at("eval.json"), ""), "no earlier result of revode eval");
  expect_refused(eval("", at("eval.h5")), "no earlier result of revode eval");
  Config gradient = eval(at("eval.h5"), "");
  gradient.command = Command::gradient;
  expect_refused(gradient, "no earlier result of revode gradient");
}

TEST_F(WritePermission, InputsStayWhateverNameTheyAreGiven) {
  fs::create_hard_link(checkpoint_, folder_ / "hard.h5");
  fs::create_symlink("checkpoint.h5", folder_ / "soft.h5");
  for (const char* name : {"checkpoint.h5", "hard.h5", "soft.h5"}) {
    expect_refused(eval(at(name), ""), "that is the file of --checkpoint");
    expect_refused(eval("", at(name)), "that is the file of --checkpoint");
  }
  Config config = eval("", at("eval.json"));
  config.config_file = at("eval.json");
  expect_refused(config, "that is the file of --config");
}

TEST_F(WritePermission, TwoResultsNeedTwoFiles) {
  expect_refused(eval(at("new"), at("new")), "same file");
  expect_refused(eval(at("new"), at("run/../new")), "same file");
  fs::create_symlink("new", folder_ / "link");
  expect_refused(eval(at("link"), at("new")), "same file");
}

TEST_F(WritePermission, TheFolderOfARunIsTheRunsAlone) {
  fs::create_directory(folder_ / "run/sub");
  fs::create_symlink("run/sub", folder_ / "way-in");
  for (const char* name :
       {"run/metrics.jsonl", "run/new.json", "run/sub/new.json", "way-in/new.json"})
    expect_refused(eval("", at(name)), "the folder of a run");
  Config training;
  training.output = at("to-come");
  training.json = at("to-come/result.json");
  expect_refused(training, "the folder of a run");
}

TEST_F(WritePermission, WhatWouldFailLaterIsRefused) {
  expect_refused(eval(at("no/such/folder.h5"), ""), "No such file or directory");
  expect_refused(eval("", at("notes.txt/result.json")), "Not a directory");
  expect_refused(eval("", at(std::string(300, 'x'))), "File name too long");
  expect_refused(eval(folder_.path().string(), ""), "that is a folder");
  expect_refused(eval("/dev/null", ""), "HDF5 needs a regular file");
  expect_refused(eval("", "/dev/fd/987"), "not open");
  const int reading = ::open("/dev/null", O_RDONLY);
  expect_refused(eval("", "/dev/fd/" + std::to_string(reading)), "reading alone");
  ::close(reading);
}

TEST_F(WritePermission, TracesReplaceNothingButTraces) {
  const auto tracing = [&](const std::string& trace, const std::string& json = "") {
    Config config;
    config.trace = trace;
    config.json = json;
    return config;
  };
  for (const char* name : {"notes.txt", "eval.json", "checkpoint.h5"})
    expect_refused(tracing(at(name)), "no earlier result");
  expect_refused(tracing(at("no/such/trace.json")), "No such file or directory");
  expect_refused(tracing(at("run/trace.json")), "the folder of a run");
  expect_refused(tracing("/dev/null"), "a trace needs a regular file");
  expect_refused(tracing(at("new"), at("new")), "same file");

  for (int repeated = 0; repeated < 2; ++repeated) {
    EXPECT_NO_THROW(check_result_files(tracing(at("trace.json"))));
    write_trace(tracing(at("trace.json")), R"({"name":"forward"})");
  }

  std::ifstream stream(folder_ / "trace.json");
  const auto json = parse_json(stream);
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[1]["name"], "forward");
}

TEST_F(WritePermission, ResultsGoWhereLinksPointTo) {
  fs::create_symlink("target.json", folder_ / "link.json");
  fs::create_symlink("link.json", folder_ / "second.json");
  for (int repeated = 0; repeated < 2; ++repeated) {
    write_json_result(eval("", at("second.json")), {{"loss", 0.5}});
    EXPECT_TRUE(fs::is_symlink(folder_ / "second.json"));
    EXPECT_TRUE(fs::is_symlink(folder_ / "link.json"));
    std::ifstream stream(folder_ / "target.json");
    const auto json = parse_json(stream);
    EXPECT_EQ(json["loss"], 0.5);
    EXPECT_EQ(json["command"], "eval");
  }
}

TEST_F(WritePermission, DevicesAndFifosAreWrittenToAndStay) {
  write_json_result(eval("", "/dev/null"), {{"loss", 0.5}});
  EXPECT_TRUE(fs::is_character_file("/dev/null"));

  const fs::path fifo = folder_ / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  std::string seen;
  std::jthread reader([&] { std::getline(std::ifstream(fifo), seen, '\0'); });
  write_json_result(eval("", fifo.string()), {{"loss", 0.5}});
  reader.join();
  EXPECT_EQ(parse_json(seen)["loss"], 0.5);
  EXPECT_TRUE(fs::is_fifo(fifo));

  testing::internal::CaptureStdout();
  write_json_result(eval("", "/dev/stdout"), {{"loss", 0.5}});
  EXPECT_EQ(parse_json(testing::internal::GetCapturedStdout())["loss"], 0.5);
}

TEST_F(WritePermission, AResultThatCanNotBeWrittenLeavesNothing) {
  EXPECT_NE(error_text(ExitStatus::failure,
                       [&] {
                         write_json_result(eval("", "/dev/full"), {{"loss", 1}});
                       })
                .find("--json /dev/full"),
            std::string::npos);
  const auto files_before =
      std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator());
  write_json_result(eval("", at("new.json")), {{"loss", 1}});
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()),
            files_before + 1);
}

TEST_F(WritePermission, ARunIsToldByWhatItsFilesHold) {
  EXPECT_TRUE(holds_run(folder_ / "run"));
  EXPECT_FALSE(holds_results(folder_ / "run"));  // it had only begun
  EXPECT_FALSE(holds_run(folder_.path()));
  text("run/metrics.jsonl", R"({"kind":"step","step":1})"
                            "\n");
  EXPECT_TRUE(holds_results(folder_ / "run"));

  fs::create_directory(folder_ / "mine");
  text("mine/config.ini", "# of mine\nseed = 3\n");
  text("mine/metrics.jsonl", "lines of mine\n");
  fs::copy(checkpoint_, folder_ / "mine/best.h5");
  EXPECT_FALSE(holds_run(folder_ / "mine"));
  EXPECT_EQ(names_of_run_files(folder_ / "mine").size(), 3u);
  fs::copy(checkpoint_, folder_ / "mine/checkpoint-7.h5");
  EXPECT_TRUE(holds_run(folder_ / "mine"));

  fs::create_directory(folder_ / "begun");
  write_config_ini(folder_ / "begun/config.ini", Config{});
  EXPECT_TRUE(holds_run(folder_ / "begun"));
}

}  // namespace
}  // namespace revode
