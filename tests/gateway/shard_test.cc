#include "gateway/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "gateway/recorder.h"
#include "support/fake_transport.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

// One shard on stand-ins for connections. Step() lets everything happen that can.
class ShardTest : public ::testing::Test {
 protected:
  ShardTest() {
    gate_.SetLimits(1, 10, 10, 0ms, clock_.Steady(), clock_.Steady());
    ProtocolOptions options;
    options.token = "token";
    options.timings.retry.first = 1ms;
    options.timings.retry.longest = 1ms;
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

  FakeConnection& last() { return *connections_.back(); }
  void BecomeReady() {
    shard_->Start();
    Step();
    last().Accept();
    last().Bring(R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}})");
    last().Bring(R"({"t":"READY","s":1,"op":0,"d":{"session_id":"abc"}})");
    Step();
    ASSERT_EQ(shard_->info().state, ShardState::kReady);
  }

  RealClock clock_;
  Recorder recorder_;
  std::unique_ptr<EventSink> sink_ = recorder_.MakeSink();
  IdentifyGate gate_{0ms};
  asio::io_context io_;
  std::vector<std::shared_ptr<FakeConnection>> connections_;
  ShardInfo published_;
  ShardContext context_{.io = io_,
                        .sink = *sink_,
                        .gate = gate_,
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
  EXPECT_EQ(gate_.remaining(clock_.Steady()), 9u);
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

}  // namespace
}  // namespace shardd::gateway
