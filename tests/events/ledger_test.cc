#include "events/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/status.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kToken[] = "MTk4NjIyNDgz.Cl2FMQ.s3cret";
constexpr auto kDay = 25h;

class TestClock final : public Clock {
 public:
  SteadyTime Steady() const override { return steady; }
  WallTime Wall() const override { return wall; }
  void Advance(std::chrono::nanoseconds time) {
    steady += time;
    wall += std::chrono::duration_cast<WallTime::duration>(time);
  }
  SteadyTime steady{100h};
  WallTime wall{std::chrono::seconds(1'800'000'000)};
};

class LedgerTest : public ::testing::Test {
 protected:
  LedgerTest() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "shardd-ledger-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
    path_ = directory_ + "/session-starts";
  }
  ~LedgerTest() override {
    ledger_.reset();
    std::filesystem::remove_all(directory_);
  }

  absl::Status Open(const std::string& token = kToken) {
    ledger_.reset();
    auto opened = Ledger::Open({.path = path_,
                                .token = token,
                                .api_url = api_url_,
                                .clock = &clock_,
                                .boot_id = boot_id_});
    if (opened.ok()) ledger_ = *std::move(opened);
    return opened.status();
  }
  Ledger::Contents Load() { return ledger_->Load(clock_.steady, kDay); }
  void WriteStarts(uint32_t count) {
    for (uint32_t shard = 0; shard < count; ++shard) {
      ASSERT_TRUE(ledger_->WriteStart(shard, clock_.steady).ok());
    }
  }
  void WriteLimits(uint32_t remaining = 900, uint64_t starts_since = 0) {
    ASSERT_TRUE(ledger_
                    ->WriteLimits({.total = 1000,
                                   .remaining = remaining,
                                   .max_concurrency = 16,
                                   .asked_at = clock_.steady,
                                   .renews_at = clock_.steady + 10h,
                                   .believed = remaining,
                                   .rise_from = clock_.steady + 9h},
                                  starts_since, clock_.steady)
                    .ok());
  }
  std::string ReadFile() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void WriteFile(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }

  TestClock clock_;
  std::string boot_id_ = "boot 1";
  std::string api_url_ = "https://discord.com/api/v10";
  std::string directory_;
  std::string path_;
  std::unique_ptr<Ledger> ledger_;
};

TEST_F(LedgerTest, ANewOneIsEmptyReservedAndForThisUserAlone) {
  ASSERT_TRUE(Open().ok());
  EXPECT_TRUE(Load().complete);
  EXPECT_FALSE(Load().limits);
  EXPECT_THAT(Load().starts, IsEmpty());
  struct stat file {};
  ASSERT_EQ(stat(path_.c_str(), &file), 0);
  EXPECT_EQ(static_cast<size_t>(file.st_size), Ledger::kFileBytes);
  EXPECT_GE(static_cast<size_t>(file.st_blocks) * 512, Ledger::kFileBytes);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(LedgerTest, WhatWasWrittenComesBack) {
  ASSERT_TRUE(Open().ok());
  WriteStarts(3);
  clock_.Advance(1s);
  WriteLimits(900, 2);
  clock_.Advance(1s);
  WriteStarts(1);
  clock_.Advance(1h);
  ASSERT_TRUE(Open().ok());
  const auto contents = Load();
  ASSERT_TRUE(contents.limits);
  EXPECT_EQ(contents.limits->total, 1000u);
  EXPECT_EQ(contents.limits->remaining, 900u);
  EXPECT_EQ(contents.limits->believed, 900u);
  EXPECT_EQ(contents.limits->max_concurrency, 16u);
  EXPECT_EQ(contents.limits->renews_at, clock_.steady + 10h - 1h - 1s);
  EXPECT_EQ(contents.limits->rise_from, clock_.steady + 9h - 1h - 1s);
  // Two of the three count against the limits, so they are no older than these.
  EXPECT_THAT(contents.starts,
              ::testing::ElementsAre(clock_.steady - 1h - 2s, clock_.steady - 1h - 1s,
                                     clock_.steady - 1h - 1s, clock_.steady - 1h));
}

TEST_F(LedgerTest, ADayThatHasNotBegunIsKeptAsSuch) {
  ASSERT_TRUE(Open().ok());
  ASSERT_TRUE(
      ledger_
          ->WriteLimits(
              {.asked_at = clock_.steady, .renews_at = clock_.steady + 24h, .day_had_begun = false},
              0, clock_.steady)
          .ok());
  clock_.Advance(1h);
  ASSERT_TRUE(Open().ok());
  EXPECT_FALSE(Load().limits->day_had_begun);
  EXPECT_EQ(Load().limits->renews_at, clock_.steady + 23h);
}

TEST_F(LedgerTest, TheWallClockMayBeSetAtWill) {
  for (const auto jump : {-48h, 48h, 0h}) {
    std::filesystem::remove(path_);
    ASSERT_TRUE(Open().ok());
    WriteLimits();
    WriteStarts(1);
    clock_.Advance(10s);
    clock_.wall += jump;
    ASSERT_TRUE(Open().ok());
    ASSERT_THAT(Load().starts, SizeIs(1));
    EXPECT_EQ(Load().starts[0], clock_.steady - 10s);
    EXPECT_EQ(Load().limits->renews_at, clock_.steady + 10h - 10s);
  }
}

TEST_F(LedgerTest, AfterARebootTheWallClockCountsButRenewsNothing) {
  ASSERT_TRUE(Open().ok());
  WriteStarts(1);
  WriteLimits();
  clock_.steady = SteadyTime(1min);
  clock_.wall += 11h;
  boot_id_ = "boot 2";
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Load().starts[0], clock_.steady - 11h);
  EXPECT_EQ(Load().limits->renews_at, clock_.steady + 10h);
  EXPECT_EQ(Load().limits->rise_from, clock_.steady - 2h) << "a new answer is believed";
  // What seems to come from the future is of now.
  clock_.wall -= 100h;
  EXPECT_EQ(Load().starts[0], clock_.steady);
}

TEST_F(LedgerTest, StartsBeyondTheDayAreLeftOut) {
  ASSERT_TRUE(Open().ok());
  WriteStarts(2);
  clock_.Advance(kDay + 1s);
  WriteStarts(1);
  EXPECT_THAT(Load().starts, IsEmpty()) << "as they were when it was opened";
  ASSERT_TRUE(Open().ok());
  EXPECT_THAT(Load().starts, SizeIs(1));
}

TEST_F(LedgerTest, TheRingGoesRound) {
  ASSERT_TRUE(Open().ok());
  WriteStarts(Ledger::kCapacity + 5);
  ASSERT_TRUE(Open().ok());
  EXPECT_THAT(Load().starts, SizeIs(Ledger::kCapacity));
  WriteStarts(1);
  ASSERT_TRUE(Open().ok());
  EXPECT_THAT(Load().starts, SizeIs(Ledger::kCapacity));
  EXPECT_EQ(ReadFile().size(), Ledger::kFileBytes);
}

// Whatever single byte goes wrong, no start is forgotten: it counts, or Discord must be asked.
TEST_F(LedgerTest, AnyFlippedByteForgetsNoStart) {
  ASSERT_TRUE(Open().ok());
  WriteLimits();
  WriteStarts(3);
  const std::string whole = ReadFile();
  std::vector<size_t> places;
  for (size_t i = 0; i < Ledger::kRecordBytes; ++i) {
    places.push_back(i);
    places.push_back(Ledger::kLimitsOffset + Ledger::kRecordBytes + i);
    for (size_t start = 1; start <= 3; ++start) {
      places.push_back(Ledger::kStartsOffset + start * Ledger::kRecordBytes + i);
    }
  }
  clock_.Advance(1h);
  for (const size_t place : places) {
    // All that was ever written stands at the front of the file.
    std::string damaged = whole.substr(0, 8192);
    damaged[place] = static_cast<char>(damaged[place] ^ 0x10);
    std::fstream(path_, std::ios::binary | std::ios::in | std::ios::out) << damaged;
    ASSERT_TRUE(Open().ok()) << place;
    const auto contents = Load();
    const bool is_start = place >= Ledger::kStartsOffset;
    ASSERT_EQ(contents.complete, is_start) << place;
    if (!is_start) continue;
    ASSERT_THAT(contents.starts, SizeIs(3)) << place;
    ASSERT_EQ(contents.starts.back(), clock_.steady) << "of unknown time";
    // It is whole again.
    clock_.Advance(1min);
    ASSERT_TRUE(Open().ok());
    ASSERT_EQ(Load().starts.back(), clock_.steady - 1min);
  }
}

TEST_F(LedgerTest, AFileCutAnywhereWaitsForDiscordUntilItHasSpoken) {
  ASSERT_TRUE(Open().ok());
  WriteLimits();
  WriteStarts(3);
  const std::string whole = ReadFile();
  for (const size_t size :
       {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{4095}, Ledger::kStartsOffset + 64,
        Ledger::kStartsOffset + 128 + 30, Ledger::kFileBytes - 1}) {
    WriteFile(whole.substr(0, size));
    ASSERT_TRUE(Open().ok()) << size;
    ASSERT_FALSE(Load().complete) << size;
    ASSERT_FALSE(Load().limits) << size;
    // A crash before that changes nothing.
    WriteStarts(1);
    ASSERT_TRUE(Open().ok()) << size;
    ASSERT_FALSE(Load().complete) << size;
    WriteLimits();
    ASSERT_TRUE(Open().ok()) << size;
    ASSERT_TRUE(Load().complete) << size;
    ASSERT_EQ(ReadFile().size(), Ledger::kFileBytes);
  }
}

TEST_F(LedgerTest, AFormatOfTheFutureIsLeftAsItIs) {
  ASSERT_TRUE(Open().ok());
  std::string bytes = ReadFile();
  bytes[8] = 2;
  const uint32_t crc = Crc32c(bytes.data(), 60);
  std::memcpy(bytes.data() + 60, &crc, sizeof crc);
  WriteFile(bytes);
  const absl::Status status = Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Message(status)), HasSubstr("format 2"));
  EXPECT_EQ(ReadFile(), bytes);
}

