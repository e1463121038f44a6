#include "server/overlap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "rescale/event_key.h"
#include "server/log_sink.h"
#include "shardd/v1/shardd.pb.h"
#include "support/temp_dir.h"

namespace shardd::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ShardId kOld{0, 1};
constexpr ShardId kNew0{0, 2};
constexpr ShardId kNew1{1, 2};
constexpr uint64_t kGuild = uint64_t{2} << 22;  // of kNew0
constexpr uint64_t kRetain = 64 * events::kMinRetainBytes;

class FakeClock final : public Clock {
 public:
  SteadyTime Steady() const override { return now; }
  WallTime Wall() const override { return WallTime(now.time_since_epoch()); }

  SteadyTime now{std::chrono::hours(10)};
};

// Two generations that talk to the log through their sinks, as the shards do.
class OverlapTest : public ::testing::Test {
 protected:
  OverlapTest() {
    options_.clock = &clock_;
    Open(dir_.path());
    events::Round round;
    round.Add(events::ShardWanted{.shard = kOld});
    round.Add(events::GenerationBegun{.generation = 1, .shard_count = 1});
    log_->Append(round);
    Ready(kOld, 1);
    SetState(kOld, gateway::ShardState::kReady);
    sink_->Flush();
  }

  void Open(const std::string& dir) {
    sink_.reset();
    overlap_.reset();
    log_.reset();
    auto log = events::Log::Open({.dir = dir, .retain_bytes = kRetain});
    ASSERT_TRUE(log.ok()) << log.status();
    log_ = *std::move(log);
    overlap_ = std::make_unique<Overlap>(*log_, options_);
    sink_ = std::make_unique<LogSink>(*log_, *overlap_, board_, [] {});
  }
  // The process is killed, and the next one finds what it has left.
  void Kill() {
    sink_->Flush();
    std::filesystem::copy(dir_.path(), left_.path(), std::filesystem::copy_options::recursive);
    Open(left_.path());
  }

  void Begin() {
    overlap_->Begin(1, 2, std::vector{Info(kOld, gateway::ShardState::kReady)});
    for (const ShardId shard : {kNew0, kNew1}) {
      SetState(shard, gateway::ShardState::kIdentifying);
      Ready(shard, 7);
      SetState(shard, gateway::ShardState::kReady);
    }
    clock_.now += std::chrono::seconds(6);
    Beat();
  }
  // Every shard has acknowledged a heartbeat.
  void Beat() {
    for (const ShardId shard : {kOld, kNew0, kNew1}) {
      overlap_->OnHeartbeatAck(shard, clock_.now);
    }
  }
  bool Switch() {
    return overlap_->Switch(
        clock_.now,
        std::vector<events::StateChange>{events::GenerationBegun{.generation = 2, .shard_count = 2},
                                         events::ShardWanted{.shard = kNew0},
                                         events::ShardWanted{.shard = kNew1}},
        "{\"state\":\"SWITCHED\"}");
  }

  void Ready(ShardId shard, uint32_t session) {
    sink_->OnSessionOpened({.shard = shard, .session = session, .id = "id", .intents = 1});
    Say(shard, session, 1, "READY", R"({"v":10,"session_id":"id","user":{"id":"99"},"guilds":[]})",
        0);
  }
  void SetState(ShardId shard, gateway::ShardState state) {
    sink_->OnStateChange(Info(shard, state));
  }
  static gateway::ShardInfo Info(ShardId shard, gateway::ShardState state) {
    gateway::ShardInfo info;
    info.shard = shard;
    info.state = state;
    return info;
  }
  void Say(ShardId shard, uint32_t session, uint64_t sequence, std::string_view type,
           std::string_view data, uint64_t guild = kGuild) {
    std::string padded(data);
    padded.append(64, '\0');
    sink_->OnDispatch({.shard = shard,
                       .session = session,
                       .sequence = sequence,
                       .guild_id = guild,
                       .type = type,
                       .data = std::string_view(padded).substr(0, data.size()),
                       .received_unix_nanos = 5});
  }
  void Message(ShardId shard, uint64_t sequence, int id) {
    Say(shard, shard == kOld ? 1 : 7, sequence, "MESSAGE_CREATE",
        "{\"id\":\"" + std::to_string(id) + "\"}");
  }

