#include "server/shard_size.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shardd::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

gateway::ShardInfo Shard(uint32_t id, uint32_t guilds,
                         gateway::ShardState state = gateway::ShardState::kReady,
                         std::string reason = "") {
  gateway::ShardInfo shard;
  shard.shard = {.id = id, .count = 2};
  shard.state = state;
  shard.guilds = guilds;
  shard.reason = std::move(reason);
  return shard;
}

TEST(ShardSizeTest, SaysNothingWhileAllShardsFit) {
  const std::vector shards = {Shard(0, 2500), Shard(1, 0, gateway::ShardState::kFailed, "4014: x")};
  EXPECT_THAT(SizeWarnings({.shard_count = 2, .guilds = 2500, .most_guilds = 2500}, shards),
              IsEmpty());
}

TEST(ShardSizeTest, NamesTheRescaleThatMendsAShardWithTooManyGuilds) {
  const std::vector shards = {Shard(0, 2501), Shard(1, 2400)};
  EXPECT_THAT(SizeWarnings({.shard_count = 2, .guilds = 4901, .most_guilds = 2501}, shards),
              ElementsAre(AllOf(HasSubstr("1 of 2 shards have more than 2500 guilds, up to 2501"),
                                HasSubstr("call Rescale with shard_count 5"))));
}

TEST(ShardSizeTest, NamesTheRescaleThatMendsAShardWhichDiscordRefuses) {
  const std::vector shards = {Shard(0, 0, gateway::ShardState::kFailed, "4011: sharding required"),
                              Shard(1, 2000)};
  EXPECT_THAT(
      SizeWarnings({.shard_count = 2, .guilds = 2000, .most_guilds = 2000, .recommended_shards = 6},
                   shards),
      ElementsAre(AllOf(HasSubstr("4011"), HasSubstr("call Rescale with shard_count 6"))));
}

}  // namespace
}  // namespace shardd::server
