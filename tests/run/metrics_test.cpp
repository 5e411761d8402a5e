// metrics.jsonl over kills and resumes, JSON results, numbers as people read them, and the log.
#include "revode/run/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "revode/files/json_text.hpp"
#include "revode/run/run_log.hpp"

#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> lines_of(const fs::path& file) {
  std::ifstream stream(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

nlohmann::ordered_json record(const std::string& kind, int step) {
  return {{"kind", kind}, {"step", step}};
}
std::string line(const std::string& kind, int step) { return to_text(record(kind, step)); }

class Metrics : public testing::Test {
 protected:
  TemporaryFolder folder_;
  fs::path file_ = folder_ / "metrics.jsonl";
};

TEST_F(Metrics, RecordsAreReadableAsSoonAsTheyAreWritten) {
  MetricsFile metrics(file_, -1);
  metrics.write(record("step", 1));
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1)));
  metrics.write(record("epoch", 1));
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1), line("epoch", 1)));
}

TEST_F(Metrics, AFreshRunStartsEmpty) {
  std::ofstream(file_) << line("step", 1) << "\n" << line("end", 1) << "\n";
  const MetricsFile metrics(file_, -1);
  EXPECT_THAT(lines_of(file_), ElementsAre());
}

TEST_F(Metrics, AResumeCutsBackToItsStep) {
  std::ofstream(file_) << line("step", 1) << "\n"
                       << line("step", 2) << "\n"
                       << line("epoch", 2) << "\n"
                       << line("step", 3) << "\n"
                       << line("epoch", 4) << "\n";
  MetricsFile metrics(file_, 2);
  metrics.write(record("step", 3));
  EXPECT_THAT(lines_of(file_),
              ElementsAre(line("step", 1), line("step", 2), line("epoch", 2), line("step", 3)));
}

TEST_F(Metrics, AResumeDropsAHalfWrittenLastLine) {
  std::ofstream(file_) << line("step", 1) << "\n"
                       << R"({"kind":"step","st)";
  MetricsFile metrics(file_, 5);
  metrics.write(record("step", 2));
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1), line("step", 2)));
}

TEST_F(Metrics, AResumeDropsTheEndOfTheRunBefore) {
  std::ofstream(file_) << line("step", 1) << "\n" << line("end", 1) << "\n";
  const MetricsFile metrics(file_, 1);
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1)));
}

// A rewind is told of at the step that it goes back to: the count says whether the checkpoint that
// is gone on from was written before or after it.
TEST_F(Metrics, AResumeKeepsRecordsOfTheRewindsThatItsCheckpointKnows) {
  const auto rewind = [](const nlohmann::ordered_json& count) {
    return to_text(nlohmann::ordered_json{{"kind", "rewind"}, {"step", 2}, {"count", count}});
  };
  const std::vector<std::string> lines{line("step", 2), rewind(1), rewind(2), line("step", 3)};
  const auto write = [&] {
    std::ofstream stream(file_);
    for (const std::string& text : lines) stream << text << "\n";
    for (const nlohmann::ordered_json& count :
         std::vector<nlohmann::ordered_json>{UINT64_MAX, 0.5, "1", nullptr})
      stream << rewind(count) << "\n";
  };
  write();
  MetricsFile(file_, 2);
  EXPECT_THAT(lines_of(file_), ElementsAre(lines[0]));
  write();
  MetricsFile(file_, 2, 1);
  EXPECT_THAT(lines_of(file_), ElementsAre(lines[0], lines[1]));
  write();
  MetricsFile(file_, 3, 2);
  EXPECT_THAT(lines_of(file_), testing::ElementsAreArray(lines));
}

