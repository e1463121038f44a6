#include "server/shard_board.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shardd::server {
namespace {

using gateway::ShardState;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

// A board with a clock that tests move.
class ShardBoardTest : public ::testing::Test {
 protected:
  void Started() { board_.SetStarting(false); }
  void Report(ShardState state, uint32_t id = 0, uint32_t count = 4) {
    gateway::ShardInfo shard;
    shard.shard = {.id = id, .count = count};
    shard.state = state;
    board_.Update(shard, now_);
  }
  void Advance(milliseconds time) { now_ += time; }
  std::string WhyNotReady() const { return board_.WhyNotReady(now_); }
  bool Ready() const { return WhyNotReady().empty(); }

  ShardBoard board_;
  SteadyTime now_ = SteadyTime() + std::chrono::hours(1);
};

TEST_F(ShardBoardTest, IsNotReadyBeforeShardsWereStarted) {
  EXPECT_EQ(WhyNotReady(), "the shards have not been started yet");
  Report(ShardState::kReady);
  EXPECT_FALSE(Ready());
  Started();
  EXPECT_TRUE(Ready());
}

TEST_F(ShardBoardTest, IsReadyWithoutShardsWhereNoneAreWanted) {
  Started();
  EXPECT_TRUE(Ready());
}

TEST_F(ShardBoardTest, NamesTheShardThatIsNotReady) {
  Started();
  Report(ShardState::kReady, 0);
  Report(ShardState::kIdentifying, 2);
  EXPECT_EQ(WhyNotReady(), "shard 2/4 is IDENTIFYING");
  Report(ShardState::kReady, 2);
  EXPECT_TRUE(Ready());
}

TEST_F(ShardBoardTest, IsNotReadyInAnyStateOfAFirstConnection) {
  Started();
  for (const ShardState state :
       {ShardState::kIdle, ShardState::kWaitingToIdentify, ShardState::kConnecting,
        ShardState::kIdentifying, ShardState::kBackingOff, ShardState::kCrashLoop,
        ShardState::kFailed}) {
    Report(state);
    EXPECT_FALSE(Ready()) << static_cast<int>(state);
  }
}

TEST_F(ShardBoardTest, DoesNotWaitForAStoppedShard) {
  Started();
  Report(ShardState::kReady, 0);
  Report(ShardState::kStopped, 1);
  EXPECT_TRUE(Ready());
}

TEST_F(ShardBoardTest, StaysReadyWhileAShardResumesForLessThanTheGrace) {
  Started();
  Report(ShardState::kReady);
  Report(ShardState::kConnecting);
  EXPECT_TRUE(Ready());
  Report(ShardState::kResuming);
  Advance(ShardBoard::kResumeGrace - milliseconds(1));
  EXPECT_TRUE(Ready());
  Advance(milliseconds(1));
  EXPECT_EQ(WhyNotReady(), "shard 0/4 is RESUMING");
  Report(ShardState::kReady);
  EXPECT_TRUE(Ready());
}

TEST_F(ShardBoardTest, CountsTheGraceFromTheLossOfTheConnectionNotFromTheLastTry) {
  Started();
  Report(ShardState::kReady);
  for (int i = 0; i < 3; ++i) {
    Report(ShardState::kBackingOff);
    Advance(seconds(5));
    Report(ShardState::kConnecting);
    Report(ShardState::kResuming);
    Advance(seconds(5));
  }
  EXPECT_FALSE(Ready());
}

TEST_F(ShardBoardTest, GivesEachLossAGraceOfItsOwn) {
  Started();
  Report(ShardState::kReady);
  Report(ShardState::kResuming);
  Advance(seconds(20));
  Report(ShardState::kReady);
  Report(ShardState::kResuming);
  Advance(seconds(20));
  EXPECT_TRUE(Ready());
}

TEST_F(ShardBoardTest, IsReadyAtOnceWhileTheSessionsOfAnEarlierProcessAreResumed) {
  Started();
  Report(ShardState::kConnecting, 0);
  EXPECT_TRUE(Ready());
  Report(ShardState::kResuming, 0);
  Report(ShardState::kBackingOff, 0);
  Advance(ShardBoard::kResumeGrace - milliseconds(1));
  EXPECT_TRUE(Ready());
  Advance(milliseconds(1));
  EXPECT_FALSE(Ready());
  // One without a session waits in the gate first.
  Report(ShardState::kReady, 0);
  Report(ShardState::kWaitingToIdentify, 1);
  EXPECT_FALSE(Ready());
  Report(ShardState::kConnecting, 1);
  EXPECT_FALSE(Ready());
}

TEST_F(ShardBoardTest, GivesNoGraceToASessionThatStartsOver) {
  Started();
  Report(ShardState::kReady);
  Report(ShardState::kResuming);
  Report(ShardState::kWaitingToIdentify);
  EXPECT_FALSE(Ready());
  // What follows belongs to the IDENTIFY, not to a RESUME.
  Report(ShardState::kConnecting);
  EXPECT_FALSE(Ready());
}

TEST_F(ShardBoardTest, GivesNoGraceToAShardThatCameBackFromAStop) {
  Started();
  Report(ShardState::kReady);
  Report(ShardState::kStopped);
  Report(ShardState::kConnecting);
  EXPECT_THAT(WhyNotReady(), HasSubstr("CONNECTING"));
}

TEST_F(ShardBoardTest, CountsOnlyTheShardsOfTheGenerationInCharge) {
  Started();
  board_.SetInCharge(4);
  Report(ShardState::kReady);
  Report(ShardState::kIdentifying, 0, 8);
  EXPECT_TRUE(Ready());
  board_.SetInCharge(8);
  EXPECT_EQ(WhyNotReady(), "shard 0/8 is IDENTIFYING");
  Report(ShardState::kReady, 0, 8);
  Report(ShardState::kFailed);
  EXPECT_TRUE(Ready());
  board_.Forget(4);
  EXPECT_TRUE(Ready());
}

TEST_F(ShardBoardTest, GrowsItsVersionWithEachChange) {
  const uint64_t first = board_.version();
  Report(ShardState::kConnecting);
  const uint64_t second = board_.version();
  EXPECT_GT(second, first);
  Started();
  EXPECT_GT(board_.version(), second);
  const uint64_t third = board_.version();
  Ready();
  EXPECT_EQ(board_.version(), third);
}

}  // namespace
}  // namespace shardd::server