  // The log's messages, as "ID/SHARD_COUNT", and where the switch stands among them.
  std::vector<std::string> Messages() {
    sink_->Flush();
    std::vector<std::string> found;
    for (uint64_t at = log_->oldest(); at < log_->end();) {
      const events::Run run = log_->Read(at, {});
      v1::EventBatch batch;
      EXPECT_TRUE(batch.ParseFromString(std::string(run.bytes())));
      for (const auto& event : batch.events()) {
        if (event.type() == "MESSAGE_CREATE") {
          found.push_back(event.data().substr(7, event.data().size() - 9) + "/" +
                          std::to_string(event.shard_count()));
        } else if (event.type() == "SHARDD_RESCALE") {
          found.emplace_back("switch");
        } else if (event.type() == "READY") {
          found.emplace_back("READY/" + std::to_string(event.shard_count()));
        }
      }
      at = run.next;
    }
    return found;
  }

  // Of that type in the log.
  int CountOf(std::string_view type) {
    int count = 0;
    for (uint64_t at = log_->oldest(); at < log_->end();) {
      const events::Run run = log_->Read(at, {});
      v1::EventBatch batch;
      EXPECT_TRUE(batch.ParseFromString(std::string(run.bytes())));
      for (const auto& event : batch.events()) count += event.type() == type ? 1 : 0;
      at = run.next;
    }
    return count;
  }

  FakeClock clock_;
  OverlapOptions options_;
  const test::TempDir dir_;
  const test::TempDir left_;
  std::unique_ptr<events::Log> log_;
  ShardBoard board_;
  std::unique_ptr<Overlap> overlap_;
  std::unique_ptr<LogSink> sink_;
};

TEST_F(OverlapTest, SinksGoPastItWhileThereIsOneGeneration) {
  EXPECT_FALSE(overlap_->is_active());
  Message(kOld, 2, 1);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/1"));
}

TEST_F(OverlapTest, EventsThatBothBringAreInTheLogOnceWhicheverIsAhead) {
  Begin();
  Message(kOld, 2, 1);
  Message(kNew0, 2, 1);
  Message(kNew0, 3, 2);
  Message(kOld, 3, 2);
  ASSERT_TRUE(Switch());
  Message(kNew0, 4, 3);
  Message(kOld, 4, 3);
  Message(kOld, 5, 4);
  Message(kNew0, 5, 4);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/1", "2/1", "switch", "3/2", "4/2"));
}

TEST_F(OverlapTest, WhatTheNewOneIsAheadGoesInWithTheSwitchAndWhatItIsBehindIsDroppedAfterIt) {
  Begin();
  Message(kNew0, 2, 1);
  Message(kNew0, 3, 2);
  ASSERT_TRUE(Switch());
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "switch", "1/2", "2/2"));
  Message(kOld, 2, 1);
  Message(kOld, 3, 2);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "switch", "1/2", "2/2"));
}

TEST_F(OverlapTest, AfterAKillBehindTheSwitchTheNewSessionsCopiesAreDropped) {
  Begin();
  Message(kOld, 2, 1);
  Message(kOld, 3, 2);
  Message(kNew0, 2, 1);
  ASSERT_TRUE(Switch());
  Kill();
  const events::State& state = log_->state_at_open();
  EXPECT_EQ(state.shard_count, 2);
  ASSERT_EQ(state.shards.size(), 2);
  EXPECT_EQ(state.shards.at(kNew0).last_session, 7);
  EXPECT_EQ(state.shards.at(kNew0).session->last_sequence, 2);
  ASSERT_TRUE(overlap_->is_active());
  Message(kNew0, 3, 2);
  EXPECT_FALSE(overlap_->is_active());
  Message(kNew0, 4, 3);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/1", "2/1", "switch", "3/2"));
  EXPECT_TRUE(log_->state().copies.empty());
  EXPECT_EQ(log_->state().shards.at(kNew0).session->last_sequence, 4);
}

TEST_F(OverlapTest, AfterAKillBeforeTheSwitchTheOldSessionsCopiesOfEarlyEventsAreDropped) {
  Begin();
  Message(kNew0, 2, 1);
  clock_.now += std::chrono::seconds(6);
  overlap_->Tick(clock_.now);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/2"));
  Kill();
  ASSERT_TRUE(overlap_->is_active());
  Message(kOld, 2, 1);
  Message(kOld, 3, 2);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/2", "2/1"));
  EXPECT_FALSE(overlap_->is_active());
  EXPECT_EQ(log_->state().shards.at(kOld).session->last_sequence, 3);
}

TEST_F(OverlapTest, ACancelledRescaleLeavesTheOldGenerationAsItWas) {
  Begin();
  Message(kNew0, 2, 1);
  overlap_->Cancel();
  Message(kNew0, 3, 2);
  Message(kOld, 2, 1);
  overlap_->Finish();
  Message(kOld, 3, 2);
  EXPECT_FALSE(overlap_->is_active());
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/1", "2/1"));
}

