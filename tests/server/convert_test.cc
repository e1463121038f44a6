#include "server/convert.h"

#include <gtest/gtest.h>

#include <set>

namespace shardd::server {
namespace {

TEST(ConvertTest, GivesEachStateOfAShardANameOfItsOwn) {
  constexpr auto kLast = gateway::ShardState::kStopped;
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(kLast); ++i) {
    const auto state = static_cast<gateway::ShardState>(i);
    EXPECT_NE(ToProto(state), v1::SHARD_STATE_UNSPECIFIED) << i;
    names.insert(StateName(state));
  }
  // All that the contract has, but UNSPECIFIED.
  EXPECT_EQ(static_cast<int>(names.size()), v1::ShardState_descriptor()->value_count() - 1);
  EXPECT_EQ(StateName(kLast), "STOPPED");
}

TEST(ConvertTest, KeepsNanosecondsOfDurationsAndTimes) {
  const auto duration = ToProto(std::chrono::nanoseconds(1'500'000'001));
  EXPECT_EQ(duration.seconds(), 1);
  EXPECT_EQ(duration.nanos(), 500'000'001);
  const auto time = ToProto(WallTime(std::chrono::milliseconds(1'234)));
  EXPECT_EQ(time.seconds(), 1);
  EXPECT_EQ(time.nanos(), 234'000'000);
}

// google.protobuf.Timestamp counts nanoseconds forward, also before 1970; Duration's have the sign
// of its seconds.
TEST(ConvertTest, FollowsProtobufBelowZero) {
  const auto time = ToProto(WallTime(std::chrono::milliseconds(-1)));
  EXPECT_EQ(time.seconds(), -1);
  EXPECT_EQ(time.nanos(), 999'000'000);
  const auto duration = ToProto(std::chrono::nanoseconds(-1'500'000'000));
  EXPECT_EQ(duration.seconds(), -1);
  EXPECT_EQ(duration.nanos(), -500'000'000);
}

TEST(ConvertTest, LeavesUnsetWhatAShardDoesNotKnowYet) {
  gateway::ShardInfo shard;
  shard.shard = {.id = 3, .count = 16};
  shard.reason = "why";
  v1::ShardStatus status = ToProto(shard);
  EXPECT_EQ(status.shard_id(), 3u);
  EXPECT_EQ(status.shard_count(), 16u);
  EXPECT_EQ(status.state(), v1::SHARD_STATE_IDLE);
  EXPECT_EQ(status.reason(), "why");
  EXPECT_FALSE(status.has_latency() || status.has_last_restart() || status.has_connected_since() ||
               status.has_last_event_at() || status.has_retry_at());

  shard.latency = std::chrono::milliseconds(0);
  status = ToProto(shard);
  EXPECT_TRUE(status.has_latency());
}

}  // namespace
}  // namespace shardd::server
