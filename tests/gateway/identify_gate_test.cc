#include "gateway/identify_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "support/memory_ledger.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Purpose = IdentifyGate::Purpose;
using Verdict = IdentifyGate::Verdict;

class IdentifyGateTest : public ::testing::Test {
 protected:
  void Limits(uint32_t max_concurrency, uint32_t remaining,
              std::chrono::milliseconds reset_after = 0ms) {
    Read({.max_concurrency = max_concurrency,
          .total = 1000,
          .remaining = remaining,
          .reset_after = reset_after,
          .asked_at = now_,
          .read_at = now_});
  }
  void Read(const IdentifyGate::Reading& reading) { gate_->SetLimits(reading, now_); }
  void Enter(uint32_t shard, Purpose purpose = Purpose::kStart) {
    tickets_[shard] = gate_->Enter(
        shard, purpose,
        [this, shard](SteadyTime not_before) {
          admitted_.push_back(shard);
          not_before_[shard] = not_before;
        },
        now_);
  }
  void Leave(uint32_t shard) { gate_->Leave(tickets_[shard], now_); }
  Verdict::Kind Identify(uint32_t shard) { return gate_->Identify(tickets_[shard], now_).kind; }
  uint32_t Remaining() const { return gate_->budget(now_).remaining; }
  std::string WhyWaiting(uint32_t shard) const {
    return gate_->WhyWaiting(tickets_.at(shard), now_);
  }
  // As after kill -9: the ledger is all that is left.
  void Restart() {
    gate_ = std::make_unique<IdentifyGate>(options_, now_);
    admitted_.clear();
    not_before_.clear();
    tickets_.clear();
  }
  void Advance(std::chrono::milliseconds time) {
    now_ += time;
    gate_->Tick(now_);
  }

  SteadyTime now_{100h};
  test::MemoryLedger ledger_;
  IdentifyGate::Options options_{.ledger = &ledger_};
  std::unique_ptr<IdentifyGate> gate_ = std::make_unique<IdentifyGate>(options_, now_);
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
  EXPECT_EQ(Remaining(), 1u);
  EXPECT_EQ(admitted_.size(), 3u);
  Leave(2);
  EXPECT_THAT(admitted_, ElementsAre(0, 1, 2, 3));
  Identify(3);
  EXPECT_EQ(Remaining(), 0u);
  Advance(59min);
  EXPECT_EQ(admitted_.size(), 4u);
  Advance(1min);
  EXPECT_EQ(admitted_.size(), 16u);
  EXPECT_EQ(Remaining(), 1000u);
}

TEST_F(IdentifyGateTest, StartsSpentWhileTheAnswerWasOnItsWayAreTakenOff) {
  Limits(1, 10);
  Enter(0);
  const SteadyTime asked_at = now_;
  Advance(100ms);
  Identify(0);
  Read({.total = 1000, .remaining = 10, .asked_at = asked_at, .read_at = now_});
  EXPECT_EQ(Remaining(), 9u);
  Advance(10s);
  Limits(1, 9);
  EXPECT_EQ(Remaining(), 9u);
}

