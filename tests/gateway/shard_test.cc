#include "gateway/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/recorder.h"
#include "support/fake_transport.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

// One shard on stand-ins for connections. Step() lets everything happen that can.
class ShardTest : public ::testing::Test {
 protected:
  ShardTest() {
    const SteadyTime now = clock_.Steady();
    gate_.SetLimits({.total = 10, .remaining = 10, .asked_at = now, .read_at = now}, now);
    ProtocolOptions options;
    options.token = "token";
    options.timings.retry.first = 1ms;
    options.timings.retry.longest = 1ms;
    options.timings.invalid_session_pause_min = 1ms;
    options.timings.invalid_session_pause_max = 1ms;
    shard_ = std::make_unique<Shard>(options, &context_);
    shard_->SetGatewayUrl("ws://main.example");
    shard_->published = &published_;
  }
  ~ShardTest() override {
    shard_->Stop(false);
    shard_->AbortConnections();
    io_.restart();
    io_.run();
  }

  void Step() {
    io_.restart();
    io_.poll();
    sink_->Flush();
  }
  void WaitFor(ShardState state) {
    io_.restart();
    while (shard_->info().state != state) ASSERT_GT(io_.run_one_for(5s), 0u);
    Step();
  }

  // The number that names it to CancelSend and in results_.
  uint64_t Send(uint32_t op, std::string_view data,
                std::optional<std::chrono::milliseconds> within = std::nullopt) {
    const uint64_t id = ++last_send_;
    SendRequest request{.id = id,
                        .command = {},
                        .deadline = std::nullopt,
                        .reply = SendReply([this, id](const SendResult& result) {
                          EXPECT_TRUE(results_.emplace(id, result).second);
                        })};
    EXPECT_EQ(MakeCommand(op, data, &request.command), CommandFault::kNone);
    if (within) request.deadline = clock_.Steady() + *within;
    shard_->Send(std::move(request));
    return id;
  }
  SendOutcome OutcomeOf(uint64_t id) const { return results_.at(id).outcome; }
  bool Waits(uint64_t id) const { return !results_.contains(id); }

  FakeConnection& last() { return *connections_.back(); }
  void BecomeReady(int heartbeat_interval = 41250) {
    shard_->Start();
    Step();
    FinishConnecting(heartbeat_interval);
  }
  void FinishConnecting(int heartbeat_interval = 41250) {
    last().Accept();
    last().Bring(R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":)" +
                 std::to_string(heartbeat_interval) + "}}");
    last().Bring(R"({"t":"READY","s":1,"op":0,"d":{"session_id":"abc"}})");
    Step();
    ASSERT_EQ(shard_->info().state, ShardState::kReady);
  }

  std::map<uint64_t, SendResult> results_;
  uint64_t last_send_ = 0;
  RealClock clock_;
  Recorder recorder_;
  std::unique_ptr<EventSink> sink_ = recorder_.MakeSink();
  IdentifyGate gate_{{.window = 0ms}, clock_.Steady()};
  SendMemberLimit members_;
  asio::io_context io_;
  std::vector<std::shared_ptr<FakeConnection>> connections_;
  ShardInfo published_;
  ShardContext context_{.io = io_,
                        .sink = *sink_,
                        .gate = gate_,
                        .members = members_,
                        .clock = clock_,
                        .make_transport =
                            [this](const std::string&) {
                              connections_.push_back(std::make_shared<FakeConnection>(io_));
                              return std::make_unique<FakeTransport>(connections_.back());
                            },
                        .reader = {},
                        .buffer = {},
                        .changed = {}};
  std::unique_ptr<Shard> shard_;
};

TEST_F(ShardTest, BecomesReadyAndHandsOnDispatches) {
  BecomeReady();
  last().Bring(R"({"t":"X","s":2,"op":0,"d":{"a":1}})");
  Step();
  EXPECT_THAT(last().url, StartsWith("ws://main.example/?v=10"));
  EXPECT_THAT(last().written, ElementsAre(HasSubstr("\"op\":2")));
  EXPECT_THAT(recorder_.Dispatches({0, 1}, 1), SizeIs(2));
  EXPECT_EQ(gate_.budget(clock_.Steady()).remaining, 9u);
}

TEST_F(ShardTest, WritesComeOneAfterTheOther) {
  BecomeReady();
  last().hold_writes = true;
  for (int i = 0; i < 5; ++i) last().Bring(R"({"op":1})");
  Step();
  for (int i = 0; i < 5; ++i) {
    last().FinishWrite();
    Step();
  }
  EXPECT_EQ(last().most_writes_at_once, 1);
  EXPECT_THAT(last().written, SizeIs(6));
}