TEST_F(OverlapTest, FailsWhenMoreWaitsThanItMayHoldAndLosesNothing) {
  options_.max_held_bytes = 1000;
  overlap_ = std::make_unique<Overlap>(*log_, options_);
  sink_ = std::make_unique<LogSink>(*log_, *overlap_, board_, [] {});
  Begin();
  for (int i = 0; i < 20; ++i) Message(kNew0, static_cast<uint64_t>(2 + i), i);
  const auto progress = overlap_->Tick(clock_.now);
  ASSERT_TRUE(progress.failure.has_value());
  EXPECT_THAT(*progress.failure, HasSubstr("--rescale-held-bytes"));
  EXPECT_FALSE(Switch());
  overlap_->Cancel();
  overlap_->Finish();
  for (int i = 0; i < 3; ++i) Message(kOld, static_cast<uint64_t>(2 + i), i);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "0/1", "1/1", "2/1"));
}

TEST_F(OverlapTest, ALostSessionInChargeIsCoveredByTheNewOne) {
  Begin();
  Message(kNew0, 2, 1);
  sink_->OnSessionLost({.shard = kOld, .session = 1, .reason = "op 9"});
  sink_->OnSessionEnded(kOld, 1);
  Message(kNew0, 3, 2);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/2", "2/2"));
}

TEST_F(OverlapTest, CopiesThatALostSessionWasToBringAreNotExpectedOfTheNextProcess) {
  Begin();
  sink_->OnSessionLost({.shard = kOld, .session = 1, .reason = "op 9"});
  sink_->OnSessionEnded(kOld, 1);
  Say(kNew0, 7, 2, "TYPING_START", "{}");  // early
  SetState(kOld, gateway::ShardState::kIdentifying);
  Ready(kOld, 2);
  SetState(kOld, gateway::ShardState::kReady);
  Kill();
  EXPECT_TRUE(log_->state_at_open().copies.empty());
  // One of equal content.
  Say(kOld, 2, 2, "TYPING_START", "{}");
  sink_->Flush();
  EXPECT_EQ(CountOf("TYPING_START"), 2);
}

TEST_F(OverlapTest, CopiesThatHaveNotComeInTimeAreNotExpectedOfTheNextProcess) {
  Begin();
  Say(kNew0, 7, 2, "TYPING_START", "{}");
  clock_.now += std::chrono::seconds(6);
  Beat();
  overlap_->Tick(clock_.now);  // in the log by itself
  clock_.now += std::chrono::seconds(6);
  Beat();
  overlap_->Tick(clock_.now);
  Kill();
  EXPECT_TRUE(log_->state_at_open().copies.empty());
}

TEST_F(OverlapTest, AnotherGenerationsEventsGoInThoughCopiesOfADiscardedOneWereExpected) {
  Begin();
  Message(kOld, 2, 1);
  ASSERT_TRUE(Switch());
  options_.forgets_copies = true;  // --reset-generation
  Kill();
  EXPECT_FALSE(overlap_->is_active());
  events::Round round;
  round.Add(events::GenerationBegun{.generation = 2, .shard_count = 0});
  log_->Append(round);
  EXPECT_TRUE(log_->state().copies.empty());
  constexpr ShardId kOther{0, 3};
  Ready(kOther, 8);
  Say(kOther, 8, 2, "MESSAGE_CREATE", "{\"id\":\"2\"}");
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/1", "switch", "READY/3", "2/3"));
}

TEST_F(OverlapTest, KnowsAShardToBeReadyByItsHeartbeatThoughItBeganWithAnOlderState) {
  overlap_->Begin(1, 2, std::vector{Info(kOld, gateway::ShardState::kResuming)});
  for (const ShardId shard : {kNew0, kNew1}) {
    SetState(shard, gateway::ShardState::kIdentifying);
    Ready(shard, 7);
    SetState(shard, gateway::ShardState::kReady);
  }
  clock_.now += std::chrono::seconds(6);
  Beat();
  Message(kNew0, 2, 1);
  clock_.now += std::chrono::seconds(6);
  overlap_->Tick(clock_.now);
  EXPECT_THAT(Messages(), ElementsAre("READY/1", "1/2"));
}

TEST_F(OverlapTest, SaysWhatItWaitsFor) {
  overlap_->Begin(1, 2, std::vector{Info(kOld, gateway::ShardState::kReady)});
  EXPECT_EQ(overlap_->Tick(clock_.now).waits_for, "shard 0/2 is not ready");
  EXPECT_FALSE(Switch());
}

}  // namespace
}  // namespace shardd::server