TEST_F(LedgerTest, AnotherBotsIsForgottenAndAnotherTokenOfTheBotIsNot) {
  ASSERT_TRUE(Open().ok());
  WriteStarts(2);
  ASSERT_TRUE(Open("MTk4NjIyNDgz.other.reset").ok());
  EXPECT_THAT(Load().starts, SizeIs(2));
  ASSERT_TRUE(Open("MTk4NjIyNDg0.Cl2FMQ.s3cret").ok());
  EXPECT_THAT(Load().starts, IsEmpty());
  EXPECT_TRUE(Load().complete);
  WriteStarts(1);
  ASSERT_TRUE(Open("no token of Discord's").ok());
  EXPECT_THAT(Load().starts, IsEmpty());
  WriteStarts(1);
  ASSERT_TRUE(Open("no token of Discord's").ok());
  EXPECT_THAT(Load().starts, SizeIs(1));
}

TEST_F(LedgerTest, AnotherDiscordCountsForItself) {
  ASSERT_TRUE(Open().ok());
  WriteStarts(2);
  api_url_ = "http://127.0.0.1:1234/api/v10";
  ASSERT_TRUE(Open().ok());
  EXPECT_THAT(Load().starts, IsEmpty());
}

TEST_F(LedgerTest, HoldsNothingOfTheToken) {
  for (const std::string token : {kToken, "another-kind-of-token"}) {
    ASSERT_TRUE(Open(token).ok());
    EXPECT_THAT(ReadFile(), Not(HasSubstr(token.substr(0, 8))));
    EXPECT_THAT(ReadFile(), Not(HasSubstr("198622483")));
  }
}