// Found while the fuzz target was written: 2^64 - 1 was taken for -1, and levels were copied until
// the stack was full.
TEST_F(Metrics, AResumeLeavesBehindWhatNoRunWrites) {
  const std::string levels(1'000'000, '[');
  std::ofstream(file_) << line("step", 1) << "\n"
                       << R"({"kind":"step","step":18446744073709551615})"
                       << "\n"
                       << R"({"kind":)" << levels << std::string(levels.size(), ']')
                       << R"(,"step":1})"
                       << "\n";
  const MetricsFile metrics(file_, 1);
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1)));
  EXPECT_EQ(metrics.num_left_behind(), 2);
}

TEST_F(Metrics, WhatIsKeptKeepsItsBytes) {
  const std::string odd = R"({"step": 1,  "loss":0.30000000000000004, "note":"µ"})";
  std::ofstream(file_) << odd << "\n";
  const MetricsFile metrics(file_, 1);
  EXPECT_THAT(lines_of(file_), ElementsAre(odd));
}

TEST_F(Metrics, RecordsThatGoAreKeptElsewhere) {
  const fs::path left_behind = folder_ / (file_.filename().string() + left_behind_suffix);
  {
    MetricsFile metrics(file_, -1);
    for (const int step : {1, 2, 3}) metrics.write(record("step", step));
    metrics.write(record("end", 3));
  }
  {
    const MetricsFile metrics(file_, 2);
    EXPECT_EQ(metrics.num_left_behind(), 2);
  }
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1), line("step", 2)));
  EXPECT_THAT(lines_of(left_behind), ElementsAre(line("step", 3), line("end", 3)));

  EXPECT_EQ(MetricsFile(file_, -1).num_left_behind(), 2);
  EXPECT_THAT(lines_of(file_), ElementsAre());
  EXPECT_THAT(lines_of(left_behind),
              ElementsAre(line("step", 3), line("end", 3), line("step", 1), line("step", 2)));
}

TEST_F(Metrics, AFileThatWasNotOpenedTakesNothing) {
  MetricsFile none;
  none.write(record("step", 1));  // ranks other than the first
  MetricsFile moved(file_, -1);
  none = std::move(moved);
  none.write(record("step", 2));
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 2)));
}

// As on a disk that is full, which takes what there is room for.
TEST_F(Metrics, WhatCouldNotBeWrittenGoesWithARunThatGoesBack) {
  MetricsFile metrics(file_, -1);
  metrics.write(record("step", 1));
  const auto limit_size = [](rlim_t most) {
    rlimit limit{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = std::min(most, limit.rlim_max);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  };
  const auto on_limit = std::signal(SIGXFSZ, SIG_IGN);
  limit_size(line("step", 1).size() + 8);
  for (const int step : {2, 3})
    EXPECT_THAT(error_text(ExitStatus::failure, [&] { metrics.write(record("step", step)); }),
                HasSubstr("can't be written"));
  limit_size(RLIM_INFINITY);
  std::signal(SIGXFSZ, on_limit);
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1), line("step", 2).substr(0, 7)));

  const MetricsFile back(file_, 2, 0, metrics.take_kept());
  EXPECT_EQ(back.num_left_behind(), 1);
  EXPECT_THAT(lines_of(file_), ElementsAre(line("step", 1), line("step", 2)));
}

TEST_F(Metrics, AFolderThatIsMissingIsAnErrorThatNamesTheFile) {
  EXPECT_THAT(error_text(ExitStatus::failure, [&] { MetricsFile(folder_ / "no/such.jsonl", -1); }),
              HasSubstr("such.jsonl"));
}

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(0.4), "0 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(60), "1 min");
  EXPECT_EQ(format_duration(90.4), "1 min 30 s");
  EXPECT_EQ(format_duration(3599.7), "1 h");
  EXPECT_EQ(format_duration(5400), "1 h 30 min");
  EXPECT_EQ(format_duration(86400 * 3), "3 days");
  EXPECT_EQ(format_duration(86400 * 3 + 7200), "3 days 2 h");
  EXPECT_EQ(format_duration(-1), "0 s");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "unknown");
  EXPECT_EQ(format_duration(std::nan("")), "unknown");
}

