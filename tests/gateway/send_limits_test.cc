#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "gateway/send_member_limit.h"
#include "gateway/send_window.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;

constexpr SteadyTime kStart{1000h};

TEST(SendWindowTest, FreesAPlaceWhenThePeriodOfTheOldestIsOver) {
  SendWindow window(60s, 10);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(window.FreeAt(3, kStart + i * 1s), kStart + i * 1s);
    window.Record(kStart + i * 1s);
  }
  EXPECT_EQ(window.FreeAt(3, kStart + 2s), kStart + 2s);
  window.Record(kStart + 2s);
  EXPECT_EQ(window.FreeAt(3, kStart + 3s), kStart + 60s);
  EXPECT_EQ(window.FreeAt(3, kStart + 60s), kStart + 60s);
  EXPECT_EQ(window.FreeAt(2, kStart + 3s), kStart + 61s);
  window.Clear();
  EXPECT_EQ(window.FreeAt(1, kStart + 3s), kStart + 3s);
}

TEST(SendWindowTest, WhoWaitsKnowsItsTurn) {
  SendWindow window(60s, 10);
  window.Record(kStart);
  window.Record(kStart + 10s);
  const SteadyTime now = kStart + 20s;
  EXPECT_EQ(window.FreeAt(3, now, 0), now);
  EXPECT_EQ(window.FreeAt(3, now, 1), kStart + 60s);
  EXPECT_EQ(window.FreeAt(3, now, 2), kStart + 70s);
  EXPECT_EQ(window.FreeAt(3, now, 3), now + 60s);
  EXPECT_EQ(window.FreeAt(3, now, 4), kStart + 120s);
  EXPECT_EQ(window.FreeAt(3, now, 7), kStart + 180s);
}

TEST(SendWindowTest, NoPeriodEverHoldsMoreThanTheLimit) {
  SendWindow window(60s, 120);
  std::mt19937 random(7);
  std::vector<SteadyTime> sent;
  SteadyTime now = kStart;
  for (int i = 0; i < 2000; ++i) {
    now += std::chrono::milliseconds(random() % 300);
    now = window.FreeAt(113, now);
    window.Record(now);
    sent.push_back(now);
    if (sent.size() > 113) {
      ASSERT_GE(now - sent[sent.size() - 114], 60s);
    }
  }
}

TEST(SendMemberLimitTest, OneAGuildIn30Seconds) {
  SendMemberLimit limit;
  EXPECT_TRUE(limit.Take(1, kStart));
  EXPECT_FALSE(limit.Take(1, kStart));
  EXPECT_TRUE(limit.Take(2, kStart));
  EXPECT_EQ(limit.FreeAt(1), kStart + SendMemberLimit::kPeriod);
  EXPECT_FALSE(limit.Take(1, kStart + SendMemberLimit::kPeriod - 1ns));
  EXPECT_TRUE(limit.Take(1, kStart + SendMemberLimit::kPeriod));
  EXPECT_GE(SendMemberLimit::kPeriod, 30s);
  EXPECT_LE(SendMemberLimit::kPeriod, 31s);
}

TEST(SendMemberLimitTest, DiscordsOwnWordCounts) {
  SendMemberLimit limit;
  EXPECT_TRUE(limit.Take(1, kStart));
  limit.Block(1, 12s, kStart + 1s);
  EXPECT_EQ(limit.FreeAt(1), kStart + 13s);
  limit.Block(2, 29'457ms, kStart);
  EXPECT_FALSE(limit.Take(2, kStart + 29s));
  EXPECT_TRUE(limit.Take(2, kStart + 29'457ms));
}

TEST(SendMemberLimitTest, AHostileWordIsBounded) {
  SendMemberLimit limit;
  limit.Block(1, std::chrono::milliseconds::max(), kStart);
  EXPECT_EQ(limit.FreeAt(1), kStart + SendMemberLimit::kLongestBlock);
  limit.Block(1, std::chrono::milliseconds::min(), kStart);
  EXPECT_LE(limit.FreeAt(1), kStart);
}

TEST(SendMemberLimitTest, ForgetsWhatIsOverAndHasABound) {
  SendMemberLimit limit;
  for (uint64_t guild = 1; guild <= 1000; ++guild) limit.Take(guild, kStart);
  limit.Take(1001, kStart + SendMemberLimit::kPeriod);
  EXPECT_EQ(limit.size(), 1u);
  for (uint64_t guild = 1; guild <= SendMemberLimit::kMostGuilds + 10; ++guild) {
    limit.Block(guild, 10s + std::chrono::milliseconds(guild), kStart);
  }
  EXPECT_EQ(limit.size(), SendMemberLimit::kMostGuilds);
  EXPECT_EQ(limit.FreeAt(1), SteadyTime::min()) << "the first to be free is forgotten";
  EXPECT_GT(limit.FreeAt(SendMemberLimit::kMostGuilds + 10), kStart);
}

}  // namespace
}  // namespace shardd::gateway