TEST_F(ShardTest, HeartbeatsThatAreNotReadDoNotFillTheMemory) {
  BecomeReady();
  last().hold_writes = true;
  for (int i = 0; i < 1000; ++i) last().Bring(R"({"op":1})");
  Step();
  last().writes_allowed = 1000;
  last().Wake();
  Step();
  EXPECT_LE(last().written.size(), 20u);
}

TEST_F(ShardTest, TheSinkIsFlushedBeforeAHeartbeat) {
  BecomeReady();
  const uint64_t before = recorder_.flushes();
  last().Bring(R"({"t":"X","s":2,"op":0,"d":{}})");
  last().Bring(R"({"op":1})");
  io_.restart();
  io_.poll();
  EXPECT_EQ(recorder_.flushes(), before + 1);
  EXPECT_EQ(last().written.back(), R"({"op":1,"d":2})");
  EXPECT_THAT(recorder_.Dispatches({0, 1}, 1), SizeIs(2));
}

TEST_F(ShardTest, TheSinkKnowsOfAnIdentifyBeforeItIsSent) {
  shard_->Start();
  Step();
  last().Accept();
  last().Bring(R"({"op":10,"d":{"heartbeat_interval":41250}})");
  io_.restart();
  io_.poll();
  EXPECT_THAT(last().written, ElementsAre(HasSubstr("\"op\":2")));
  // Without a flush of its own round.
  ASSERT_THAT(recorder_.states({0, 1}), Not(SizeIs(0)));
  EXPECT_EQ(recorder_.states({0, 1}).back().state, ShardState::kIdentifying);
}

TEST_F(ShardTest, AnExtraBeatIsFlushedBeforeAndItsAckIsTold) {
  BecomeReady();
  const SteadyTime before = clock_.Steady();
  last().Bring(R"({"t":"X","s":2,"op":0,"d":{}})");
  io_.restart();
  io_.poll();
  shard_->Beat();
  EXPECT_THAT(recorder_.Dispatches({0, 1}, 1), SizeIs(2));
  Step();
  EXPECT_EQ(last().written.back(), R"({"op":1,"d":2})");
  const SteadyTime after = clock_.Steady();
  EXPECT_THAT(recorder_.acks({0, 1}), SizeIs(0));
  last().Bring(R"({"op":11})");
  Step();
  ASSERT_THAT(recorder_.acks({0, 1}), SizeIs(1));
  EXPECT_GE(recorder_.acks({0, 1})[0], before);
  EXPECT_LE(recorder_.acks({0, 1})[0], after);
}

TEST_F(ShardTest, ExtraBeatsKeepToDiscordsLimit) {
  BecomeReady();
  for (int i = 0; i < 300; ++i) {
    const size_t written = last().written.size();
    const SteadyTime before = clock_.Steady();
    shard_->Beat();
    Step();
    if (last().written.size() == written) continue;
    last().Bring(R"({"op":11})");
    Step();
    // Those that were left out have not mixed up whose ACK is whose.
    EXPECT_GE(recorder_.acks({0, 1}).back(), before);
  }
  EXPECT_EQ(last().written.size(), SendQueue::kPayloadsPerWindow - SendQueue::kKeptForBeats);
  EXPECT_THAT(recorder_.acks({0, 1}), SizeIs(last().written.size() - 1));  // IDENTIFY has none
}

TEST_F(ShardTest, StopWhileConnectingDropsTheConnection) {
  shard_->Start();
  Step();
  ASSERT_EQ(shard_->info().state, ShardState::kConnecting);
  shard_->Stop(false);
  EXPECT_EQ(shard_->info().state, ShardState::kStopped);
  Step();
  EXPECT_TRUE(last().aborted);
  EXPECT_FALSE(shard_->has_connections());
  EXPECT_EQ(gate_.waiting(), 0u);
}

TEST_F(ShardTest, StopJustAfterTheConnectionWasMade) {
  shard_->Start();
  Step();
  last().Accept();
  shard_->Stop(false);
  Step();
  EXPECT_FALSE(shard_->has_connections());
  EXPECT_EQ(shard_->info().state, ShardState::kStopped);
}

TEST_F(ShardTest, AnOldConnectionsLateMessagesAreIgnored) {
  BecomeReady();
  last().Bring(R"({"op":7})");
  last().Bring(R"({"t":"X","s":2,"op":0,"d":{}})");
  Step();
  ASSERT_THAT(connections_, SizeIs(2));
  EXPECT_EQ(connections_[0]->closed_with, 4000);
  EXPECT_THAT(recorder_.Dispatches({0, 1}, 1), SizeIs(1));
}

TEST_F(ShardTest, ARefusedConnectionIsTriedAgain) {
  shard_->Start();
  Step();
  last().Refuse();
  Step();
  WaitFor(ShardState::kConnecting);
  EXPECT_THAT(connections_, SizeIs(2));
}

