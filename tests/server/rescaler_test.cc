#include "server/rescaler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "absl/strings/str_cat.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

using events::RescaleStep;
using gateway::ShardState;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FakeClock final : public Clock {
 public:
  SteadyTime Steady() const override { return steady_; }
  WallTime Wall() const override { return WallTime(seconds(1'700'000'000)); }
  void Advance(milliseconds time) { steady_ += time; }

 private:
  SteadyTime steady_ = SteadyTime(std::chrono::hours(1));
};

// Shards and streams that do what a test says, and write down what is done with them.
class FakeParts final : public RescaleParts {
 public:
  RescaleFacts Facts() const override { return facts; }
  uint64_t Generation() const override { return generation; }
  absl::Status Check() const override { return check; }
  absl::Status Begin(uint32_t from, uint32_t to) override {
    if (!begin.ok()) return begin;
    did.push_back(absl::StrCat("begin ", from, " ", to));
    shards.clear();
    for (uint32_t id = 0; id < to; ++id) {
      gateway::ShardInfo& shard = shards.emplace_back();
      shard.shard = {.id = id, .count = to};
      shard.state = is_ready_at_once ? ShardState::kReady : ShardState::kIdentifying;
    }
    return absl::OkStatus();
  }
  std::vector<gateway::ShardInfo> Shards(uint32_t) const override { return shards; }
  void Beat(uint32_t, uint32_t) override { ++beats; }
  Overlap::Progress Tick(SteadyTime) override { return progress; }
  bool Switch(SteadyTime, const events::RescaleChanged& change,
              const std::function<std::string(uint64_t)>& data) override {
    if (!switches) return false;
    facts.shard_count = change.rescale.to_shard_count;
    ++generation;
    records.push_back(change.rescale);
    told.push_back(data(generation));
    did.push_back("switch");
    return true;
  }
  bool HasDrained() const override { return has_drained; }
  bool SendOn() override {
    ++sent_on;
    return all_sent_on;
  }
  void RollBack(uint32_t to) override { did.push_back(absl::StrCat("roll back ", to)); }
  void Retire(uint32_t from) override { did.push_back(absl::StrCat("retire ", from)); }
  void Write(const events::RescaleChanged& change, const std::string& data) override {
    records.push_back(change.rescale);
    if (!data.empty()) told.push_back(data);
  }

  void AllAre(ShardState state) {
    for (auto& shard : shards) shard.state = state;
  }

  RescaleFacts facts{
      .shard_count = 2,
      .guilds = 2000,
      .most_guilds = 1000,
      .connections = 2,
      .recommended_shards = 2,
      .budget = {.known = true, .total = 1000, .remaining = 1000, .renews_at = std::nullopt}};
  uint64_t generation = 1;
  absl::Status check;
  absl::Status begin;
  bool is_ready_at_once = false;
  std::vector<gateway::ShardInfo> shards;
  Overlap::Progress progress;
  bool switches = true;
  bool has_drained = true;
  bool all_sent_on = true;
  int beats = 0;
  int sent_on = 0;
  std::vector<std::string> did;
  std::vector<events::RescaleRecord> records;
  std::vector<std::string> told;
};

// A rescaler that only ticks when a test says so.
class RescalerTest : public ::testing::Test {
 protected:
  RescalerTest() { NextProcess(); }

  void NextProcess() {
    rescaler_.reset();
    rescaler_ = std::make_unique<Rescaler>(
        RescalerOptions{.drain = seconds(5),
                        .timeout = seconds(60),
                        .longest_wait = seconds(30),
                        .beat = seconds(2),
                        .retry = {.first = seconds(60), .longest = seconds(3600)},
                        .clock = &clock_,
                        .tick = milliseconds(0)},
        parts_, [this] { ++changes_; });
  }
  absl::StatusOr<v1::RescaleStatus> Ask(uint32_t shard_count, bool dry_run = false,
                                        uint32_t guilds_per_shard = 0) {
    v1::RescaleRequest request;
    request.set_shard_count(shard_count);
    request.set_dry_run(dry_run);
    request.set_guilds_per_shard(guilds_per_shard);
    return rescaler_->Rescale(request);
  }
  v1::RescaleState StateAfter(const absl::StatusOr<v1::RescaleStatus>& answer) const {
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? answer->state() : v1::RESCALE_STATE_UNSPECIFIED;
  }
  v1::RescaleState state() const { return rescaler_->status().state(); }
  void Tick(milliseconds after = milliseconds(20)) {
    clock_.Advance(after);
    rescaler_->Tick();
  }
  // Up to the state before the switch.
  void Align(uint32_t to) {
    ASSERT_EQ(StateAfter(Ask(to)), v1::RESCALE_STATE_PLANNED);
    parts_.progress.waits_for = "guild 7 is not aligned";
    Tick();
    parts_.AllAre(ShardState::kReady);
    Tick();
    ASSERT_EQ(state(), v1::RESCALE_STATE_ALIGNING);
  }
  void Switch(uint32_t to) {
    Align(to);
    parts_.progress.waits_for.clear();
    Tick();
    ASSERT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
  }
  std::vector<RescaleStep> Steps() const {
    std::vector<RescaleStep> steps;
    for (const auto& record : parts_.records) steps.push_back(record.step);
    return steps;
  }

  FakeClock clock_;
  FakeParts parts_;
  int changes_ = 0;
  std::unique_ptr<Rescaler> rescaler_;
};

TEST_F(RescalerTest, SaysNoneWhereThereNeverWasOne) {
  rescaler_->Resume(std::nullopt);
  EXPECT_EQ(state(), v1::RESCALE_STATE_NONE);
  EXPECT_THAT(parts_.records, IsEmpty());
}

TEST_F(RescalerTest, GoesFromStateToStateAndTellsEachOne) {
  const auto accepted = Ask(4);
  ASSERT_EQ(StateAfter(accepted), v1::RESCALE_STATE_PLANNED);
  EXPECT_EQ(accepted->from_shard_count(), 2u);
  EXPECT_EQ(accepted->to_shard_count(), 4u);
  EXPECT_EQ(accepted->plan().identifies(), 4u);
  EXPECT_THAT(Steps(), ElementsAre(RescaleStep::kRunning));

  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_IDENTIFYING);
  parts_.shards[0].state = ShardState::kReady;
  parts_.shards[1].state = ShardState::kWaitingToIdentify;
  parts_.shards[1].reason = "no session starts are left";
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_IDENTIFYING);
  EXPECT_EQ(rescaler_->status().shards_ready(), 1u);
  EXPECT_EQ(
      rescaler_->status().reason(),
      "1 of 4 shards are READY; shard 1/4 is WAITING_TO_IDENTIFY: no session starts are left");

  parts_.progress.guilds = 9;
  parts_.progress.guilds_aligned = 3;
  parts_.progress.held_events = 5;
  parts_.progress.matched = 77;
  parts_.progress.waits_for = "6 guilds are not aligned";
  parts_.AllAre(ShardState::kReady);
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_ALIGNING);
  EXPECT_EQ(rescaler_->status().shards_ready(), 4u);
  EXPECT_EQ(rescaler_->status().guilds_aligned(), 3u);
  EXPECT_EQ(rescaler_->status().held_events(), 5u);
  EXPECT_EQ(rescaler_->status().matched(), 77u);
  EXPECT_EQ(rescaler_->status().reason(), "6 guilds are not aligned");

  parts_.progress.waits_for.clear();
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
  EXPECT_EQ(rescaler_->status().plan().identifies(), 4u);
  Tick(seconds(4));
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
  Tick(seconds(1));
  EXPECT_EQ(state(), v1::RESCALE_STATE_DONE);
  EXPECT_EQ(rescaler_->status().reason(), "");

  EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "switch", "retire 2"));
  EXPECT_EQ(Steps().back(), RescaleStep::kDone);
  ASSERT_EQ(parts_.told.size(), 4u);
  EXPECT_THAT(parts_.told[0], HasSubstr("{\"state\":\"IDENTIFYING\",\"from_shard_count\":2,"
                                        "\"to_shard_count\":4,\"generation\":1,\"reason\":\""));
  EXPECT_THAT(parts_.told[1], HasSubstr("\"state\":\"ALIGNING\""));
  EXPECT_EQ(parts_.told[2],
            "{\"state\":\"SWITCHED\",\"from_shard_count\":2,\"to_shard_count\":4,\"generation\":2,"
            "\"reason\":\"\"}");
  EXPECT_THAT(parts_.told[3], HasSubstr("\"state\":\"DONE\""));
  EXPECT_EQ(changes_, 5);
}