TEST_F(LedgerTest, SaysWhatItLacksSpaceFor) {
  // posix_fallocate fails with EFBIG here, as it does with ENOSPC on a full disk.
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status status = Open();
    const bool is_right =
        !status.ok() && !std::filesystem::exists(path_) && !std::filesystem::exists(path_ + ".new");
    _exit(is_right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(LedgerTest, AStartThatCannotBeWrittenIsSaid) {
  ASSERT_TRUE(Open().ok());
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{0, 0};
    setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status status = ledger_->WriteStart(0, clock_.steady);
    _exit(absl::IsUnavailable(status) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// A process that writes starts as fast as it can, and is killed.
TEST_F(LedgerTest, AKillLosesNoStartThatWasWritten) {
  for (int round = 0; round < 10; ++round) {
    std::filesystem::remove(path_);
    ASSERT_TRUE(Open().ok());
    WriteLimits();
    int written[2];
    ASSERT_EQ(pipe(written), 0);
    const pid_t child = fork();
    if (child == 0) {
      for (uint32_t shard = 0; shard < 60'000; ++shard) {
        if (!ledger_->WriteStart(shard, clock_.steady).ok()) _exit(1);
        if (write(written[1], "x", 1) != 1) _exit(1);
      }
      pause();
    }
    char some[4096];
    size_t said = 0;
    while (said < 500u * static_cast<size_t>(round + 1)) {
      const ssize_t n = read(written[0], some, sizeof some);
      ASSERT_GT(n, 0);
      said += static_cast<size_t>(n);
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(written[1]);
    for (ssize_t n; (n = read(written[0], some, sizeof some)) > 0;) said += static_cast<size_t>(n);
    close(written[0]);
    ASSERT_TRUE(Open().ok());
    ASSERT_TRUE(Load().complete);
    ASSERT_GE(Load().starts.size(), said);
    ASSERT_LE(Load().starts.size(), said + 1);
  }
}

}  // namespace
}  // namespace shardd::events