TEST_F(ShardTest, AnExceptionEndsTheConnectionAlone) {
  BecomeReady();
  last().throw_on_read = true;
  last().Bring("{}");
  Step();
  ASSERT_THAT(connections_, SizeIs(2));
  EXPECT_EQ(shard_->info().state, ShardState::kConnecting);
}

TEST_F(ShardTest, ACloseFrameDecides) {
  BecomeReady();
  last().CloseFromPeer(4014);
  Step();
  EXPECT_EQ(shard_->info().state, ShardState::kFailed);
  EXPECT_THAT(shard_->info().reason, StartsWith("4014: "));
  EXPECT_THAT(recorder_.losses(), SizeIs(1));
}

TEST_F(ShardTest, ALargeMessageThatComesInSlowlyIsLife) {
  BecomeReady(20);
  const auto until = std::chrono::steady_clock::now() + 10s;
  while (shard_->info().state == ShardState::kReady) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    last().BringPart(1);
    io_.restart();
    io_.run_one_for(5ms);
  }
  EXPECT_THAT(shard_->info().reason, HasSubstr("no ACK over two intervals"));
}

TEST_F(ShardTest, WhatIsBrokenOrTooLargeEndsTheConnectionAndIsResumed) {
  context_.max_message_bytes = 1000;
  for (const FakeMessage& message :
       {FakeMessage{.bytes = std::string(1001, ' ')},
        FakeMessage{.bytes = R"({"t":"X","s":2,"op":0,"d":{)", .is_cut = true},
        FakeMessage{.bytes = "binary", .is_text = false}, FakeMessage{.bytes = ""}}) {
    BecomeReady();
    last().Bring(message);
    Step();
    EXPECT_EQ(last().closed_with, std::nullopt);
    EXPECT_EQ(connections_[connections_.size() - 2]->closed_with, 4000);
    EXPECT_TRUE(shard_->has_session());
    shard_->Stop(false);
    Step();
  }
}

// ---- Commands ----

TEST_F(ShardTest, ACommandGoesOutOnceTheShardIsReady) {
  shard_->Start();
  const uint64_t early = Send(4, R"({"a":1})");
  Step();
  last().Accept();
  last().Bring(R"({"op":10,"d":{"heartbeat_interval":41250}})");
  Step();
  EXPECT_THAT(last().written, ElementsAre(HasSubstr("\"op\":2")));
  EXPECT_TRUE(Waits(early));
  last().Bring(R"({"t":"READY","s":1,"op":0,"d":{"session_id":"abc"}})");
  Step();
  EXPECT_EQ(OutcomeOf(early), SendOutcome::kSent);
  const uint64_t late = Send(31, R"({"b":2})");
  Step();
  EXPECT_EQ(OutcomeOf(late), SendOutcome::kSent);
  EXPECT_THAT(last().written, ElementsAre(HasSubstr("\"op\":2"), R"({"op":4,"d":{"a":1}})",
                                          R"({"op":31,"d":{"b":2}})"));
}

TEST_F(ShardTest, CommandsWaitWhileTheShardResumes) {
  BecomeReady();
  last().Bring(R"({"op":7})");
  Step();
  const uint64_t id = Send(4, "{}");
  last().Accept();
  last().Bring(R"({"op":10,"d":{"heartbeat_interval":41250}})");
  last().Bring(R"({"t":"X","s":2,"op":0,"d":{}})");
  Step();
  ASSERT_EQ(shard_->info().state, ShardState::kResuming);
  EXPECT_TRUE(Waits(id));
  last().Bring(R"({"t":"RESUMED","s":3,"op":0,"d":{}})");
  Step();
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kSent);
  EXPECT_THAT(last().written, ElementsAre(HasSubstr("\"op\":6"), R"({"op":4,"d":{}})"));
}

TEST_F(ShardTest, HeartbeatsGoBeforeCommands) {
  BecomeReady();
  last().hold_writes = true;
  for (int i = 0; i < 3; ++i) Send(4, "{}");
  Step();
  last().Bring(R"({"op":1})");
  Step();
  for (int i = 0; i < 4; ++i) {
    last().FinishWrite();
    Step();
  }
  EXPECT_EQ(last().most_writes_at_once, 1);
  ASSERT_THAT(last().written, SizeIs(5));
  EXPECT_EQ(last().written[1], R"({"op":4,"d":{}})");
  EXPECT_EQ(last().written[2], R"({"op":1,"d":1})");
}