TEST_F(RescalerTest, TheRunningCountIsDoneAtOnceAndNothingBegins) {
  for (const bool dry_run : {false, true}) {
    const auto answer = Ask(2, dry_run);
    ASSERT_EQ(StateAfter(answer), v1::RESCALE_STATE_DONE);
    EXPECT_EQ(answer->from_shard_count(), 2u);
    EXPECT_EQ(answer->to_shard_count(), 2u);
    EXPECT_FALSE(answer->has_plan());
  }
  EXPECT_EQ(state(), v1::RESCALE_STATE_NONE);
  EXPECT_THAT(parts_.did, IsEmpty());
  EXPECT_THAT(parts_.records, IsEmpty());
}

TEST_F(RescalerTest, AControllerThatAsksAgainAndAgainDoesNoHarm) {
  Switch(4);
  EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_SWITCHED);
  Tick(seconds(6));
  ASSERT_EQ(state(), v1::RESCALE_STATE_DONE);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_DONE);
  EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "switch", "retire 2"));
}

TEST_F(RescalerTest, WhileOneRunsItsTargetAndZeroAreAnsweredByItsStatus) {
  Align(4);
  EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_ALIGNING);
  parts_.facts.recommended_shards = 16;
  EXPECT_EQ(StateAfter(Ask(0)), v1::RESCALE_STATE_ALIGNING);
  EXPECT_EQ(StateAfter(Ask(0, false, /*guilds_per_shard=*/10)), v1::RESCALE_STATE_ALIGNING);
  for (const uint32_t other : {2u, 8u}) {
    const auto refused = Ask(other).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(refused), reason::kRescaleRunning);
    EXPECT_EQ(ReasonOf(Ask(other, /*dry_run=*/true).status()), reason::kRescaleRunning);
  }
  EXPECT_THAT(parts_.did, ElementsAre("begin 2 4"));
}

