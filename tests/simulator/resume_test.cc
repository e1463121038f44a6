// What outlives a connection, and what does not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::GatewayClient;

class ResumeTest : public testing::Test {
 protected:
  ResumeTest() : first_(simulator_.port()) {
    EXPECT_TRUE(first_.Start({0, 1}).has_value());
    simulator_.EmitTraffic(20);
    simulator_.Emit("BEFORE", 0, "{}");
    EXPECT_TRUE(first_.ReadType("BEFORE").has_value());
    EXPECT_TRUE(simulator_.WaitForSessions(1, 1));
  }

  bool WaitForDetached() {
    return simulator_.WaitUntil([&] {
      const auto session = simulator_.Session({0, 1});
      return !session.has_value() || !session->connected;
    });
  }

  // Resumes on a new connection: what comes up to RESUMED, or no dispatch where it is refused.
  std::vector<test::Payload> Resume(GatewayClient& client, uint64_t sequence) {
    client.ReadOp(10);
    client.Resume(first_.session_id(), sequence);
    client.ReadType("RESUMED");
    return client.dispatches();
  }

  Simulator simulator_{{.guilds = 5, .record = true, .record_digests = true}};
  GatewayClient first_;
};

TEST_F(ResumeTest, DigestsAreOfAllThatWasSent) {
  first_.Drop();
  ASSERT_TRUE(WaitForDetached());
  simulator_.EmitTraffic(50);
  const auto sent = simulator_.Sent(first_.session_id());
  const auto digests = simulator_.SentDigests(first_.session_id());
  ASSERT_EQ(digests.size(), sent.size());
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(digests[i].guild_id, sent[i].guild_id);
    EXPECT_EQ(digests[i].digest, DigestOf(sent[i].type, sent[i].data));
  }
  EXPECT_NE(DigestOf("A", "{}"), DigestOf("B", "{}"));
}

TEST_F(ResumeTest, CountsResumesBehindAHeartbeat) {
  const uint64_t reached = first_.sequence();
  first_.Send(R"({"op":1,"d":)" + std::to_string(reached) + "}");
  ASSERT_TRUE(first_.ReadOp(11).has_value());
  first_.Drop();
  ASSERT_TRUE(WaitForDetached());
  {
    GatewayClient second(simulator_.port());
    Resume(second, reached);
  }
  EXPECT_EQ(simulator_.counters().resumes_behind_heartbeat, 0u);
  GatewayClient third(simulator_.port());
  Resume(third, reached - 1);
  EXPECT_EQ(simulator_.counters().resumes_behind_heartbeat, 1u);
}

TEST_F(ResumeTest, ReplaysExactlyWhatFollowsTheSequence) {
  first_.Drop();
  ASSERT_TRUE(WaitForDetached());
  simulator_.EmitTraffic(50);
  GatewayClient second(simulator_.port(), {.compress = "zstd-stream"});
  const uint64_t from = first_.sequence() - 3;
  const auto replayed = Resume(second, from);
  const auto sent = simulator_.Sent(first_.session_id());
  ASSERT_EQ(replayed.size(), sent.size() - from);
  for (size_t i = 0; i < replayed.size(); ++i) {
    EXPECT_EQ(replayed[i].sequence, from + 1 + i);
    EXPECT_EQ(replayed[i].type, sent[from + i].type);
    EXPECT_EQ(replayed[i].data, sent[from + i].data);
  }
  EXPECT_EQ(replayed.back().type, "RESUMED");
  simulator_.Emit("LIVE", 0, "{}");
  EXPECT_EQ(second.Read()->sequence, replayed.back().sequence.value() + 1);
  EXPECT_EQ(simulator_.Session({0, 1})->resumes, 1u);
  EXPECT_EQ(simulator_.counters().identifies, 1u);
}

TEST_F(ResumeTest, ALongReplayIsNoSlowReader) {
  first_.Drop();
  ASSERT_TRUE(WaitForDetached());
  simulator_.EmitTraffic(5000);
  GatewayClient second(simulator_.port());
  EXPECT_GT(Resume(second, first_.sequence()).size(), 4000u);
}

TEST_F(ResumeTest, TheOldConnectionIsDropped) {
  GatewayClient second(simulator_.port());
  EXPECT_EQ(Resume(second, first_.sequence()).size(), 1u);
  EXPECT_EQ(first_.ReadClose(), 1006);
}

TEST_F(ResumeTest, ACloseOtherThan1000And1001KeepsTheSession) {
  uint64_t sequence = first_.sequence();
  for (const uint16_t code : {0, 3000, 4000, 4200}) {
    GatewayClient client(simulator_.port());
    ASSERT_FALSE(Resume(client, sequence).empty());
    sequence = client.sequence();
    client.Close(code);
    ASSERT_TRUE(WaitForDetached());
    EXPECT_TRUE(simulator_.Session({0, 1}).has_value()) << code;
    EXPECT_EQ(simulator_.counters().client_closes.at(code == 0 ? 1005 : code), 1u);
  }
}

TEST_F(ResumeTest, ACloseWith1000Or1001EndsIt) {
  first_.Close(1001);
  ASSERT_TRUE(WaitForDetached());
  EXPECT_FALSE(simulator_.Session({0, 1}).has_value());
  GatewayClient second(simulator_.port());
  second.ReadOp(10);
  second.Resume(first_.session_id(), first_.sequence());
  EXPECT_EQ(second.Read()->text, R"({"t":null,"s":null,"op":9,"d":false})");
  // The connection stands, and takes an IDENTIFY once the window is over.
  EXPECT_TRUE(second.connected());
}

