// The fault interface: what the simulated Discord does to its clients when a test asks for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::GatewayClient;

class FaultTest : public testing::Test {
 protected:
  bool Start(GatewayClient& client, ShardId shard = {0, 1}) {
    return client.Start(shard).has_value();
  }

  Simulator simulator_{{.guilds = 0, .identify_window = milliseconds(0)}};
};

TEST_F(FaultTest, TargetsAreAllOrAShardOrASession) {
  GatewayClient a(simulator_.port());
  GatewayClient b(simulator_.port());
  ASSERT_TRUE(Start(a, {0, 2}));
  ASSERT_TRUE(Start(b, {1, 2}));
  EXPECT_EQ(simulator_.SendReconnect(), 2u);
  EXPECT_EQ(simulator_.SendReconnect(ShardId{1, 2}), 1u);
  EXPECT_EQ(simulator_.SendReconnect(ShardId{1, 3}), 0u);
  EXPECT_EQ(simulator_.SendReconnect(a.session_id()), 1u);
  EXPECT_EQ(a.ReadOp(7)->text, R"({"t":null,"s":null,"op":7,"d":null})");
  EXPECT_TRUE(a.ReadOp(7).has_value());
  EXPECT_TRUE(b.ReadOp(7).has_value());
  EXPECT_TRUE(b.ReadOp(7).has_value());
}

TEST_F(FaultTest, DropIsAReset) {
  GatewayClient client(simulator_.port());
  ASSERT_TRUE(Start(client));
  EXPECT_EQ(simulator_.DropConnections(ShardId{0, 1}), 1u);
  EXPECT_EQ(client.ReadClose(), 1006);
  EXPECT_FALSE(simulator_.Session({0, 1})->connected);
}

TEST_F(FaultTest, AResumableInvalidSessionMayResumeOnTheSameConnection) {
  GatewayClient client(simulator_.port());
  ASSERT_TRUE(Start(client));
  simulator_.SendInvalidSession(ShardId{0, 1}, true);
  EXPECT_EQ(client.ReadOp(9)->data, "true");
  simulator_.Emit("MISSED", 0, "{}");
  client.Resume(client.session_id(), client.sequence());
  EXPECT_EQ(client.Read()->type, "MISSED");
  EXPECT_EQ(client.Read()->type, "RESUMED");
}

TEST_F(FaultTest, ALostSessionMayIdentifyOnTheSameConnection) {
  GatewayClient client(simulator_.port());
  ASSERT_TRUE(Start(client));
  const std::string before = client.session_id();
  simulator_.SendInvalidSession(ShardId{0, 1}, false);
  EXPECT_EQ(client.ReadOp(9)->data, "false");
  client.Send(R"({"op":3,"d":{}})");  // under way when op 9 came
  client.Identify({0, 1});
  ASSERT_TRUE(client.ReadType("READY").has_value());
  EXPECT_NE(client.session_id(), before);
}

TEST_F(FaultTest, ClosesWithAnyCodeAndWithNone) {
  for (const uint16_t code : {0, 1000, 1001, 1011, 3000, 4000, 4009, 4014, 4999}) {
    GatewayClient client(simulator_.port());
    ASSERT_TRUE(Start(client)) << code;
    EXPECT_EQ(simulator_.CloseWith(client.session_id(), code, "because"), 1u);
    EXPECT_EQ(client.ReadClose(), code == 0 ? 1005 : code);
    const bool ends = code == 1000 || code == 4009 || code == 4014;
    EXPECT_EQ(simulator_.Session({0, 1}).has_value(), !ends) << code;
    simulator_.ForgetSessions();
  }
}

