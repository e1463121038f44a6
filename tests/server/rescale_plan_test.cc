#include "server/rescale_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/shard_id.h"

namespace shardd::server {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A bot in good order.
RescaleFacts Facts(uint32_t shard_count, uint64_t guilds) {
  return {.shard_count = shard_count,
          .guilds = guilds,
          .most_guilds = static_cast<uint32_t>((guilds + shard_count - 1) / shard_count),
          .connections = shard_count,
          .recommended_shards = shard_count,
          .budget = {.known = true,
                     .total = 1000,
                     .remaining = 900,
                     .reserve = 100,
                     .max_concurrency = 1,
                     .renews_at = std::nullopt}};
}

constexpr RescalePlanOptions kOptions{.held_bytes = uint64_t{64} << 20,
                                      .lag = std::chrono::seconds(5),
                                      .drain = std::chrono::seconds(7)};

std::vector<std::string> Warnings(const v1::RescalePlan& plan) {
  return {plan.warnings().begin(), plan.warnings().end()};
}

TEST(RescalePlanTest, CountsWhatItTakes) {
  RescaleFacts facts = Facts(16, 16'000);
  facts.starts_due = 3;
  const auto plan = MakeRescalePlan(facts, 32, kOptions);
  EXPECT_EQ(plan.identifies(), 32u);
  EXPECT_EQ(plan.budget_after(), 900u - 3 - 32);
  EXPECT_EQ(plan.peak_connections(), 48u);
  // 32 windows of 5.1 s, and what the flags say.
  EXPECT_EQ(plan.duration().seconds(), 163 + 12);
  EXPECT_GT(plan.memory_bytes(), kOptions.held_bytes + 32 * 400'000);
  EXPECT_THAT(Warnings(plan), IsEmpty());
}

TEST(RescalePlanTest, IdentifiesOneShardOfEachBucketAtATime) {
  RescaleFacts facts = Facts(16, 16'000);
  facts.budget.max_concurrency = 16;
  EXPECT_EQ(MakeRescalePlan(facts, 32, kOptions).duration().seconds(), 10 + 12);
  EXPECT_EQ(MakeRescalePlan(facts, 33, kOptions).duration().seconds(), 15 + 12);
}

TEST(RescalePlanTest, SaysThatTheSessionStartsDoNotCoverIt) {
  RescaleFacts facts = Facts(16, 16'000);
  facts.budget.remaining = 132;
  EXPECT_TRUE(IsCovered(facts, 32));
  EXPECT_EQ(MakeRescalePlan(facts, 32, kOptions).budget_after(), 100u);
  facts.budget.remaining = 131;
  EXPECT_FALSE(IsCovered(facts, 32));
  const auto plan = MakeRescalePlan(facts, 32, kOptions);
  EXPECT_EQ(plan.budget_after(), 0u);
  EXPECT_THAT(Warnings(plan), Contains(HasSubstr("131 more, of which 100")));
  facts.budget.known = false;
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 32, kOptions)), Contains(HasSubstr("not said yet")));
}

TEST(RescalePlanTest, WarnsOfAWrongMultipleForALargeBot) {
  RescaleFacts facts = Facts(16, 16'000);
  facts.budget.max_concurrency = 16;
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 24, kOptions)), Contains(HasSubstr("4010")));
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 48, kOptions)), Not(Contains(HasSubstr("4010"))));
  facts.budget.max_concurrency = 1;
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 24, kOptions)), Not(Contains(HasSubstr("4010"))));
}

TEST(RescalePlanTest, WarnsOfMoreGuildsThanAShardMayHave) {
  const RescaleFacts facts = Facts(10, 26'000);
  const auto small = Warnings(MakeRescalePlan(facts, 8, kOptions));
  EXPECT_THAT(small, Contains(HasSubstr("a shard has 2600 guilds now")));
  EXPECT_THAT(small, Contains(HasSubstr("It takes 11 shards at least, and 26 for some room")));
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 16, kOptions)),
              Contains(HasSubstr("about 1625 guilds: over 1500")));
  EXPECT_THAT(Warnings(MakeRescalePlan(Facts(10, 10'000), 20, kOptions)), IsEmpty());
}

TEST(RescalePlanTest, WarnsOfCountsThatAreHardlyWanted) {
  const RescaleFacts facts = Facts(4, 1'000);
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 1, kOptions)), Contains(HasSubstr("so few")));
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 2, kOptions)), Contains(HasSubstr("so few")));
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 5, kOptions)), Contains(HasSubstr("odd")));
}

TEST(RescalePlanTest, WarnsOfCalls) {
  RescaleFacts facts = Facts(4, 1'000);
  facts.voice_guilds = 12;
  EXPECT_THAT(Warnings(MakeRescalePlan(facts, 8, kOptions)),
              Contains(HasSubstr("calls of 12 guilds")));
}

TEST(RescalePlanTest, ZeroMeansTheGuildsByGuildsAShardRoundedUp) {
  EXPECT_EQ(ChooseShardCount(Facts(4, 10'000), 1000), 10u);
  EXPECT_EQ(ChooseShardCount(Facts(4, 10'001), 1000), 11u);
  EXPECT_EQ(ChooseShardCount(Facts(4, 10'000), 2500), 4u);
  EXPECT_EQ(ChooseShardCount(Facts(4, 1), 2500), 1u);
  EXPECT_EQ(ChooseShardCount(Facts(4, uint64_t{1} << 40), 1), kMaxShardCount);
}

TEST(RescalePlanTest, ZeroMeansDiscordsRecommendationWhereNoGuildsAreKnown) {
  RescaleFacts facts = Facts(4, 0);
  facts.recommended_shards = 9;
  EXPECT_EQ(ChooseShardCount(facts, 0), 9u);
  EXPECT_EQ(ChooseShardCount(facts, 500), 18u);
  facts.recommended_shards = 1;
  EXPECT_EQ(ChooseShardCount(facts, 0), 1u);
  facts.recommended_shards = 0;
  EXPECT_EQ(ChooseShardCount(facts, 0), 0u);
}

TEST(RescalePlanTest, ZeroDoesNotSwingWithAFewGuilds) {
  EXPECT_EQ(ChooseShardCount(Facts(10, 10'001), 1000), 11u);
  EXPECT_EQ(ChooseShardCount(Facts(11, 10'000), 1000), 11u);
  EXPECT_EQ(ChooseShardCount(Facts(11, 9'000), 1000), 9u);
  RescaleFacts facts = Facts(11, 0);
  facts.recommended_shards = 10;
  EXPECT_EQ(ChooseShardCount(facts, 0), 11u);
  facts.recommended_shards = 9;
  EXPECT_EQ(ChooseShardCount(facts, 0), 9u);
}

TEST(RescalePlanTest, TheCureForTooManyGuildsIsAlwaysMoreShards) {
  EXPECT_EQ(MendingShardCount(Facts(2, 6'000)), 6u);
  EXPECT_EQ(MendingShardCount(Facts(10, 0)), 11u);
  RescaleFacts facts = Facts(16, 0);
  facts.budget.max_concurrency = 16;
  EXPECT_EQ(MendingShardCount(facts), 32u);
  facts.recommended_shards = 64;
  EXPECT_EQ(MendingShardCount(facts), 64u);
}

}  // namespace
}  // namespace shardd::server