TEST_F(RescalerTest, ZeroIsWhatTheGuildsOrDiscordAskFor) {
  EXPECT_EQ(Ask(0, true, 100)->to_shard_count(), 20u);
  parts_.facts.recommended_shards = 5;
  EXPECT_EQ(Ask(0, true)->to_shard_count(), 5u);
  parts_.facts.recommended_shards = 0;
  EXPECT_EQ(ReasonOf(Ask(0, true).status()), reason::kGatewayNotKnown);
  EXPECT_EQ(Ask(0, true, 100)->to_shard_count(), 20u);
}

TEST_F(RescalerTest, ADryRunBeginsNothing) {
  parts_.facts.budget.remaining = 3;
  const auto plan = Ask(4, /*dry_run=*/true);
  ASSERT_EQ(StateAfter(plan), v1::RESCALE_STATE_PLANNED);
  EXPECT_EQ(plan->plan().budget_after(), 0u);
  EXPECT_EQ(state(), v1::RESCALE_STATE_NONE);
  EXPECT_THAT(parts_.did, IsEmpty());
  EXPECT_THAT(parts_.records, IsEmpty());
}

TEST_F(RescalerTest, WhatIsRefusedAtItsStartLeavesNoTrace) {
  parts_.begin = Error(absl::StatusCode::kResourceExhausted, reason::kSessionBudgetSpent, "3 left");
  EXPECT_EQ(ReasonOf(Ask(4).status()), reason::kSessionBudgetSpent);
  EXPECT_EQ(state(), v1::RESCALE_STATE_NONE);
  EXPECT_THAT(parts_.records, IsEmpty());
  Tick();
  EXPECT_THAT(parts_.did, IsEmpty());
}

