// The real server under what a gateway can do to it: hostile bytes, silence, shards that die again
// and again. Each flag that sets a timer has a test here that runs on the real clock.

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/json.hpp>

#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"

namespace shardd {
namespace {

using simulator::MessageKind;
using simulator::Simulator;
using simulator::SimulatorOptions;
using test::EventStream;
using test::Eventually;
using ::testing::HasSubstr;

constexpr ShardId kOnly{0, 1};

class RecoveryTest : public ::testing::Test {
 protected:
  RecoveryTest() {
    options_.record = true;
    options_.guilds = 10;
    options_.max_concurrency = 16;
  }

  // One shard, READY with its guilds, and a subscriber from the beginning.
  void Start(std::vector<std::string> flags = {}) {
    StartUnready(std::move(flags));
    ASSERT_TRUE(discord_->WaitForSessions(1, 1)) << server_->err();
    ASSERT_TRUE(WaitForState(v1::SHARD_STATE_READY)) << server_->err();
  }
  void StartUnready(std::vector<std::string> flags) {
    if (discord_ == nullptr) discord_ = std::make_unique<Simulator>(options_);
    flags.insert(flags.end(), {"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                               "--admin-listen", "off", "--compression", compression_});
    server_ = std::make_unique<test::ShardDProcess>(
        flags, test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
    ASSERT_NE(server_->address(), "") << server_->err();
    stub_ = test::Connect(server_->address());
    stream_ = std::make_unique<EventStream>(*stub_, test::FromEarliest());
  }

  v1::ShardStatus Shard() {
    grpc::ClientContext context;
    v1::StatsResponse stats;
    if (!stub_->Stats(&context, {}, &stats).ok() || stats.shards().empty()) return {};
    return stats.shards(0);
  }
  bool WaitForState(v1::ShardState state) {
    return Eventually([&] { return Shard().state() == state; });
  }
  bool WaitForResumes(uint64_t resumes) {
    return Eventually(
        [&] { return Shard().resumes() >= resumes && Shard().state() == v1::SHARD_STATE_READY; });
  }
  std::vector<boost::json::value> OwnEvents(std::string_view type) {
    std::vector<boost::json::value> found;
    for (const auto& event : stream_->events()) {
      if (event.type() == type) found.push_back(boost::json::parse(event.data()));
    }
    return found;
  }
  bool WaitForOwnEvent(std::string_view type) {
    return Eventually([&] { return !OwnEvents(type).empty(); });
  }

  // All that the one session was sent has come, byte for byte, but for `skipped`.
  void ExpectExact(std::optional<uint64_t> skipped = std::nullopt) {
    const auto sent = discord_->Sent(discord_->Session(kOnly)->session_id);
    std::vector<v1::Event> received;
    ASSERT_TRUE(Eventually([&] {
      received = stream_->events();
      std::erase_if(received, [](const auto& event) { return event.sequence() == 0; });
      return !received.empty() && received.back().sequence() >= sent.back().sequence;
    })) << server_->err();
    size_t at = 0;
    for (const auto& event : sent) {
      if (event.sequence == skipped) continue;
      ASSERT_LT(at, received.size());
      ASSERT_EQ(received[at].sequence(), event.sequence);
      ASSERT_EQ(received[at].data(), event.data);
      ++at;
    }
    EXPECT_EQ(at, received.size());
  }

  // The most memory that the server has had so far, in MiB.
  uint64_t PeakMemory() const { return server_->StatusKib("VmHWM") / 1024; }

  SimulatorOptions options_;
  std::string compression_ = "zstd-stream";
  std::unique_ptr<Simulator> discord_;
  std::unique_ptr<test::ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
  std::unique_ptr<EventStream> stream_;
};

// ---- Hostile bytes ----

class HostileWire : public RecoveryTest, public ::testing::WithParamInterface<std::string> {
 protected:
  HostileWire() { compression_ = GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Compression, HostileWire,
                         ::testing::Values("zstd-stream", "zlib-stream", "none"),
                         [](const auto& test) { return test.param.substr(0, 4); });

TEST_P(HostileWire, AnEventOverTheBoundIsSkippedSaidAndCostsNoMemory) {
  Start({"--max-message-bytes", "1MiB", "--retain-bytes", "64MiB"});
  discord_->EmitTraffic(100);
  ExpectExact();
  const uint64_t before = PeakMemory();
  // Compressed it is a few KB to a few hundred KB; the server must notice while it inflates.
  const size_t bytes = size_t{compression_ == "none" ? 20u : 500u} << 20;
  ASSERT_EQ(discord_->SendBomb({}, bytes), 1u);
  const uint64_t sequence = discord_->Session(kOnly)->sequence;
  ASSERT_TRUE(WaitForResumes(1)) << server_->err();
  discord_->EmitTraffic(100);
  ExpectExact(sequence);
  ASSERT_EQ(OwnEvents("SHARDD_OVERSIZE").size(), 1u);
  EXPECT_EQ(OwnEvents("SHARDD_OVERSIZE")[0].at("sequence").to_number<uint64_t>(), sequence);
  EXPECT_EQ(discord_->counters().identifies, 1u);
  EXPECT_LT(PeakMemory(), before + 50);
}

TEST_P(HostileWire, WhatIsNoGatewayMessageEndsTheConnectionAndNothingElse) {
  Start();
  const std::string deep = R"({"t":"X","s":1,"op":0,"d":)" + std::string(100'000, '[');
  const std::vector<std::pair<const char*, std::function<size_t()>>> attacks = {
      {"invalid UTF-8 within a payload",
       [&] { return discord_->SendRaw({}, "{\"op\":11,\"d\":\"\xc3\x28\"}"); }},
      {"broken compression",
       [&] { return discord_->SendBytes({}, MessageKind::kBinary, std::string(1000, '\xa7')); }},
      {"JSON deeper than any payload", [&] { return discord_->SendRaw({}, deep); }},
      {"a frame of 2^62 bytes",
       [&] { return discord_->SendFrameHeader({}, MessageKind::kBinary, uint64_t{1} << 62); }},
      {"bytes that are no frame",
       [&] { return discord_->SendTcpBytes({}, std::string(500, '\xff')); }},
  };
  uint64_t resumes = 0;
  for (const auto& [name, attack] : attacks) {
    SCOPED_TRACE(name);
    ASSERT_EQ(attack(), 1u);
    ASSERT_TRUE(WaitForResumes(++resumes)) << server_->err();
    discord_->EmitTraffic(10);
  }
  ExpectExact();
  EXPECT_EQ(discord_->counters().identifies, 1u) << "a session was thrown away";
  EXPECT_FALSE(server_->WaitForExit(std::chrono::milliseconds(0)).has_value());
}

TEST_F(RecoveryTest, ATextMessageOnACompressedConnectionEndsIt) {
  Start();
  ASSERT_EQ(discord_->SendBytes({}, MessageKind::kText, R"({"op":11,"d":null,"s":null,"t":null})"),
            1u);
  ASSERT_TRUE(WaitForResumes(1)) << server_->err();
}

TEST_F(RecoveryTest, AHelloThatMakesNoSenseIsNoHello) {
  Start();
  uint64_t resumes = 0;
  for (const char* hello :
       {R"({"heartbeat_interval":0})", R"({"heartbeat_interval":-41250})", R"({})", "null",
        R"({"heartbeat_interval":"often"})", R"({"heartbeat_interval":1e300})"}) {
    SCOPED_TRACE(hello);
    discord_->SetHello(hello);
    discord_->DropConnections();
    ASSERT_TRUE(Eventually([&] {
      return Shard().reason().find("HELLO without a sensible") != std::string::npos;
    })) << server_->err();
    discord_->SetHello("");
    ASSERT_TRUE(WaitForResumes(++resumes)) << server_->err();
  }
  EXPECT_EQ(discord_->counters().identifies, 1u);
}

TEST_F(RecoveryTest, AMessageThatDripsInIsLife) {
  options_.heartbeat_interval = std::chrono::milliseconds(400);
  compression_ = "none";
  Start();
  // Ten intervals long; ACKs stand behind it in the same stream, so the connection ends after two
  // of them without one, and not before.
  discord_->SetDrip(100, std::chrono::milliseconds(10));
  const uint64_t guild = discord_->guild_ids().front();
  const auto started = std::chrono::steady_clock::now();
  discord_->Emit("X", guild, "\"" + std::string(40'000, 'x') + "\"");
  ASSERT_TRUE(Eventually([&] { return discord_->counters().client_closes[4000] > 0; }));
  EXPECT_GE(std::chrono::steady_clock::now() - started, std::chrono::milliseconds(700));
  discord_->SetDrip(0, std::chrono::milliseconds(0));
  ASSERT_TRUE(WaitForResumes(1)) << server_->err();
  ExpectExact();
}

// ---- Deaths ----

TEST_F(RecoveryTest, AShardInACrashLoopAlertsPausesAndComesBack) {
  Start({"--crash-loop-deaths", "1", "--crash-loop-pause", "1s"});
  ASSERT_EQ(discord_->CloseWith({}, 4003), 1u);
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_CRASH_LOOP)) << server_->err();
  EXPECT_EQ(Shard().restarts(), 1u);
  EXPECT_TRUE(Shard().has_retry_at());
  ASSERT_TRUE(WaitForOwnEvent("SHARDD_CRASH_LOOP"));
  const auto alert = OwnEvents("SHARDD_CRASH_LOOP").front();
  EXPECT_EQ(alert.at("shard_id").to_number<int>(), 0);
  EXPECT_EQ(alert.at("restarts").to_number<int>(), 1);
  EXPECT_EQ(alert.at("deaths").to_number<int>(), 1);
  EXPECT_EQ(alert.at("pause_ms").to_number<int>(), 1000);
  EXPECT_TRUE(server_->WaitForLog("crash loop"));
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_READY)) << server_->err();
  EXPECT_TRUE(Shard().has_last_restart());
  EXPECT_EQ(OwnEvents("SHARDD_CRASH_LOOP").size(), 1u);
}

TEST_F(RecoveryTest, DeathsOutsideTheWindowAreNoCrashLoop) {
  Start({"--crash-loop-deaths", "2", "--crash-loop-window", "1s"});
  for (uint64_t death = 1; death <= 2; ++death) {
    ASSERT_EQ(discord_->CloseWith({}, 4003), 1u);
    // The bucket of the identify limit keeps them five seconds apart.
    ASSERT_TRUE(discord_->WaitUntil([&] { return discord_->counters().identifies == death + 1; },
                                    std::chrono::seconds(20)));
    ASSERT_TRUE(WaitForState(v1::SHARD_STATE_READY)) << server_->err();
  }
  EXPECT_EQ(Shard().restarts(), 2u);
  EXPECT_TRUE(OwnEvents("SHARDD_CRASH_LOOP").empty());
}

TEST_F(RecoveryTest, SpawnEndsThePauseOfACrashLoop) {
  Start({"--crash-loop-deaths", "1", "--crash-loop-pause", "1h"});
  discord_->CloseWith({}, 4003);
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_CRASH_LOOP)) << server_->err();
  grpc::ClientContext context;
  v1::SpawnResponse spawned;
  ASSERT_TRUE(stub_->Spawn(&context, {}, &spawned).ok());
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_READY)) << server_->err();
}

TEST_F(RecoveryTest, WithoutRespawnADeadShardWaitsForSpawn) {
  Start({"--shard-respawn=false"});
  discord_->CloseWith({}, 4003);
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_FAILED)) << server_->err();
  EXPECT_THAT(Shard().reason(), HasSubstr("4003"));
  grpc::ClientContext context;
  v1::SpawnResponse spawned;
  ASSERT_TRUE(stub_->Spawn(&context, {}, &spawned).ok());
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_READY)) << server_->err();
}

