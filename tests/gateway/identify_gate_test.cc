#include "gateway/identify_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;

class IdentifyGateTest : public ::testing::Test {
 protected:
  void Limits(uint32_t max_concurrency, uint32_t remaining,
              std::chrono::milliseconds reset_after = 0ms) {
    gate_.SetLimits(max_concurrency, 1000, remaining, reset_after, now_, now_);
  }
  void Enter(uint32_t shard) {
    tickets_[shard] = gate_.Enter(
        shard,
        [this, shard](SteadyTime not_before) {
          admitted_.push_back(shard);
          not_before_[shard] = not_before;
        },
        now_);
  }
  void Leave(uint32_t shard) { gate_.Leave(tickets_[shard], now_); }
  void Identify(uint32_t shard) { gate_.Identified(tickets_[shard], now_); }
  void Advance(std::chrono::milliseconds time) {
    now_ += time;
    gate_.Tick(now_);
  }

  SteadyTime now_{1h};
  IdentifyGate gate_{5100ms};
  std::map<uint32_t, IdentifyGate::Ticket> tickets_;
  std::vector<uint32_t> admitted_;
  std::map<uint32_t, SteadyTime> not_before_;
};

TEST_F(IdentifyGateTest, OneBucketAdmitsInOrderAndSpacesSends) {
  Limits(1, 1000);
  for (uint32_t shard : {0, 1, 2}) Enter(shard);
  EXPECT_THAT(admitted_, ElementsAre(0));
  EXPECT_LE(not_before_[0], now_);
  Advance(300ms);
  Identify(0);
  EXPECT_THAT(admitted_, ElementsAre(0, 1));
  EXPECT_EQ(not_before_[1], now_ + 5100ms);
  Advance(5100ms);
  Identify(1);
  EXPECT_EQ(not_before_[2], now_ + 5100ms);
}

TEST_F(IdentifyGateTest, BucketsAreIndependent) {
  Limits(16, 1000);
  for (uint32_t shard = 0; shard < 32; ++shard) Enter(shard);
  EXPECT_EQ(admitted_.size(), 16u);
  Identify(3);
  EXPECT_EQ(admitted_.back(), 19u);
}

TEST_F(IdentifyGateTest, WhoLeavesGivesItsPlaceToTheNext) {
  Limits(1, 1000);
  for (uint32_t shard : {0, 1, 2, 3}) Enter(shard);
  Leave(1);
  Leave(0);
  EXPECT_THAT(admitted_, ElementsAre(0, 2));
  // It did not send, so nothing is to be waited for.
  EXPECT_LE(not_before_[2], now_);
  Leave(2);
  Leave(2);
  EXPECT_THAT(admitted_, ElementsAre(0, 2, 3));
}

TEST_F(IdentifyGateTest, NobodyIsAdmittedBeforeTheLimitsAreKnown) {
  Enter(0);
  EXPECT_TRUE(admitted_.empty());
  Limits(1, 1000);
  EXPECT_THAT(admitted_, ElementsAre(0));
}

TEST_F(IdentifyGateTest, TheBudgetIsNeverOverspent) {
  Limits(16, 3, 1h);
  for (uint32_t shard = 0; shard < 16; ++shard) Enter(shard);
  EXPECT_THAT(admitted_, ElementsAre(0, 1, 2));
  Identify(0);
  Identify(1);
  EXPECT_EQ(gate_.remaining(now_), 1u);
  EXPECT_EQ(admitted_.size(), 3u);
  Leave(2);
  EXPECT_THAT(admitted_, ElementsAre(0, 1, 2, 3));
  Identify(3);
  EXPECT_EQ(gate_.remaining(now_), 0u);
  Advance(59min);
  EXPECT_EQ(admitted_.size(), 4u);
  Advance(1min);
  EXPECT_EQ(admitted_.size(), 16u);
  EXPECT_EQ(gate_.remaining(now_), 1000u);
}

TEST_F(IdentifyGateTest, StartsSpentWhileTheAnswerWasOnItsWayAreTakenOff) {
  Limits(1, 10);
  Enter(0);
  const SteadyTime read_at = now_;
  Advance(100ms);
  Identify(0);
  gate_.SetLimits(1, 1000, 10, 0ms, read_at, now_);
  EXPECT_EQ(gate_.remaining(now_), 9u);
  Advance(1s);
  gate_.SetLimits(1, 1000, 9, 0ms, now_, now_);
  EXPECT_EQ(gate_.remaining(now_), 9u);
}

TEST_F(IdentifyGateTest, AnotherConcurrencyRegroupsWithoutDoubleAdmission) {
  Limits(1, 1000);
  for (uint32_t shard = 0; shard < 4; ++shard) Enter(shard);
  Identify(0);
  EXPECT_THAT(admitted_, ElementsAre(0, 1));
  Limits(2, 1000);
  // Shard 1 keeps its admission; the other bucket gets its first.
  EXPECT_THAT(admitted_, ElementsAre(0, 1, 2));
  EXPECT_EQ(not_before_[2], now_ + 5100ms);
  Identify(1);
  EXPECT_THAT(admitted_, ElementsAre(0, 1, 2, 3));
}

TEST_F(IdentifyGateTest, AHugeConcurrencyTakesNoMemory) {
  Limits(4'000'000'000, 1000);
  Enter(7);
  EXPECT_THAT(admitted_, ElementsAre(7));
}

TEST_F(IdentifyGateTest, OtherBucketsCountFromTheLatestIdentifyOfAny) {
  Limits(1, 1000);
  Enter(0);
  Identify(0);
  Limits(16, 1000);
  Enter(5);
  EXPECT_EQ(not_before_[5], now_ + 5100ms);
}

TEST_F(IdentifyGateTest, AThousandShardsTakeOneWindowForSixteen) {
  Limits(16, 1000);
  const SteadyTime start = now_;
  std::multimap<SteadyTime, uint32_t> due;
  std::map<uint32_t, std::vector<SteadyTime>> sent;
  std::map<uint32_t, IdentifyGate::Ticket> tickets;
  for (uint32_t shard = 0; shard < 1000; ++shard) {
    tickets[shard] = gate_.Enter(
        shard, [&due, shard](SteadyTime not_before) { due.emplace(not_before, shard); }, now_);
  }
  size_t count = 0;
  while (!due.empty()) {
    const auto [when, shard] = *due.begin();
    due.erase(due.begin());
    now_ = std::max(now_, when);
    sent[shard % 16].push_back(now_);
    ++count;
    gate_.Identified(tickets[shard], now_);
  }
  EXPECT_EQ(count, 1000u);
  EXPECT_EQ(gate_.remaining(now_), 0u);
  EXPECT_EQ(now_ - start, 5100ms * 62);  // ceil(1000 / 16) = 63 sends, 62 windows between them
  for (const auto& [bucket, times] : sent) {
    for (size_t i = 1; i < times.size(); ++i) EXPECT_GE(times[i] - times[i - 1], 5100ms);
  }
}

// Nobody waits in the gate, so nobody calls Tick.
TEST_F(IdentifyGateTest, ANewDayOfStartsIsKnownWithoutATick) {
  Limits(1, 0, 10s);
  EXPECT_EQ(gate_.remaining(now_ + 9s), 0u);
  EXPECT_EQ(gate_.remaining(now_ + 10s), 1000u);
}

}  // namespace
}  // namespace shardd::gateway