TEST_F(FaultTest, StoppedAcksStayStoppedAcrossAResume) {
  GatewayClient first(simulator_.port());
  ASSERT_TRUE(Start(first));
  EXPECT_EQ(simulator_.StopAcks(ShardId{0, 1}, true), 1u);
  GatewayClient second(simulator_.port());
  second.ReadOp(10);
  second.Resume(first.session_id(), first.sequence());
  ASSERT_TRUE(second.ReadType("RESUMED").has_value());
  second.Heartbeat(1);
  ASSERT_TRUE(simulator_.WaitUntil([&] { return simulator_.counters().heartbeats == 1; }));
  simulator_.Emit("AFTER", 0, "{}");
  EXPECT_EQ(second.Read()->type, "AFTER") << "and no ACK before it";
  simulator_.StopAcks(ShardId{0, 1}, false);
  second.Heartbeat(2);
  EXPECT_EQ(second.Read()->op, 11);
}

TEST_F(FaultTest, RequestsHeartbeatsAndSendsAnything) {
  GatewayClient client(simulator_.port(), {.compress = "zlib-stream"});
  ASSERT_TRUE(Start(client));
  simulator_.RequestHeartbeat();
  EXPECT_EQ(client.Read()->text, R"({"t":null,"s":null,"op":1,"d":null})");
  simulator_.SendRaw({}, R"({"op":77,"d":{"new":true}})");
  EXPECT_EQ(client.Read()->op, 77);
  simulator_.SendRaw({}, "");
  EXPECT_FALSE(client.Read().has_value()) << "nothing to compress: an empty message";
  simulator_.Emit("NEVER_HEARD_OF", 0, "[1,2]");
  EXPECT_EQ(client.Read()->data, "[1,2]");
}

TEST_F(FaultTest, HandshakesCanFailInSeveralWays) {
  simulator_.RefuseNextConnections(1);
  EXPECT_FALSE(GatewayClient(simulator_.port()).connected());
  simulator_.RefuseNextConnections(1, 503);
  EXPECT_FALSE(GatewayClient(simulator_.port()).connected());

  simulator_.SilenceNextHellos(1);
  GatewayClient silent(simulator_.port());
  ASSERT_TRUE(silent.connected());
  silent.Heartbeat();
  EXPECT_EQ(silent.Read()->op, 11) << "no HELLO before it";

  simulator_.ReconnectInsteadOfHello(1);
  EXPECT_EQ(GatewayClient(simulator_.port()).Read()->op, 7);
  EXPECT_EQ(GatewayClient(simulator_.port()).Read()->op, 10);
}

TEST_F(FaultTest, IdentifiesAndResumesAreRefusedOnRequest) {
  GatewayClient client(simulator_.port());
  client.ReadOp(10);
  simulator_.RefuseNextIdentifies(1);
  client.Identify({0, 1});
  EXPECT_EQ(client.Read()->op, 9);
  simulator_.IgnoreNextIdentifies(1);
  client.Identify({0, 1});
  client.Heartbeat();
  EXPECT_EQ(client.Read()->op, 11) << "and no READY before it";
  client.Identify({0, 1});
  ASSERT_TRUE(client.ReadType("READY").has_value());

  simulator_.RefuseNextResumes(1);
  GatewayClient second(simulator_.port());
  second.ReadOp(10);
  second.Resume(client.session_id(), 1);
  EXPECT_EQ(second.Read()->op, 9);
  second.Resume(client.session_id(), 1);
  EXPECT_EQ(second.Read()->type, "RESUMED");
}

TEST_F(FaultTest, AFrozenConnectionIsSilentButOpen) {
  GatewayClient client(simulator_.port());
  ASSERT_TRUE(Start(client));
  EXPECT_EQ(simulator_.Freeze(ShardId{0, 1}), 1u);
  simulator_.Emit("UNSEEN", 0, "{}");
  client.Heartbeat(1);
  EXPECT_EQ(client.ReadClose(milliseconds(50)), 0);
  EXPECT_EQ(simulator_.counters().heartbeats, 0u);
  GatewayClient second(simulator_.port());
  second.ReadOp(10);
  second.Resume(client.session_id(), client.sequence());
  EXPECT_EQ(second.Read()->type, "UNSEEN");
  EXPECT_EQ(client.ReadClose(), 1006);
}