// ---- Timers ----

TEST_F(RecoveryTest, ConnectTimesOut) {
  // The kernel takes connections here; nobody ever answers them.
  const int silent = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(silent, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(silent, 64), 0);
  ASSERT_EQ(::getsockname(silent, reinterpret_cast<sockaddr*>(&address), &size), 0);
  discord_ = std::make_unique<Simulator>(options_);
  discord_->AnswerGatewayBotWithBody(
      200,
      R"({"url":"ws://127.0.0.1:)" + std::to_string(ntohs(address.sin_port)) +
          R"(","shards":1,"session_start_limit":{"total":1000,"remaining":1000,"reset_after":0,)"
          R"("max_concurrency":1}})",
      1000);
  StartUnready({"--connect-timeout", "300ms"});
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_BACKING_OFF)) << server_->err();
  EXPECT_THAT(Shard().reason(), HasSubstr("no connection"));
  EXPECT_EQ(Shard().identifies(), 0u);
  EXPECT_EQ(Shard().restarts(), 0u);
  ::close(silent);
}

TEST_F(RecoveryTest, HelloTimesOut) {
  Start({"--hello-timeout", "300ms"});
  discord_->SilenceNextHellos(1);
  discord_->DropConnections();
  ASSERT_TRUE(WaitForResumes(1)) << server_->err();
}