TEST_F(RescalerTest, RefusesWhatMakesNoSense) {
  EXPECT_EQ(ReasonOf(Ask(65536).status()), reason::kShardCountInvalid);
  EXPECT_EQ(ReasonOf(Ask(0, false, 2501).status()), reason::kGuildsPerShardInvalid);
  parts_.check = Error(absl::StatusCode::kFailedPrecondition, reason::kPartialPool, "half of them");
  EXPECT_EQ(ReasonOf(Ask(4).status()), reason::kPartialPool);
  EXPECT_EQ(ReasonOf(Ask(2).status()), reason::kPartialPool);
  // Stopped shards are no matter as long as none is started again.
  parts_.check = Error(absl::StatusCode::kFailedPrecondition, reason::kShardNotRunning, "stopped");
  EXPECT_EQ(ReasonOf(Ask(4).status()), reason::kShardNotRunning);
  EXPECT_EQ(StateAfter(Ask(2)), v1::RESCALE_STATE_DONE);
}

TEST_F(RescalerTest, CancelBeforeTheSwitchGoesBack) {
  for (const auto before :
       {v1::RESCALE_STATE_PLANNED, v1::RESCALE_STATE_IDENTIFYING, v1::RESCALE_STATE_ALIGNING}) {
    parts_.did.clear();
    if (before == v1::RESCALE_STATE_ALIGNING) {
      Align(4);
    } else {
      ASSERT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_PLANNED);
      if (before == v1::RESCALE_STATE_IDENTIFYING) Tick();
    }
    ASSERT_EQ(state(), before);
    EXPECT_EQ(StateAfter(rescaler_->Cancel()), v1::RESCALE_STATE_CANCELLED);
    EXPECT_EQ(state(), v1::RESCALE_STATE_CANCELLED);
    EXPECT_EQ(parts_.records.back().step, RescaleStep::kCancelled);
    Tick();
    EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "roll back 4"));
  }
  // It may be asked for again at once.
  EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_PLANNED);
}

TEST_F(RescalerTest, CancelBehindTheSwitchIsTooLate) {
  Switch(4);
  const auto refused = rescaler_->Cancel().status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(refused), reason::kRescaleSwitched);
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
}

TEST_F(RescalerTest, CancelWithNothingUnderWaySaysWhatWasLast) {
  EXPECT_EQ(StateAfter(rescaler_->Cancel()), v1::RESCALE_STATE_NONE);
  Switch(4);
  Tick(seconds(6));
  EXPECT_EQ(StateAfter(rescaler_->Cancel()), v1::RESCALE_STATE_DONE);
}

TEST_F(RescalerTest, ANewShardThatIsRefusedEndsItWithDiscordsReason) {
  for (const ShardState dead : {ShardState::kFailed, ShardState::kCrashLoop}) {
    NextProcess();
    parts_.did.clear();
    ASSERT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_PLANNED);
    Tick();
    parts_.AllAre(ShardState::kReady);
    parts_.shards[2].state = dead;
    parts_.shards[2].reason = "4014: intents \"that\" are not allowed";
    Tick();
    EXPECT_EQ(state(), v1::RESCALE_STATE_FAILED);
    EXPECT_THAT(rescaler_->status().reason(), HasSubstr("shard 2/4 is "));
    EXPECT_THAT(rescaler_->status().reason(), HasSubstr("4014"));
    EXPECT_THAT(parts_.told.back(), HasSubstr("4014: intents \\\"that\\\" are not allowed"));
    EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "roll back 4"));
    EXPECT_EQ(parts_.records.back().step, RescaleStep::kFailed);
    EXPECT_THAT(parts_.records.back().reason, HasSubstr("4014"));
  }
}

TEST_F(RescalerTest, AnOverlapThatCannotGoOnEndsIt) {
  Align(4);
  parts_.progress.failure = "--rescale-held-bytes is full";
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_FAILED);
  EXPECT_EQ(rescaler_->status().reason(), "--rescale-held-bytes is full");
  EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "roll back 4"));
}

