#include "server/retention_watch.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace shardd::server {
namespace {

using namespace std::chrono_literals;

class RetentionWatchTest : public ::testing::Test {
 protected:
  RetentionWatchTest() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "shardd-retention-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
    consumers_ = *events::Consumers::Open(
        {.path = directory_ + "/consumers", .ttl = 168h, .clock = &clock_});
    watch_ = std::make_unique<RetentionWatch>(*log_, *consumers_, fan_out_);
  }
  ~RetentionWatchTest() override { std::filesystem::remove_all(directory_); }

  void Append(int events) {
    events::Round round;
    const std::string data(1000, 'x');
    for (int i = 0; i < events; ++i) {
      round.Add({.shard = {}, .type = "TYPING_START", .data = data});
      log_->Append(round);
    }
  }
  // Has it look after `time`; returns what it writes into the server's log.
  std::string LookAfter(std::chrono::nanoseconds time) {
    now_ += std::chrono::duration_cast<SteadyClock::duration>(time);
    ::testing::internal::CaptureStderr();
    watch_->OnWake(now_);
    return ::testing::internal::GetCapturedStderr();
  }
  void Ack(uint64_t offset) {
    ASSERT_TRUE(consumers_->Ack(kBot, log_->CursorAt(offset), log_->end()).ok());
  }
  static bool Warns(const std::string& text) { return text.find("is close to") != text.npos; }
  static bool TellsLoss(const std::string& text) { return text.find("has left") != text.npos; }

  const events::ConsumerKey kBot = {.name = "bot", .partition = {.index = 1, .count = 2}};
  const RealClock clock_;
  std::string directory_;
  // Some 900 events of 1 KB.
  const std::unique_ptr<events::Log> log_ =
      *events::Log::Open({.retain_bytes = events::kMinRetainBytes});
  std::unique_ptr<events::Consumers> consumers_;
  FanOut fan_out_;
  std::unique_ptr<RetentionWatch> watch_;
  SteadyTime now_{100h};
};

TEST_F(RetentionWatchTest, TellsHowLongAnEventIsKeptAtTheRateOfTheLastMinute) {
  EXPECT_FALSE(watch_->RetentionAtPresentRate().has_value());
  LookAfter(1s);
  EXPECT_FALSE(watch_->RetentionAtPresentRate().has_value()) << "nothing comes";
  Append(2000);
  const auto appended = static_cast<double>(log_->appended_bytes());
  const auto room = static_cast<double>(log_->RoomBehind(log_->end()));
  LookAfter(10s);
  const auto expected = std::chrono::duration<double>(room / appended * 10);
  ASSERT_TRUE(watch_->RetentionAtPresentRate().has_value());
  EXPECT_NEAR(std::chrono::duration<double>(*watch_->RetentionAtPresentRate()).count(),
              expected.count(), 0.01);
  for (int i = 0; i < 70; ++i) LookAfter(1s);
  EXPECT_FALSE(watch_->RetentionAtPresentRate().has_value());
}

TEST_F(RetentionWatchTest, LooksOncePerInterval) {
  LookAfter(1s);
  EXPECT_EQ(watch_->OnWake(now_ + 1ms), now_ + RetentionWatch::kInterval);
}

TEST_F(RetentionWatchTest, WarnsOnceBeforeAConsumerLosesAnythingAndOnceWhenItHas) {
  ASSERT_TRUE(consumers_->OpenStream(kBot, log_->CursorAt(0)).ok());
  consumers_->CloseStream(kBot);
  int warnings = 0;
  int losses = 0;
  for (int i = 0; i < 200; ++i) {
    Append(10);
    const bool was_kept = log_->oldest() == 0;
    const std::string text = LookAfter(1s);
    warnings += Warns(text);
    losses += TellsLoss(text);
    if (Warns(text)) {
      EXPECT_TRUE(was_kept);
      EXPECT_NE(text.find("bot 1/2"), text.npos) << text;
      EXPECT_NE(text.find("lag_events"), text.npos) << text;
    }
    if (TellsLoss(text)) {
      EXPECT_FALSE(was_kept);
      EXPECT_EQ(warnings, 1);
    }
  }
  EXPECT_EQ(warnings, 1);
  EXPECT_EQ(losses, 1);
}

TEST_F(RetentionWatchTest, WarnsAgainAtTheNextApproach) {
  ASSERT_TRUE(consumers_->OpenStream(kBot, log_->CursorAt(0)).ok());
  int warnings = 0;
  for (int approach = 0; approach < 3; ++approach) {
    for (int i = 0; i < 200 && warnings == approach; ++i) {
      Append(10);
      warnings += Warns(LookAfter(1s));
    }
    ASSERT_EQ(warnings, approach + 1);
    Ack(log_->end());
    EXPECT_FALSE(Warns(LookAfter(1s)));
  }
}

TEST_F(RetentionWatchTest, SaysNothingOfOneThatKeepsUp) {
  ASSERT_TRUE(consumers_->OpenStream(kBot, log_->CursorAt(0)).ok());
  for (int i = 0; i < 300; ++i) {
    Append(20);
    EXPECT_EQ(LookAfter(1s), "");
    Ack(log_->end());
  }
}

// One that starts at the oldest event of a full log is where others would be in danger.
TEST_F(RetentionWatchTest, SaysNothingOfOneThatCatchesUp) {
  Append(3000);
  LookAfter(1s);
  ASSERT_TRUE(consumers_->OpenStream(kBot, log_->CursorAt(log_->oldest())).ok());
  for (uint64_t at = log_->oldest(); at < log_->end(); at += 100) {
    Ack(at);
    EXPECT_FALSE(Warns(LookAfter(1s)));
  }
}

TEST_F(RetentionWatchTest, SaysNothingOfACursorOfAnotherLog) {
  ASSERT_TRUE(consumers_->OpenStream(kBot, {.log = {.id = 1}, .offset = 0}).ok());
  for (int i = 0; i < 100; ++i) {
    Append(30);
    EXPECT_EQ(LookAfter(1s), "");
  }
}

}  // namespace
}  // namespace shardd::server