TEST_F(RecoveryTest, IdentifyTimesOut) {
  discord_ = std::make_unique<Simulator>(options_);
  discord_->IgnoreNextIdentifies(1);
  StartUnready({"--identify-timeout", "2s"});
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_READY)) << server_->err();
  EXPECT_EQ(Shard().restarts(), 1u);
  EXPECT_EQ(Shard().identifies(), 2u);
}

TEST_F(RecoveryTest, ResumeTimesOutAndTheSessionIsGivenUpInTheEnd) {
  Start({"--resume-timeout", "200ms"});
  simulator::Quirks quirks;
  quirks.silent_resume = true;
  discord_->SetQuirks(quirks);
  discord_->DropConnections();
  ASSERT_TRUE(Eventually([&] { return Shard().identifies() == 2; })) << server_->err();
  ASSERT_TRUE(WaitForState(v1::SHARD_STATE_READY)) << server_->err();
  ASSERT_EQ(OwnEvents("SHARDD_SESSION_LOST").size(), 1u);
  EXPECT_THAT(std::string(OwnEvents("SHARDD_SESSION_LOST")[0].at("reason").as_string()),
              HasSubstr("3 attempts"));
}

TEST_F(RecoveryTest, ASilentShardIsReportedAndResumedOnce) {
  options_.heartbeat_interval = std::chrono::milliseconds(200);
  Start({"--silence-after", "1s"});
  discord_->SetRate(500);
  ASSERT_TRUE(Eventually([&] { return Shard().events() > 2500; }));
  discord_->SetRate(0);
  ASSERT_TRUE(WaitForResumes(1)) << server_->err();
  ASSERT_TRUE(WaitForOwnEvent("SHARDD_SHARD_SILENT"));
  EXPECT_TRUE(server_->WaitForLog("shard is silent"));
  const uint64_t heartbeats = discord_->counters().heartbeats;
  ASSERT_TRUE(
      discord_->WaitUntil([&] { return discord_->counters().heartbeats > heartbeats + 15; }));
  EXPECT_EQ(Shard().resumes(), 1u);
  EXPECT_EQ(Shard().silences(), 1u);
  EXPECT_TRUE(Shard().has_last_silence());
  EXPECT_EQ(OwnEvents("SHARDD_SHARD_SILENT").size(), 1u);
  EXPECT_EQ(Shard().restarts(), 0u);
}

}  // namespace
}  // namespace shardd
