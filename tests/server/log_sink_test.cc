#include "server/log_sink.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "support/temp_dir.h"

namespace shardd::server {
namespace {

using ::testing::ElementsAre;

constexpr ShardId kShard{3, 16};
constexpr ShardId kOther{4, 16};

// A sink, and what a process that finds its log knows of the shards.
class LogSinkTest : public ::testing::Test {
 protected:
  LogSinkTest() { Open(); }

  void Open() {
    sink_.reset();
    overlap_.reset();
    log_.reset();
    auto log = events::Log::Open({.dir = dir_.path(), .retain_bytes = events::kMinRetainBytes});
    ASSERT_TRUE(log.ok()) << log.status();
    log_ = *std::move(log);
    overlap_ = std::make_unique<Overlap>(*log_, OverlapOptions{});
    sink_ = std::make_unique<LogSink>(*log_, *overlap_, board_, [] {});
  }
  // As if the process had been killed now.
  events::State StateAfterKill() {
    const test::TempDir copy;
    std::filesystem::copy(dir_.path(), copy.path(), std::filesystem::copy_options::recursive);
    const auto log =
        events::Log::Open({.dir = copy.path(), .retain_bytes = events::kMinRetainBytes});
    EXPECT_TRUE(log.ok()) << log.status();
    return (*log)->state_at_open();
  }
  std::optional<events::SessionRecord> Session(ShardId shard = kShard) {
    return StateAfterKill().shards[shard].session;
  }

  void Ready(uint32_t session, const std::string& id, ShardId shard = kShard) {
    sink_->OnSessionOpened({.shard = shard,
                            .session = session,
                            .id = id,
                            .resume_url = "wss://resume.example",
                            .intents = 513});
    Dispatch(session, 1, "READY", shard);
  }
  void Dispatch(uint32_t session, uint64_t sequence, std::string_view type = "X",
                ShardId shard = kShard, std::string_view data = "{}") {
    sink_->OnDispatch({.shard = shard,
                       .session = session,
                       .sequence = sequence,
                       .type = type,
                       .data = data,
                       .received_unix_nanos = 1'000'000 + static_cast<int64_t>(sequence)});
  }

  const test::TempDir dir_;
  std::unique_ptr<events::Log> log_;
  ShardBoard board_;
  std::unique_ptr<Overlap> overlap_;
  std::unique_ptr<LogSink> sink_;
};

TEST_F(LogSinkTest, WhatIsFlushedIsWhatTheNextProcessResumesFrom) {
  Ready(1, "abc");
  sink_->Flush();
  EXPECT_EQ(Session(), (events::SessionRecord{.id = "abc",
                                              .resume_url = "wss://resume.example",
                                              .intents = 513,
                                              .last_sequence = 1,
                                              .last_event_unix_nanos = 1'000'001}));
  Dispatch(1, 2);
  Dispatch(1, 3);
  EXPECT_EQ(Session()->last_sequence, 1u);
  sink_->Flush();
  EXPECT_EQ(Session()->last_sequence, 3u);
  EXPECT_EQ(Session()->last_event_unix_nanos, 1'000'003);
}

TEST_F(LogSinkTest, ASkippedEventCountsAsSettled) {
  Ready(1, "abc");
  sink_->OnSkippedEvent({.shard = kShard, .session = 1, .sequence = 2, .type = "X"});
  sink_->Flush();
  EXPECT_EQ(Session()->last_sequence, 2u);
}

TEST_F(LogSinkTest, WhatShardDSaysItselfMovesNoSequence) {
  Ready(1, "abc");
  Dispatch(1, 2);
  sink_->OnSilence({.shard = kShard, .session = 1, .lasted = std::chrono::seconds(1)});
  Dispatch(1, 0, "WITHOUT_A_NUMBER");
  sink_->Flush();
  EXPECT_EQ(Session()->last_sequence, 2u);
}

TEST_F(LogSinkTest, AnEndedSessionIsGoneAndItsNumberIsNot) {
  Ready(1, "abc");
  Ready(7, "other", kOther);
  sink_->OnSessionLost({.shard = kShard, .session = 1, .last_sequence = 1, .reason = "op 9"});
  sink_->OnSessionEnded(kShard, 1);
  sink_->Flush();
  const events::State state = StateAfterKill();
  EXPECT_EQ(state.shards.at(kShard), (events::ShardRecord{.wanted = true, .last_session = 1}));
  EXPECT_EQ(state.shards.at(kOther).session->id, "other");
  Ready(2, "def");
  sink_->Flush();
  EXPECT_EQ(Session()->id, "def");
  EXPECT_EQ(Session()->last_sequence, 1u);
}

// A round is appended early when it grows, but never between a session and its READY.
TEST_F(LogSinkTest, ASessionStandsInTheLogWithItsReadyOrNotAtAll) {
  const std::string large(kMaxRoundBytes - 400, 'x');
  for (size_t more = 0; more < 400; more += 20) {
    const uint32_t session = static_cast<uint32_t>(more) + 1;
    Dispatch(99, 1, "X", kOther, large + std::string(more, 'x'));
    sink_->OnSessionOpened({.shard = kShard, .session = session, .id = "abc"});
    const auto known = [&] { return log_->state().shards[kShard].last_session == session; };
    ASSERT_FALSE(known()) << more;
    Dispatch(session, 1, "READY");
    ASSERT_FALSE(known()) << more;
    sink_->Flush();
    ASSERT_TRUE(known()) << more;
  }
}

TEST_F(LogSinkTest, SessionsOutliveTheirEventsInTheLog) {
  Ready(1, "quiet");
  sink_->Flush();
  const std::string large(16 << 10, 'x');
  for (uint64_t sequence = 2; log_->oldest() < 10; ++sequence) {
    Dispatch(5, sequence, "X", kOther, large);
    sink_->Flush();
  }
  EXPECT_EQ(Session()->id, "quiet");
  EXPECT_EQ(Session()->last_sequence, 1u);
  Open();
  EXPECT_EQ(log_->state_at_open().shards.at(kShard).session->last_sequence, 1u);
}

}  // namespace
}  // namespace shardd::server