TEST_F(RescalerTest, ATargetThatFailedIsTriedAgainOnlyAfterAPause) {
  Align(4);
  parts_.progress.failure = "full";
  Tick();
  parts_.progress.failure.reset();
  const auto failed = Ask(4);
  ASSERT_EQ(StateAfter(failed), v1::RESCALE_STATE_FAILED);
  EXPECT_GT(failed->retry_at().seconds(), 1'700'000'000);
  EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "roll back 4"));
  clock_.Advance(seconds(60));
  EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_PLANNED);
  EXPECT_FALSE(rescaler_->status().has_retry_at());
  // The next pause is longer.
  parts_.progress.failure = "full";
  Tick();
  parts_.progress.failure.reset();
  clock_.Advance(seconds(60));
  EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_FAILED);
  // Another target is another matter, and Cancel ends the pause.
  EXPECT_EQ(StateAfter(rescaler_->Cancel()), v1::RESCALE_STATE_FAILED);
  EXPECT_FALSE(rescaler_->status().has_retry_at());
  EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_PLANNED);
  parts_.progress.failure = "full";
  Tick();
  EXPECT_EQ(StateAfter(Ask(8)), v1::RESCALE_STATE_PLANNED);
}

TEST_F(RescalerTest, GivesUpAfterItsTimeCountedFromWhenAllAreReady) {
  ASSERT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_PLANNED);
  Tick(std::chrono::hours(3));
  EXPECT_EQ(state(), v1::RESCALE_STATE_IDENTIFYING);
  parts_.AllAre(ShardState::kReady);
  parts_.progress.waits_for = "guild 7 is not aligned";
  Tick();
  Tick(milliseconds(59'999));
  EXPECT_EQ(state(), v1::RESCALE_STATE_ALIGNING);
  Tick(milliseconds(1));
  EXPECT_EQ(state(), v1::RESCALE_STATE_FAILED);
  EXPECT_THAT(rescaler_->status().reason(), HasSubstr("--rescale-timeout (60 s)"));
  EXPECT_THAT(rescaler_->status().reason(), HasSubstr("guild 7 is not aligned"));
}

TEST_F(RescalerTest, DoesNotSwitchWhileANewShardIsAway) {
  Align(4);
  parts_.progress.waits_for.clear();
  parts_.shards[3].state = ShardState::kResuming;
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_ALIGNING);
  EXPECT_EQ(rescaler_->status().reason(), "3 of 4 shards are READY; shard 3/4 is RESUMING");
  parts_.shards[3].state = ShardState::kReady;
  parts_.switches = false;
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_ALIGNING);
  parts_.switches = true;
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
}

TEST_F(RescalerTest, KeepsTheOldShardsWhileSomethingMayStillCome) {
  parts_.has_drained = false;
  Switch(4);
  Tick(seconds(10));
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
  parts_.has_drained = true;
  parts_.all_sent_on = false;
  Tick(seconds(10));
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
  parts_.all_sent_on = true;
  Tick();
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_DONE);
  EXPECT_EQ(rescaler_->status().reason(), "");
}

TEST_F(RescalerTest, KeepsTheOldShardsWhileANewOneHasNoSession) {
  Switch(4);
  parts_.shards[1].state = ShardState::kBackingOff;
  parts_.has_drained = false;
  Tick(seconds(50));
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
  parts_.shards[1].state = ShardState::kReady;
  parts_.has_drained = true;
  Tick();
  EXPECT_EQ(state(), v1::RESCALE_STATE_DONE);
  EXPECT_EQ(rescaler_->status().reason(), "");
}