TEST_F(ShardTest, ACommandOnItsWayIsNotRepeatedAndTheOthersWait) {
  BecomeReady();
  last().hold_writes = true;
  const uint64_t first = Send(4, R"({"n":1})");
  const uint64_t second = Send(4, R"({"n":2})");
  Step();
  shard_->CancelSend(first);
  Step();
  EXPECT_TRUE(Waits(first)) << "it is out of our hands";
  last().Abort();
  Step();
  EXPECT_EQ(OutcomeOf(first), SendOutcome::kInterrupted);
  EXPECT_TRUE(Waits(second));
  ASSERT_THAT(connections_, SizeIs(2));
  last().Accept();
  last().Bring(R"({"op":10,"d":{"heartbeat_interval":41250}})");
  last().Bring(R"({"t":"RESUMED","s":2,"op":0,"d":{}})");
  Step();
  EXPECT_EQ(OutcomeOf(second), SendOutcome::kSent);
  EXPECT_THAT(last().written, ElementsAre(HasSubstr("\"op\":6"), R"({"op":4,"d":{"n":2}})"));
}

TEST_F(ShardTest, AConnectionThatCannotBeWrittenToTakesOneCommandOnly) {
  BecomeReady();
  last().fail_writes = true;
  const uint64_t first = Send(4, "{}");
  const uint64_t second = Send(4, "{}");
  Step();
  EXPECT_EQ(OutcomeOf(first), SendOutcome::kInterrupted);
  EXPECT_TRUE(Waits(second));
}

TEST_F(ShardTest, ACancelledCommandIsNotSent) {
  shard_->Start();
  const uint64_t id = Send(4, "{}");
  shard_->CancelSend(id);
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kCancelled);
  Step();
  FinishConnecting();
  EXPECT_THAT(last().written, SizeIs(1));
}

TEST_F(ShardTest, AShardThatDoesNotRunTakesNoCommands) {
  EXPECT_EQ(OutcomeOf(Send(4, "{}")), SendOutcome::kNotRunning);
  shard_->Start();
  const uint64_t waiting = Send(4, "{}");
  EXPECT_TRUE(Waits(waiting));
  shard_->Stop(true);
  EXPECT_EQ(OutcomeOf(waiting), SendOutcome::kNotRunning);
  EXPECT_EQ(OutcomeOf(Send(4, "{}")), SendOutcome::kNotRunning);
}

TEST_F(ShardTest, WhatWaitsEndsWhenTheShardFails) {
  shard_->Start();
  const uint64_t id = Send(4, "{}");
  Step();
  last().Accept();
  last().CloseFromPeer(4004);
  Step();
  ASSERT_EQ(shard_->info().state, ShardState::kFailed);
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kNotRunning);
}

TEST_F(ShardTest, ADeadlineEndsAWaitByItself) {
  shard_->Start();
  Step();
  const uint64_t id = Send(4, "{}", 20ms);
  io_.restart();
  while (Waits(id)) ASSERT_GT(io_.run_one_for(5s), 0u);
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kNotReady);
  FinishConnecting();
  EXPECT_THAT(last().written, SizeIs(1));
}

TEST_F(ShardTest, RateLimitedBlocksTheGuildsNextRequestAndIsDelivered) {
  BecomeReady();
  const std::string request = R"({"guild_id":"7","query":"","limit":0})";
  EXPECT_TRUE(Waits(Send(8, request)));
  Step();
  EXPECT_EQ(OutcomeOf(1), SendOutcome::kSent);
  members_.Block(7, 0ms, clock_.Steady());
  last().Bring(R"({"t":"RATE_LIMITED","s":2,"op":0,"d":{"opcode":8,"retry_after":29.4,)"
               R"("meta":{"guild_id":"7"}}})");
  Step();
  const uint64_t id = Send(8, request, 5s);
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kRateLimited);
  EXPECT_GT(results_[id].retry_after, 28s);
  EXPECT_LE(results_[id].retry_after, 29'400ms);
  Step();
  EXPECT_THAT(last().written, SizeIs(2));
  EXPECT_EQ(recorder_.Dispatches({0, 1}, 1).back().type, "RATE_LIMITED");
}

TEST_F(ShardTest, AWaitForALimitEndsByItself) {
  BecomeReady();
  members_.Block(7, 30ms, clock_.Steady());
  const uint64_t id = Send(8, R"({"guild_id":"7","query":"","limit":0})");
  EXPECT_TRUE(Waits(id));
  io_.restart();
  while (Waits(id)) ASSERT_GT(io_.run_one_for(5s), 0u);
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kSent);
  EXPECT_GE(results_[id].held, 29ms);
}

TEST_F(ShardTest, TheLastPresenceGoesIntoTheNextIdentify) {
  BecomeReady();
  EXPECT_THAT(last().written[0], Not(HasSubstr("presence")));
  Send(3, R"({"status":"idle"})");
  Step();
  last().Bring(R"({"op":9,"d":false})");
  Step();
  Send(3, R"({"status":"dnd"})");
  WaitFor(ShardState::kConnecting);
  FinishConnecting();
  EXPECT_THAT(last().written,
              ElementsAre(HasSubstr(R"("presence":{"status":"dnd"})"), HasSubstr("\"op\":3")));
}

}  // namespace
}  // namespace shardd::gateway