TEST_F(IdentifyGateTest, AnotherConcurrencyRegroupsWithoutDoubleAdmission) {
  Limits(1, 1000);
  for (uint32_t shard = 0; shard < 4; ++shard) Enter(shard);
  Identify(0);
  EXPECT_THAT(admitted_, ElementsAre(0, 1));
  Limits(2, 999);
  // Shard 1 keeps its admission; the other bucket gets its first.
  EXPECT_THAT(admitted_, ElementsAre(0, 1, 2));
  EXPECT_EQ(not_before_[2], now_ + 5100ms);
  EXPECT_EQ(Identify(1), Verdict::kLater);
  Advance(5100ms);
  EXPECT_EQ(Identify(1), Verdict::kGranted);
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

// Nobody waits in the gate, so nobody calls Tick.
TEST_F(IdentifyGateTest, ANewDayOfStartsIsKnownWithoutATick) {
  Limits(1, 0, 10s);
  now_ += 9s;
  EXPECT_EQ(Remaining(), 0u);
  now_ += 1s;
  EXPECT_EQ(Remaining(), 1000u);
}

// ---- Asked at the moment of sending ----

TEST_F(IdentifyGateTest, WhoWasAdmittedAsksAgainBeforeItSends) {
  Limits(16, 1000);
  for (uint32_t shard : {0, 1, 2}) Enter(shard);
  EXPECT_THAT(admitted_, ElementsAre(0, 1, 2));
  // Another process has spent the rest meanwhile.
  Limits(16, 1, 1h);
  EXPECT_EQ(Identify(1), Verdict::kGranted);
  EXPECT_EQ(Identify(0), Verdict::kRefused);
  EXPECT_EQ(Identify(2), Verdict::kRefused);
  EXPECT_EQ(gate_->waiting(), 0u);
  EXPECT_EQ(ledger_.starts.size(), 1u);
  Enter(0);
  Advance(1h);
  EXPECT_EQ(admitted_.back(), 0u);
  EXPECT_EQ(Identify(0), Verdict::kGranted);
}

TEST_F(IdentifyGateTest, BucketsThatBecomeOneSendInTurn) {
  Limits(4, 1000);
  for (uint32_t shard : {0, 1, 2, 3}) Enter(shard);
  Limits(1, 1000);
  EXPECT_EQ(Identify(2), Verdict::kGranted);
  EXPECT_EQ(Identify(0), Verdict::kLater);
  Advance(5099ms);
  EXPECT_EQ(Identify(0), Verdict::kLater);
  Advance(1ms);
  EXPECT_EQ(Identify(0), Verdict::kGranted);
  EXPECT_EQ(Identify(1), Verdict::kLater);
}

TEST_F(IdentifyGateTest, WithoutALedgerThatTakesItNoStartIsGranted) {
  Limits(1, 1000);
  Enter(0);
  ledger_.broken = true;
  EXPECT_EQ(Identify(0), Verdict::kRefused);
  Enter(0);
  EXPECT_THAT(admitted_, ElementsAre(0)) << "it pauses";
  EXPECT_THAT(WhyWaiting(0), HasSubstr("cannot be written"));
  ledger_.broken = false;
  Advance(5s);
  EXPECT_THAT(admitted_, ElementsAre(0, 0));
  EXPECT_EQ(Identify(0), Verdict::kGranted);
}

TEST_F(IdentifyGateTest, WhoIsNotAdmittedIsRefused) {
  Limits(1, 1000);
  Enter(0);
  Enter(1);
  EXPECT_EQ(Identify(1), Verdict::kRefused);
  EXPECT_EQ(gate_->Identify(999, now_).kind, Verdict::kRefused);
  EXPECT_TRUE(ledger_.starts.empty());
}

// ---- The reserve ----

class ReserveTest : public IdentifyGateTest {
 protected:
  ReserveTest() {
    options_.reserve.percent = 10;
    Restart();
  }
};

TEST_F(ReserveTest, StartsLeaveItAndLostSessionsUseItDownToALastRest) {
  Limits(16, 102, 1h);
  EXPECT_EQ(gate_->budget(now_).reserve, 100u);
  for (uint32_t shard = 0; shard < 16; ++shard) Enter(shard);
  EXPECT_THAT(admitted_, ElementsAre(0, 1));
  Identify(0);
  Identify(1);
  EXPECT_THAT(WhyWaiting(2), AllOf(HasSubstr("100 of 1000"), HasSubstr("--identify-reserve")));
  Enter(100, Purpose::kRecovery);
  EXPECT_EQ(admitted_.back(), 100u);
  EXPECT_EQ(Identify(100), Verdict::kGranted);
  EXPECT_EQ(Remaining(), 99u);
  // Until the last hundredth.
  Advance(10s);
  Limits(16, 11, 1h);
  Enter(101, Purpose::kRecovery);
  EXPECT_EQ(Identify(101), Verdict::kGranted);
  Enter(102, Purpose::kRecovery);
  EXPECT_THAT(WhyWaiting(102), HasSubstr("10 of 1000"));
  EXPECT_EQ(admitted_.back(), 101u);
  EXPECT_EQ(Remaining(), 10u);
}

TEST_F(ReserveTest, AStartThatWaitsDoesNotHoldUpARecoveryBehindIt) {
  Limits(1, 100, 1h);
  Enter(0);
  Enter(1, Purpose::kRecovery);
  Enter(2, Purpose::kRecovery);
  EXPECT_THAT(admitted_, ElementsAre(1));
  Identify(1);
  Advance(1h);
  EXPECT_THAT(admitted_, ElementsAre(1, 2)) << "it was in line";
  Identify(2);
  EXPECT_THAT(admitted_, ElementsAre(1, 2, 0));
}

TEST_F(ReserveTest, ArrivalOrderHoldsWhereTheBudgetCoversBoth) {
  Limits(1, 1000);
  Enter(0);
  Enter(1);
  Enter(2, Purpose::kRecovery);
  Identify(0);
  EXPECT_THAT(admitted_, ElementsAre(0, 1));
}

TEST(IdentifyReserveTest, IsTheLargerOfNumberAndShare) {
  EXPECT_EQ((IdentifyReserve{.starts = 5, .percent = 10}.Of(1000)), 100u);
  EXPECT_EQ((IdentifyReserve{.starts = 5, .percent = 0}.Of(1000)), 5u);
  EXPECT_EQ((IdentifyReserve{.starts = 0, .percent = 10}.Of(9)), 0u);
}

// ---- What is believed ----

TEST_F(IdentifyGateTest, MoreIsBelievedOnlyWhenTheDayHasEnded) {
  Limits(1, 5, 1h);
  Advance(10s);
  Limits(1, 1000, 23h);
  EXPECT_EQ(Remaining(), 5u);
  Advance(1h);
  EXPECT_EQ(Remaining(), 1000u);
  Limits(1, 700, 22h);
  EXPECT_EQ(Remaining(), 700u);
}

TEST_F(IdentifyGateTest, AnAnswerThatCameBeforeTheExpectedEndOfTheDayCountsBehindIt) {
  Limits(1, 0, 10s);
  Advance(9s);
  // Discord's day has ended a moment sooner, and another process was quick.
  Limits(1, 300, 24h);
  EXPECT_EQ(Remaining(), 0u);
  Advance(1s);
  EXPECT_EQ(Remaining(), 300u);
}

TEST_F(IdentifyGateTest, AStartJustBeforeAnAnswerIsTakenOffTwiceForAMomentOnly) {
  Limits(1, 1000, 24h);
  Enter(0);
  Identify(0);
  Advance(1s);
  Limits(1, 999, 23h);
  EXPECT_EQ(Remaining(), 998u) << "it may have been on its way";
  Advance(10s);
  Limits(1, 999, 23h);
  EXPECT_EQ(Remaining(), 999u);
}

TEST_F(IdentifyGateTest, TheLedgersOwnCountHoldsWhereDiscordsIsBehind) {
  Limits(16, 1000, 1h);
  for (uint32_t shard = 0; shard < 16; ++shard) {
    Enter(shard);
    Identify(shard);
  }
  Advance(10min);
  Restart();
  ledger_.limits.reset();
  Restart();
  Limits(16, 1000, 50min);
  EXPECT_EQ(Remaining(), 984u);
}

TEST_F(IdentifyGateTest, WithoutATotalTheAnswerAloneCounts) {
  Read({.total = 0, .remaining = 3, .asked_at = now_, .read_at = now_});
  Enter(0);
  Identify(0);
  EXPECT_EQ(Remaining(), 2u);
}

// ---- The ledger ----

TEST_F(IdentifyGateTest, SpacingHoldsAcrossARestart) {
  Limits(16, 1000);
  Enter(0);
  Identify(0);
  Advance(1s);
  Restart();
  Limits(16, 999, 23h);
  Enter(16);
  EXPECT_EQ(not_before_[16], now_ + 4100ms);
}

TEST_F(IdentifyGateTest, TheBudgetHoldsAcrossARestartWithoutAnAnswerOfDiscords) {
  Limits(16, 20, 1h);
  for (uint32_t shard = 0; shard < 16; ++shard) {
    Enter(shard);
    Identify(shard);
  }
  Restart();
  EXPECT_EQ(Remaining(), 4u);
  EXPECT_EQ(gate_->budget(now_).max_concurrency, 16u);
  Advance(6s);
  for (uint32_t shard = 0; shard < 16; ++shard) Enter(shard);
  EXPECT_EQ(admitted_.size(), 4u);
  Advance(1h);
  EXPECT_EQ(Remaining(), 1000u);
}

TEST_F(IdentifyGateTest, ALedgerThatHasLostStartsWaitsForDiscord) {
  Limits(1, 1000);
  ledger_.complete = false;
  Restart();
  Enter(0);
  gate_->KeepLimits(now_);
  EXPECT_EQ(Remaining(), 0u);
  EXPECT_TRUE(admitted_.empty());
  EXPECT_THAT(WhyWaiting(0), HasSubstr("Discord has not said"));
  Limits(1, 900, 1h);
  EXPECT_THAT(admitted_, ElementsAre(0));
  EXPECT_EQ(not_before_[0], now_ + 5100ms) << "who knows what was sent just now";
}

// ---- Waves ----

class WaveTest : public IdentifyGateTest {
 protected:
  WaveTest() {
    gate_->SetRefresh([this] { ++refreshes_; });
  }
  int refreshes_ = 0;
};

TEST_F(WaveTest, HasTheLimitsReadAgainOnceAndWaitsForThem) {
  Limits(16, 1000);
  Enter(0);
  EXPECT_EQ(refreshes_, 0);
  EXPECT_EQ(admitted_.size(), 1u);
  Advance(31s);
  for (uint32_t shard = 1; shard < 16; ++shard) Enter(shard);
  EXPECT_EQ(refreshes_, 1);
  EXPECT_EQ(admitted_.size(), 1u);
  Limits(16, 10, 1h);
  EXPECT_EQ(admitted_.size(), 10u);
  Advance(10s);
  Enter(16);
  EXPECT_EQ(refreshes_, 1);
}

TEST_F(WaveTest, GoesOnWithWhatIsKnownWhenTheLimitsCannotBeRead) {
  Limits(16, 1000);
  Advance(31s);
  Enter(0);
  EXPECT_TRUE(admitted_.empty());
  gate_->KeepLimits(now_);
  EXPECT_THAT(admitted_, ElementsAre(0));
  // That counts as fresh: a Discord that does not answer is not asked by each shard.
  Enter(1);
  EXPECT_EQ(refreshes_, 1);
}

TEST_F(WaveTest, DoesNotWaitForEver) {
  Limits(16, 1000);
  Advance(31s);
  Enter(0);
  Advance(29s);
  EXPECT_TRUE(admitted_.empty());
  Advance(1s);
  EXPECT_THAT(admitted_, ElementsAre(0));
}

TEST_F(WaveTest, ThatIsLongHasTheLimitsReadAgainOnTheWay) {
  Limits(1, 1000, 1h);
  for (uint32_t shard = 0; shard < 20; ++shard) Enter(shard);
  for (uint32_t shard = 0; shard < 5; ++shard) {
    Identify(shard);
    Advance(5100ms);
  }
  EXPECT_EQ(refreshes_, 0);
  Advance(5s);
  EXPECT_EQ(refreshes_, 1);
  // Others have spent the rest meanwhile.
  Limits(1, 0, 1h);
  Leave(5);
  EXPECT_EQ(admitted_.size(), 6u);
}

TEST_F(WaveTest, ThatWaitsForTheResetDoesNotAskAllDay) {
  Limits(1, 0, 12h);
  Enter(0);
  for (int i = 0; i < 100; ++i) Advance(1min);
  EXPECT_EQ(refreshes_, 0);
}

TEST_F(WaveTest, ThatWaitsForANewDayHasItReadFirst) {
  Limits(1, 0, 1h);
  Enter(0);
  Advance(59min);
  EXPECT_EQ(refreshes_, 0);
  Advance(1min);
  EXPECT_EQ(refreshes_, 1);
  EXPECT_TRUE(admitted_.empty());
  Limits(1, 1000);
  EXPECT_THAT(admitted_, ElementsAre(0));
}

TEST_F(WaveTest, SaysUntilWhenItWaits) {
  class NoonClock final : public Clock {
   public:
    SteadyTime Steady() const override { return {}; }
    WallTime Wall() const override { return WallTime(std::chrono::seconds(1'800'014'400)); }
  } clock;
  options_.clock = &clock;
  Restart();
  Limits(1, 0, 30min);
  Enter(0);
  EXPECT_EQ(WhyWaiting(0), "all 1000 session starts are spent until 2027-01-15T12:30:00Z");
}

// ---- Discord, simulated in virtual time ----

constexpr auto kDiscordsDay = 24h;
constexpr auto kDiscordsWindow = 5s;

// Counts IDENTIFYs as Discord does:
// https://discord.com/developers/docs/events/gateway#rate-limiting.
struct Discord {
  uint32_t total = 1000;
  uint32_t max_concurrency = 1;
  uint32_t used = 0;
  std::optional<SteadyTime> day_began{};
  std::vector<std::pair<SteadyTime, uint32_t>> recent{};
  uint32_t overspent = 0;
  uint32_t too_early = 0;

  void Roll(SteadyTime now) {
    if (!day_began || now - *day_began < kDiscordsDay) return;
    day_began.reset();
    used = 0;
  }
  void Spend(uint32_t count, SteadyTime now) {
    Roll(now);
    if (count == 0) return;
    if (!day_began) day_began = now;
    overspent += used + count > total;
    used += count;
  }
  void Identify(uint32_t shard, SteadyTime now) {
    std::erase_if(recent, [&](const auto& each) { return now - each.first >= kDiscordsWindow; });
    for (const auto& [when, other] : recent) {
      if (other % max_concurrency == shard % max_concurrency) {
        ++too_early;
        break;
      }
    }
    recent.emplace_back(now, shard);
    Spend(1, now);
  }
  IdentifyGate::Reading Answer(SteadyTime asked_at, SteadyTime now, SteadyTime read_at) {
    Roll(now);
    const auto reset_after =
        day_began
            ? std::chrono::duration_cast<std::chrono::milliseconds>(*day_began + kDiscordsDay - now)
            : 0ms;
    return {.max_concurrency = max_concurrency,
            .total = total,
            .remaining = total - std::min(total, used),
            .reset_after = reset_after,
            .asked_at = asked_at,
            .read_at = read_at};
  }
};

TEST_F(IdentifyGateTest, AThousandShardsTakeOneWindowForSixteenAndAThousandStarts) {
  Discord discord{.max_concurrency = 16};
  Read(discord.Answer(now_, now_, now_));
  const SteadyTime start = now_;
  std::multimap<SteadyTime, uint32_t> due;
  for (uint32_t shard = 0; shard < 1000; ++shard) {
    tickets_[shard] = gate_->Enter(
        shard, Purpose::kStart,
        [&due, shard](SteadyTime not_before) { due.emplace(not_before, shard); }, now_);
  }
  while (!due.empty()) {
    const auto [when, shard] = *due.begin();
    due.erase(due.begin());
    now_ = std::max(now_, when);
    ASSERT_EQ(Identify(shard), Verdict::kGranted);
    discord.Identify(shard, now_);
  }
  EXPECT_EQ(discord.used, 1000u);
  EXPECT_EQ(discord.overspent, 0u);
  EXPECT_EQ(discord.too_early, 0u);
  EXPECT_EQ(ledger_.starts.size(), 1000u);
  EXPECT_EQ(Remaining(), 0u);
  EXPECT_EQ(now_ - start, 5100ms * 62);  // ceil(1000 / 16) = 63 windows, of which one has no wait
}

// Shards that reached READY resume; the others must identify again.
TEST_F(IdentifyGateTest, AKillInTheMiddleOfAWaveCostsNoMoreThanWhatItCaught) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    ledger_ = {};
    now_ += 48h;
    Restart();
    Discord discord{.total = 1100, .max_concurrency = 16};
    Read(discord.Answer(now_, now_, now_));
    const SteadyTime kill_at =
        now_ + std::chrono::milliseconds(std::uniform_int_distribution<int>(0, 316'000)(random));
    std::set<uint32_t> ready;
    uint32_t caught = 0;
    bool killed = false;
    std::multimap<SteadyTime, std::function<void()>> events;
    const auto enter = [&](uint32_t shard) {
      tickets_[shard] = gate_->Enter(
          shard, Purpose::kStart,
          [&, shard](SteadyTime not_before) {
            events.emplace(not_before + 1ms * (random() % 300), [&, shard] {
              ASSERT_EQ(Identify(shard), Verdict::kGranted);
              if (!killed && random() % 100 == 0 && now_ > kill_at) {
                events.emplace(now_, [] {});  // written down, and killed before it was sent
                return;
              }
              discord.Identify(shard, now_ + 10ms);
              events.emplace(now_ + 1ms * (random() % 3000), [&, shard] { ready.insert(shard); });
            });
          },
          now_);
    };
    for (uint32_t shard = 0; shard < 1000; ++shard) enter(shard);
    while (!events.empty()) {
      const auto [when, what] = *events.begin();
      if (!killed && when >= kill_at) {
        killed = true;
        now_ = kill_at + 1ms * (random() % 8000);
        caught = discord.used - static_cast<uint32_t>(ready.size());
        events.clear();
        Restart();
        Read(discord.Answer(now_, now_, now_));
        for (uint32_t shard = 0; shard < 1000; ++shard) {
          if (!ready.contains(shard)) enter(shard);
        }
        continue;
      }
      events.erase(events.begin());
      now_ = std::max(now_, when);
      what();
      if (HasFatalFailure()) return;
    }
    ASSERT_EQ(ready.size(), 1000u) << seed;
    ASSERT_EQ(discord.used, 1000 + caught) << seed;
    ASSERT_EQ(discord.too_early, 0u) << seed;
    ASSERT_EQ(discord.overspent, 0u) << seed;
  }
}

// Everything that happens to a gate, at random: it must never cost the bot its token.
class AnythingTest : public IdentifyGateTest, public ::testing::WithParamInterface<uint32_t> {
 protected:
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }

  void Run(uint32_t seed) {
    random_.seed(seed);
    ledger_ = {};
    sent_.clear();
    asked_.reset();
    now_ += 72h;
    options_.reserve.percent = Below(2) * 10.0;
    discord_ = {.total = 1 + Below(40), .max_concurrency = 1 + Below(4)};
    Crash();
    const uint32_t steps = 100 + Below(200);
    for (uint32_t step = 0; step < steps; ++step) Step();
    Land(now_ + 1s);
  }

  void Step() {
    switch (Below(16)) {
      case 0:
      case 1:
      case 2: {
        const uint32_t shard = Below(12);
        if (!tickets_.contains(shard))
          Enter(shard, Below(2) ? Purpose::kStart : Purpose::kRecovery);
        return;
      }
      case 3:
        if (!tickets_.empty()) Forget(std::next(tickets_.begin(), Below(tickets_.size()))->first);
        return;
      case 4:
      case 5:
      case 6:
      case 7:
        Send();
        return;
      case 8:
        if (!asked_) asked_ = now_;
        return;
      case 9:
        if (Below(2)) return ReadAnswer();
        gate_->KeepLimits(now_);
        return;
      case 10:
        if (Below(3) == 0) Crash();
        return;
      case 11:
        // Another process. What it spends between a reading and a start is nobody's to know, so it
        // leaves what is on its way.
        if (Below(3) == 0) {
          Land(now_);
          discord_.Roll(now_);
          const auto taken = discord_.used + static_cast<uint32_t>(sent_.size());
          discord_.Spend(std::min(discord_.total - std::min(discord_.total, taken), Below(9)),
                         now_);
          asked_ = now_;
          answer_at_ = now_;
          ReadAnswer();
        }
        return;
      case 12:
        if (Below(4) == 0) {
          Land(now_ + 1s);
          discord_.max_concurrency = 1 + Below(4);
          asked_ = now_;
          answer_at_ = now_;
          ReadAnswer();
        }
        return;
      case 13:
        Pass(1ms * Below(3'600'000 * 8));
        return;
      default:
        Pass(1ms * Below(6000));
    }
  }

  void Pass(std::chrono::milliseconds time) {
    if (asked_ && !answer_at_) answer_at_ = now_ + time / 2;
    Advance(time);
  }
  void ReadAnswer() {
    if (!asked_) return;
    const SteadyTime at = answer_at_.value_or(now_);
    Land(at);
    // No answer takes longer than a request may.
    if (now_ - *asked_ < 10s) Read(discord_.Answer(*asked_, at, now_));
    asked_.reset();
    answer_at_.reset();
  }
  // Lets IDENTIFYs that are on their way by then arrive.
  void Land(SteadyTime by) {
    while (!sent_.empty() && sent_.begin()->first <= by) {
      discord_.Identify(sent_.begin()->second, sent_.begin()->first);
      sent_.erase(sent_.begin());
    }
  }
  void Send() {
    for (const auto& [shard, not_before] : std::map(not_before_)) {
      if (Below(3) == 0) continue;
      // Also too early, which the gate has to notice.
      const auto verdict = gate_->Identify(tickets_[shard], now_);
      if (verdict.kind == Verdict::kLater) continue;
      tickets_.erase(shard);
      not_before_.erase(shard);
      if (verdict.kind == Verdict::kRefused) continue;
      if (Below(20) == 0) return Crash();
      sent_.emplace(now_ + 1ms * Below(100), shard);
      if (Below(20) == 0) return Crash();
    }
  }
  void Forget(uint32_t shard) {
    Leave(shard);
    tickets_.erase(shard);
    not_before_.erase(shard);
  }
  void Crash() {
    asked_.reset();
    answer_at_.reset();
    Restart();
  }

  std::mt19937 random_;
  Discord discord_;
  std::optional<SteadyTime> asked_;
  std::optional<SteadyTime> answer_at_;
  std::multimap<SteadyTime, uint32_t> sent_;
};

TEST_P(AnythingTest, NeverSpendsWhatDiscordDoesNotGrantNorTooEarly) {
  uint32_t used = 0;
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    Run(GetParam() * 1000 + seed);
    ASSERT_EQ(discord_.overspent, 0u) << "seed " << GetParam() * 1000 + seed;
    ASSERT_EQ(discord_.too_early, 0u) << "seed " << GetParam() * 1000 + seed;
    used += discord_.used;
  }
  EXPECT_GT(used, 1000u) << "nothing happened";
}

INSTANTIATE_TEST_SUITE_P(Seeds, AnythingTest, ::testing::Range(0u, 5u));

}  // namespace
}  // namespace shardd::gateway
