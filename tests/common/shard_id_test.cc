#include "common/shard_id.h"

#include <gtest/gtest.h>

#include <limits>

namespace shardd {
namespace {

TEST(ShardForGuildTest, FollowsDiscordsFormula) {
  EXPECT_EQ(ShardForGuild(81384788765712384, 1), 0u);
  EXPECT_EQ(ShardForGuild(197038439483310086, 10), (197038439483310086ULL >> 22) % 10);
  EXPECT_EQ(ShardForGuild(std::numeric_limits<uint64_t>::max(), 16), ((1ULL << 42) - 1) % 16);
}

TEST(ShardForGuildTest, EventsWithoutAGuildBelongToShardZero) {
  EXPECT_EQ(ShardForGuild(0, 16), 0u);
}

TEST(ShardIdTest, ReadsAsInDiscordsOwnTools) { EXPECT_EQ(ToString(ShardId{3, 16}), "3/16"); }

}  // namespace
}  // namespace shardd