TEST_F(ResumeTest, ASequenceThatWasNeverSentIs4007) {
  GatewayClient second(simulator_.port());
  second.ReadOp(10);
  second.Resume(first_.session_id(), first_.sequence() + 1000);
  EXPECT_EQ(second.ReadClose(), 4007);
}

TEST(ResumeLimitTest, WhatHasLeftTheReplayBufferCannotBeResumed) {
  Simulator simulator({.guilds = 0, .replay_events = 10});
  GatewayClient first(simulator.port());
  ASSERT_TRUE(first.Start({0, 1}).has_value());
  first.Drop();
  for (int i = 0; i < 10; ++i) simulator.Emit("X", 0, "{}");
  GatewayClient second(simulator.port());
  second.ReadOp(10);
  second.Resume(first.session_id(), 1);
  ASSERT_TRUE(second.ReadType("RESUMED").has_value()) << "exactly the buffer's size";
  EXPECT_EQ(second.dispatches().size(), 11u);
  GatewayClient third(simulator.port());
  third.ReadOp(10);
  third.Resume(first.session_id(), 1);
  EXPECT_EQ(third.Read()->op, 9) << "one more: RESUMED took a place";
}

TEST(ResumeLimitTest, TheResumeWindowEnds) {
  const Simulator simulator({.resume_window = milliseconds(20)});
  GatewayClient first(simulator.port());
  ASSERT_TRUE(first.Start({0, 1}).has_value());
  first.Close(4000);
  EXPECT_TRUE(simulator.WaitUntil([&] { return simulator.Sessions().empty(); }));
}

TEST(ResumeLimitTest, GuildsThatWereNotCreatedYetComeAfterTheResume) {
  // More than the socket's buffers hold, so that the drop comes in the middle.
  const Simulator simulator({.guilds = 30, .large_guilds = 30, .large_guild_bytes = 1'000'000});
  GatewayClient first(simulator.port());
  ASSERT_TRUE(first.Start({0, 1}).has_value());
  ASSERT_TRUE(first.ReadType("GUILD_CREATE").has_value());
  EXPECT_FALSE(simulator.Session({0, 1})->guilds_sent);
  first.Drop();
  GatewayClient second(simulator.port());
  second.ReadOp(10);
  second.Resume(first.session_id(), first.sequence());
  std::set<std::string> created;
  for (const auto* client : {&first, &second}) {
    while (client == &second && second.sequence() < 32) ASSERT_TRUE(second.Read().has_value());
    for (const auto& payload : client->dispatches()) {
      if (payload.type == "GUILD_CREATE")
        created.insert(payload.data.substr(payload.data.size() - 200));
    }
  }
  EXPECT_EQ(created.size(), 30u);
}

TEST(ResumeLimitTest, DiscordsReplayBufferHoldsAHundredWithoutGuilds) {
  Simulator simulator({.guilds = 0, .replay_events = 0});
  GatewayClient first(simulator.port());
  ASSERT_TRUE(first.Start({0, 1}).has_value());
  first.Drop();
  for (int i = 0; i < 100; ++i) simulator.Emit("X", 0, "{}");
  GatewayClient second(simulator.port());
  second.ReadOp(10);
  second.Resume(first.session_id(), 1);
  ASSERT_TRUE(second.ReadType("RESUMED").has_value());
  second.Drop();
  for (int i = 0; i < 101; ++i) simulator.Emit("X", 0, "{}");
  GatewayClient third(simulator.port());
  third.ReadOp(10);
  third.Resume(first.session_id(), second.sequence());
  EXPECT_EQ(third.Read()->text, R"({"t":null,"s":null,"op":9,"d":false})");
}

TEST(ResumeLimitTest, ASequenceTooFarBehindIs4007IfWanted) {
  Simulator simulator({.guilds = 0, .replay_events = 10, .close_stale_resumes = true});
  GatewayClient first(simulator.port());
  ASSERT_TRUE(first.Start({0, 1}).has_value());
  first.Drop();
  for (int i = 0; i < 11; ++i) simulator.Emit("X", 0, "{}");
  GatewayClient second(simulator.port());
  second.ReadOp(10);
  second.Resume(first.session_id(), 1);
  EXPECT_EQ(second.ReadClose(), 4007);
  EXPECT_TRUE(simulator.Sessions().empty());
}

TEST(ResumeLimitTest, AnExpiredSessionIs4009IfWanted) {
  for (const bool close : {true, false}) {
    const Simulator simulator({.guilds = 0,
                               .identify_window = milliseconds(0),
                               .resume_window = milliseconds(20),
                               .close_expired_resumes = close});
    GatewayClient expired(simulator.port());
    GatewayClient left(simulator.port());
    ASSERT_TRUE(expired.Start({0, 1}).has_value());
    ASSERT_TRUE(left.Start({0, 1}).has_value());
    expired.Close(4000);
    left.Close(1000);
    ASSERT_TRUE(simulator.WaitUntil([&] { return simulator.Sessions().empty(); }));
    GatewayClient again(simulator.port());
    again.ReadOp(10);
    again.Resume(left.session_id(), 1);
    EXPECT_EQ(again.Read()->op, 9) << "it has not timed out";
    again.Resume(expired.session_id(), 1);
    if (close) {
      EXPECT_EQ(again.ReadClose(), 4009);
    } else {
      EXPECT_EQ(again.Read()->op, 9);
    }
  }
}

}  // namespace
}  // namespace shardd::simulator