TEST(Format, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1.5 * 1024 * 1024), "1.5 MiB");
  EXPECT_EQ(format_bytes(0x1p30), "1.0 GiB");
  EXPECT_EQ(format_bytes(0x1p50), "1024.0 TiB");
}

TEST(Format, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(9632458), "9,632,458");
  EXPECT_EQ(format_count(-1234567), "-1,234,567");
}

TEST(TextStream, LeavesStandardOutputToJson) {
  const auto stream_with = [](const char* json) {
    Config config;
    config.json = json;
    return text_stream(config);
  };
  EXPECT_EQ(stream_with(""), stdout);
  EXPECT_EQ(stream_with("result.json"), stdout);
  EXPECT_EQ(stream_with("-"), stderr);
}

/// What a progress line writes into a file.
class Log : public testing::Test {
 protected:
  ~Log() override { std::fclose(stream_); }
  std::string text() {
    std::fflush(stream_);
    const std::vector<unsigned char> bytes = read_bytes(folder_ / "log");
    return {bytes.begin(), bytes.end()};
  }
  TemporaryFolder folder_;
  std::FILE* stream_ = std::fopen((folder_ / "log").c_str(), "w");
};

TEST_F(Log, IntoAFileThereAreLinesAloneWhateverIsAskedFor) {
  EXPECT_EQ(progress_style(ProgressSetting::automatic, stream_), ProgressStyle::lines);
  EXPECT_EQ(progress_style(ProgressSetting::on, stream_), ProgressStyle::lines);
  EXPECT_EQ(progress_style(ProgressSetting::off, stream_), ProgressStyle::off);
}

TEST_F(Log, LinesArePrintedAndUpdatesAreNot) {
  for (const ProgressStyle style : {ProgressStyle::lines, ProgressStyle::off}) {
    RunLog log(style, stream_);
    log.update("50 %");
    log.print("done");
    log.finish();
  }
  EXPECT_EQ(text(), "done\ndone\n");
}

TEST_F(Log, RanksWithoutALogSayNothing) {
  RunLog log;
  log.update("50 %");
  log.print("done");
  log.finish();
  EXPECT_EQ(text(), "");
}

TEST_F(Log, ALiveLineIsClearedBeforeALineThatStays) {
  RunLog log(ProgressStyle::live, stream_);
  log.update("50 %");
  log.update("51 %");  // too soon after
  log.print("done");
  log.update("60 %");
  log.finish();
  log.finish();  // once is enough
  const std::string shown = text();
  EXPECT_THAT(shown, testing::StartsWith("\r50 %\x1b[K\r\x1b[Kdone\n"));
  EXPECT_EQ(shown.find("51 %"), std::string::npos);
  EXPECT_EQ(shown.find("\n\n"), std::string::npos);
}

// A line that fills the window would wrap, and each redraw would leave one behind.
TEST_F(Log, ALiveLineIsCutToTheWindowThatIsThereNow) {
  int columns = 6;
  RunLog log(ProgressStyle::live, stream_, [&] { return columns; });
  log.update("0123456789");
  log.print("all of a line that stays");
  columns = 9;
  log.update("0123456789");
  log.finish();
  EXPECT_EQ(text(), "\r01234\x1b[K\r\x1b[Kall of a line that stays\n\r01234567\x1b[K\n");
}

TEST(LogWithoutAReader, FallsSilentAndSaysSoOnce) {
  std::FILE* full = std::fopen("/dev/full", "w");
  ASSERT_NE(full, nullptr);
  testing::internal::CaptureStderr();
  {
    RunLog log(ProgressStyle::lines, full);
    log.print("first");
    log.print("second");
  }
  const std::string notes = testing::internal::GetCapturedStderr();
  EXPECT_THAT(notes, testing::StartsWith("revode: note: the log can't be written"));
  EXPECT_EQ(notes.find("note", notes.find("note") + 1), std::string::npos);
  std::fclose(full);
}

}  // namespace
}  // namespace revode