TEST(SlowReaderTest, IsDroppedAtTheBoundAndCanResume) {
  Simulator simulator({.guilds = 0, .write_queue_bytes = 1'000'000});
  GatewayClient slow(simulator.port());
  ASSERT_TRUE(slow.Start({0, 1}).has_value());
  const std::string data = '"' + std::string(100'000, 'x') + '"';
  int emitted = 0;
  while (simulator.counters().slow_readers_dropped == 0 && emitted < 1000) {
    simulator.Emit("BIG", 0, data);
    ++emitted;
  }
  EXPECT_GE(emitted, 10);
  EXPECT_EQ(simulator.counters().slow_readers_dropped, 1u);
  GatewayClient second(simulator.port());
  second.ReadOp(10);
  second.Resume(slow.session_id(), 1);
  ASSERT_TRUE(second.ReadType("RESUMED").has_value());
  EXPECT_EQ(second.dispatches().size(), static_cast<size_t>(emitted) + 1);
}

TEST(QuirkTest, OtherServersDifferInWhatTheySend) {
  Simulator simulator({.guilds = 0,
                       .identify_window = milliseconds(0),
                       .quirks = {.first_sequence_zero = true, .bare_hello = true}});
  GatewayClient client(simulator.port());
  EXPECT_THAT(client.Read()->text, testing::StartsWith(R"({"op":10,"d":{)"));
  client.Identify({0, 1});
  EXPECT_EQ(client.Read()->sequence, 0u);
  simulator.Emit("X", 0, "{}");
  EXPECT_EQ(client.Read()->sequence, 1u);
  simulator.SetQuirks({.data_first = true});
  simulator.Emit("X", 0, "{}");
  EXPECT_EQ(client.Read()->text, R"({"d":{},"op":0,"s":2,"t":"X"})");
  simulator.SetQuirks({.foreign_guilds = true});
  GatewayClient other(simulator.port());
  ASSERT_TRUE(other.Start({1, 2}).has_value());
  EXPECT_EQ(simulator.Emit("X", uint64_t{2} << 22, "{}"), 2u);
}

TEST(QuirkTest, OtherServersCompressEachMessageAloneOrNotAtAll) {
  for (const char* compress : {"zlib-stream", "zstd-stream"}) {
    Simulator simulator({.guilds = 3, .quirks = {.complete_frames = true}});
    GatewayClient client(simulator.port(), {.compress = compress});
    ASSERT_TRUE(client.Start({0, 1}).has_value());
    EXPECT_TRUE(client.ReadType("GUILD_CREATE").has_value());
    EXPECT_TRUE(client.binary());
    simulator.SetQuirks({.ignore_compress = true});
    GatewayClient plain(simulator.port(), {.compress = compress});
    EXPECT_EQ(plain.Read()->op, 10);
    EXPECT_FALSE(plain.binary());
  }
}

TEST(QuirkTest, OtherServersAnswerDifferently) {
  Simulator simulator({.token = "secret",
                       .guilds = 0,
                       .quirks = {.silent_resume = true,
                                  .ack_after_identify_only = true,
                                  .require_user_agent = true,
                                  .bad_token_code = 4000}});
  EXPECT_EQ(GatewayClient(simulator.port(), {.user_agent = ""}).ReadClose(), 4002);
  GatewayClient client(simulator.port());
  client.ReadOp(10);
  client.Heartbeat();
  client.Resume("unknown", 1, "secret");
  ASSERT_TRUE(simulator.WaitUntil([&] { return simulator.counters().heartbeats == 1; }));
  client.Identify({0, 1}, 0, "secret");
  EXPECT_EQ(client.Read()->type, "READY") << "neither ACK nor op 9 before it";
  GatewayClient wrong(simulator.port());
  wrong.ReadOp(10);
  wrong.Identify({0, 1}, 0, "wrong");
  EXPECT_EQ(wrong.ReadClose(), 4000);
}

}  // namespace
}  // namespace shardd::simulator