TEST_F(RescalerTest, ClosesTheOldShardsAtLastAndSaysWhatWasNotWaitedFor) {
  parts_.has_drained = false;
  Switch(4);
  Tick(milliseconds(34'999));
  EXPECT_EQ(state(), v1::RESCALE_STATE_SWITCHED);
  Tick(milliseconds(1));
  EXPECT_EQ(state(), v1::RESCALE_STATE_DONE);
  EXPECT_THAT(rescaler_->status().reason(), HasSubstr("before the new one had brought"));

  parts_.has_drained = true;
  parts_.all_sent_on = false;
  Switch(8);
  Tick(seconds(35));
  EXPECT_THAT(rescaler_->status().reason(), HasSubstr("calls"));
  // What is left is sent all the same.
  const int before = parts_.sent_on;
  Tick();
  EXPECT_EQ(parts_.sent_on, before + 1);
  parts_.all_sent_on = true;
  Tick();
  Tick();
  EXPECT_EQ(parts_.sent_on, before + 2);
}

TEST_F(RescalerTest, AsksForFreshProofsEveryTwoSeconds) {
  Align(4);
  const int before = parts_.beats;
  for (int i = 0; i < 100; ++i) Tick(milliseconds(100));
  EXPECT_EQ(parts_.beats - before, 5);
}

TEST_F(RescalerTest, AStopOfTheServerRollsBackBeforeTheSwitch) {
  Align(4);
  rescaler_->Stop();
  EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "roll back 4"));
  EXPECT_EQ(parts_.records.back().step, RescaleStep::kFailed);
  EXPECT_THAT(parts_.records.back().reason, HasSubstr("stopped"));
  EXPECT_EQ(ReasonOf(Ask(4).status()), reason::kServerStopping);
}

TEST_F(RescalerTest, AStopOfTheServerBehindTheSwitchClosesTheOldShards) {
  Switch(4);
  rescaler_->Stop();
  EXPECT_THAT(parts_.did, ElementsAre("begin 2 4", "switch", "retire 2"));
  EXPECT_EQ(parts_.records.back().step, RescaleStep::kDone);
}

TEST_F(RescalerTest, TheNextProcessSaysHowTheLastOnesEnded) {
  events::RescaleRecord record{
      .from_shard_count = 2, .to_shard_count = 4, .step = RescaleStep::kRunning, .reason = ""};
  rescaler_->Resume(record);
  EXPECT_EQ(state(), v1::RESCALE_STATE_FAILED);
  EXPECT_THAT(rescaler_->status().reason(), HasSubstr("the server ended before the switch"));
  EXPECT_EQ(parts_.records.back().step, RescaleStep::kFailed);
  EXPECT_THAT(parts_.told.back(), HasSubstr("\"state\":\"FAILED\""));
  // A controller's next call begins it again.
  EXPECT_EQ(StateAfter(Ask(4)), v1::RESCALE_STATE_PLANNED);

  NextProcess();
  record.step = RescaleStep::kSwitched;
  rescaler_->Resume(record);
  EXPECT_EQ(state(), v1::RESCALE_STATE_DONE);
  EXPECT_EQ(parts_.records.back().step, RescaleStep::kDone);
  EXPECT_THAT(parts_.told.back(), HasSubstr("\"state\":\"DONE\""));

  // What had ended is not told again.
  for (const auto& [step, shown] : {std::pair(RescaleStep::kDone, v1::RESCALE_STATE_DONE),
                                    {RescaleStep::kCancelled, v1::RESCALE_STATE_CANCELLED},
                                    {RescaleStep::kFailed, v1::RESCALE_STATE_FAILED}}) {
    NextProcess();
    record.step = step;
    record.reason = "as it was";
    const size_t told = parts_.told.size(), records = parts_.records.size();
    rescaler_->Resume(record);
    EXPECT_EQ(state(), shown);
    EXPECT_EQ(rescaler_->status().reason(), "as it was");
    EXPECT_EQ(rescaler_->status().to_shard_count(), 4u);
    EXPECT_EQ(parts_.told.size(), told);
    EXPECT_EQ(parts_.records.size(), records);
  }
}

TEST_F(RescalerTest, ItsThreadTicksWhileOneIsUnderWay) {
  std::mutex mutex;
  std::condition_variable changed;
  int changes = 0;
  const RealClock clock;
  parts_.is_ready_at_once = true;
  Rescaler rescaler({.drain = milliseconds(0), .clock = &clock, .tick = milliseconds(1)}, parts_,
                    [&] {
                      const std::lock_guard lock(mutex);
                      ++changes;
                      changed.notify_all();
                    });
  v1::RescaleRequest request;
  request.set_shard_count(4);
  ASSERT_TRUE(rescaler.Rescale(request).ok());
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, seconds(10), [&] { return changes == 5; }));
  }
  EXPECT_EQ(rescaler.status().state(), v1::RESCALE_STATE_DONE);
}

}  // namespace
}  // namespace shardd::server
