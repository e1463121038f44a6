// What the simulator sent is what a subscriber gets, byte for byte, once and in order, whatever
// happens on the way.

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <csignal>
#include <map>
#include <set>

#include "simulator/simulator.h"
#include "support/delivered.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"

namespace shardd {
namespace {

using simulator::Simulator;
using simulator::SimulatorOptions;
using test::BySession;
using test::EventStream;
using test::Eventually;
using test::IsOwn;
using test::Sessions;

constexpr uint32_t kShards = 2;

class DeliveryTest : public ::testing::Test {
 protected:
  DeliveryTest() {
    options_.record = true;
    options_.guilds = 40;
    options_.max_concurrency = 16;
    options_.recommended_shards = kShards;
  }

  // Starts the simulator, the server, and a subscriber from the beginning; waits until all shards
  // have their guilds.
  void Start(std::vector<std::string> flags = {}) {
    discord_ = std::make_unique<Simulator>(options_);
    flags.insert(flags.end(),
                 {"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0", "--admin-listen",
                  "off", "--intents", "all", "--compression", compression_});
    server_ = std::make_unique<test::ShardDProcess>(
        flags, test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"},
                                              {"SSL_CERT_FILE", discord_->certificate_path()}});
    ASSERT_NE(server_->address(), "") << server_->err();
    stub_ = test::Connect(server_->address());
    stream_ = std::make_unique<EventStream>(*stub_, test::FromEarliest());
    ASSERT_TRUE(discord_->WaitForSessions(options_.recommended_shards, options_.recommended_shards))
        << server_->err();
  }

  bool CatchUp(const EventStream& stream) {
    return test::CatchUp(*discord_, stream, options_.recommended_shards);
  }
  void ExpectExact(const EventStream& stream) {
    ASSERT_TRUE(CatchUp(stream)) << server_->err();
    test::ExpectExact(*discord_, stream);
  }

  bool AllConnected() {
    return discord_->WaitUntil(
        [&] {
          size_t connected = 0;
          for (const auto& session : discord_->Sessions()) {
            if (session.alive && session.connected) ++connected;
          }
          return connected == options_.recommended_shards;
        },
        std::chrono::seconds(20));
  }

  // The number of times that something has resumed or identified has grown past `before`.
  bool WaitForResumes(uint64_t wanted) {
    return discord_->WaitUntil([&] { return discord_->counters().resumes >= wanted; },
                               std::chrono::seconds(20));
  }

  bool WaitForState(uint32_t shard_id, v1::ShardState state) {
    return Eventually([&] {
      grpc::ClientContext context;
      v1::StatsRequest request;
      request.add_shard_ids(shard_id);
      v1::StatsResponse response;
      return stub_->Stats(&context, request, &response).ok() && response.shards(0).state() == state;
    });
  }

  SimulatorOptions options_;
  std::string compression_ = "zstd-stream";
  std::unique_ptr<Simulator> discord_;
  std::unique_ptr<test::ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
  std::unique_ptr<EventStream> stream_;
};

// ---- In all three compressions ----

class EveryCompression : public DeliveryTest, public ::testing::WithParamInterface<std::string> {
 protected:
  EveryCompression() { compression_ = GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Compression, EveryCompression,
                         ::testing::Values("zstd-stream", "zlib-stream", "none"),
                         [](const auto& test) { return test.param.substr(0, 4); });

TEST_P(EveryCompression, DeliversWhatDiscordSent) {
  Start();
  discord_->EmitTraffic(3000);
  ExpectExact(*stream_);
  EXPECT_EQ(discord_->Session({0, kShards})->compression, compression_);
}

TEST_P(EveryCompression, LosesNothingThroughDropsReconnectsAndInvalidSessions) {
  options_.rate = 1500;
  Start();
  uint64_t resumes = 0;
  const auto resumed = [&](size_t affected) {
    resumes += affected;
    return affected > 0 && WaitForResumes(resumes) && AllConnected();
  };
  ASSERT_TRUE(resumed(discord_->DropConnections()));
  ASSERT_TRUE(resumed(discord_->SendReconnect(ShardId{0, kShards})));
  ASSERT_TRUE(resumed(discord_->SendInvalidSession(ShardId{1, kShards}, /*resumable=*/true)));
  ASSERT_TRUE(resumed(discord_->CloseWith(ShardId{0, kShards}, 4000)));
  ASSERT_TRUE(resumed(discord_->CloseWith(ShardId{1, kShards}, 0)));
  EXPECT_EQ(discord_->counters().identifies, kShards) << "a session was thrown away";
  discord_->SetRate(0);
  ExpectExact(*stream_);
  const auto closes = discord_->counters().client_closes;
  EXPECT_FALSE(closes.contains(1000) || closes.contains(1001)) << "these codes end the session";
}

TEST_P(EveryCompression, TakesMessagesThatAreSplitOverFrames) {
  options_.split_messages = 3;
  options_.split_fragments = 2;
  options_.large_guilds = 1;
  Start();
  discord_->EmitTraffic(500);
  ExpectExact(*stream_);
}

TEST_P(EveryCompression, TakesMessagesOfSeveralMegabytes) {
  Start();
  const std::string content(3'000'000, 'x');
  const uint64_t guild = discord_->guild_ids().front();
  ASSERT_EQ(discord_->Emit(
                "MESSAGE_CREATE", guild,
                R"({"content":")" + content + R"(","guild_id":")" + std::to_string(guild) + "\"}"),
            1u);
  ExpectExact(*stream_);
}

// ---- Sessions ----

TEST_F(DeliveryTest, AnInvalidSessionIsReplacedAndItsLossIsSaid) {
  Start();
  discord_->EmitTraffic(200);
  ASSERT_TRUE(CatchUp(*stream_));
  ASSERT_EQ(discord_->SendInvalidSession(ShardId{1, kShards}, /*resumable=*/false), 1u);
  ASSERT_TRUE(discord_->WaitUntil([&] { return discord_->counters().identifies == kShards + 1; },
                                  std::chrono::seconds(20)));
  ASSERT_TRUE(AllConnected());
  discord_->EmitTraffic(200);
  ExpectExact(*stream_);

  size_t lost = 0;
  for (const auto& event : stream_->events()) {
    if (event.type() != "SHARDD_SESSION_LOST") continue;
    ++lost;
    const auto data = boost::json::parse(event.data());
    EXPECT_EQ(data.at("shard_id").as_int64(), 1);
    EXPECT_EQ(data.at("session").as_int64(), 1);
    EXPECT_GT(data.at("last_sequence").as_int64(), 1);
    EXPECT_EQ(event.sequence(), 0u);
  }
  EXPECT_EQ(lost, 1u);
}

TEST_F(DeliveryTest, AZombieConnectionIsReplacedByAResume) {
  options_.heartbeat_interval = std::chrono::milliseconds(300);
  Start();
  ASSERT_EQ(discord_->StopAcks({}, true), kShards);
  ASSERT_TRUE(WaitForResumes(kShards)) << server_->err();
  discord_->StopAcks({}, false);
  ASSERT_TRUE(AllConnected());
  discord_->EmitTraffic(300);
  ExpectExact(*stream_);
  EXPECT_EQ(discord_->counters().identifies, kShards);
  EXPECT_GE(discord_->counters().client_closes[4000], kShards);
}

TEST_F(DeliveryTest, AHalfOpenConnectionIsReplacedByAResume) {
  options_.heartbeat_interval = std::chrono::milliseconds(300);
  Start();
  ASSERT_EQ(discord_->Freeze(ShardId{0, kShards}), 1u);
  discord_->EmitTraffic(300);
  ASSERT_TRUE(WaitForResumes(1)) << server_->err();
  ExpectExact(*stream_);
  EXPECT_EQ(discord_->counters().identifies, kShards);
}

TEST_F(DeliveryTest, AHeartbeatThatDiscordAsksForIsAnswered) {
  Start();
  const uint64_t before = discord_->counters().heartbeats;
  ASSERT_EQ(discord_->RequestHeartbeat(), kShards);
  EXPECT_TRUE(
      discord_->WaitUntil([&] { return discord_->counters().heartbeats >= before + kShards; }));
}

TEST_F(DeliveryTest, AKilledShardThatKeptItsSessionResumesWithWhatItMissed) {
  Start();
  // Before READY has come there is no session to keep.
  ASSERT_TRUE(WaitForState(0, v1::SHARD_STATE_READY));
  grpc::ClientContext kill_context, spawn_context;
  v1::KillRequest kill;
  kill.add_shard_ids(0);
  kill.set_keep_session(true);
  v1::KillResponse killed;
  ASSERT_TRUE(stub_->Kill(&kill_context, kill, &killed).ok());
  ASSERT_EQ(killed.shards_size(), 1);
  EXPECT_EQ(killed.shards(0).state(), v1::SHARD_STATE_STOPPED);
  ASSERT_TRUE(discord_->WaitUntil([&] { return !discord_->Session({0, kShards})->connected; }));
  discord_->EmitTraffic(500);

  v1::SpawnRequest spawn;
  spawn.add_shard_ids(0);
  v1::SpawnResponse spawned;
  ASSERT_TRUE(stub_->Spawn(&spawn_context, spawn, &spawned).ok());
  ASSERT_TRUE(WaitForResumes(1)) << server_->err();
  ASSERT_TRUE(AllConnected());
  EXPECT_EQ(discord_->counters().identifies, kShards);
  ExpectExact(*stream_);
}

TEST_F(DeliveryTest, AKilledShardEndsItsSessionAndSpawnsAnew) {
  Start();
  grpc::ClientContext kill_context, spawn_context;
  v1::KillRequest kill;
  kill.add_shard_ids(1);
  v1::KillResponse killed;
  ASSERT_TRUE(stub_->Kill(&kill_context, kill, &killed).ok());
  ASSERT_TRUE(discord_->WaitUntil([&] { return discord_->counters().client_closes[1000] == 1; }));
  EXPECT_FALSE(discord_->Session({1, kShards}).has_value());

  v1::SpawnRequest spawn;
  v1::SpawnResponse spawned;
  ASSERT_TRUE(stub_->Spawn(&spawn_context, spawn, &spawned).ok());
  EXPECT_EQ(spawned.shards_size(), static_cast<int>(kShards))
      << "all of the generation; the running one stays";
  ASSERT_TRUE(discord_->WaitForSessions(kShards, kShards, std::chrono::seconds(20)));
  EXPECT_EQ(discord_->counters().identifies, kShards + 1);
  discord_->EmitTraffic(200);
  ExpectExact(*stream_);
  for (const auto& event : stream_->events())
    EXPECT_NE(event.type(), "SHARDD_SESSION_LOST") << event.data();
}

TEST_F(DeliveryTest, AFatalCloseFailsThatShardWithAReasonAndSpawnTriesAgain) {
  Start();
  ASSERT_EQ(discord_->CloseWith(ShardId{1, kShards}, 4014), 1u);
  ASSERT_TRUE(WaitForState(1, v1::SHARD_STATE_FAILED)) << server_->err();
  ASSERT_TRUE(WaitForState(0, v1::SHARD_STATE_READY));
  grpc::ClientContext stats_context, spawn_context;
  v1::StatsResponse stats;
  ASSERT_TRUE(stub_->Stats(&stats_context, {}, &stats).ok());
  EXPECT_THAT(stats.shards(1).reason(), ::testing::HasSubstr("4014"));
  EXPECT_EQ(discord_->counters().identifies, kShards) << "nothing reconnects by itself";
  v1::SpawnResponse spawned;
  ASSERT_TRUE(stub_->Spawn(&spawn_context, {}, &spawned).ok());
  EXPECT_TRUE(WaitForState(1, v1::SHARD_STATE_READY)) << server_->err();
}

// ---- What comes over the wire ----

TEST_F(DeliveryTest, AReadyWithAllTheGuildsThatAShardCanHave) {
  options_.guilds = 2500;
  options_.recommended_shards = 1;
  Start();
  ExpectExact(*stream_);
  EXPECT_TRUE(Eventually([&] {
    grpc::ClientContext context;
    v1::StatsResponse stats;
    return stub_->Stats(&context, {}, &stats).ok() && stats.shards(0).guilds() == 2500;
  }));
}

TEST_F(DeliveryTest, GuildsOfOverAMegabyte) {
  options_.large_guilds = 3;
  Start();
  ExpectExact(*stream_);
  size_t large = 0;
  for (const auto& event : stream_->events()) large += event.data_bytes() > 1'000'000;
  EXPECT_EQ(large, 3u);
}

TEST_F(DeliveryTest, UnknownTypesPassAndUnknownOpcodesDoNoHarm) {
  Start();
  const uint64_t guild = discord_->guild_ids().front();
  const std::string data =
      R"({"novelty":[1,{"guild_id":"1"}],"guild_id":")" + std::to_string(guild) + "\"}";
  ASSERT_EQ(discord_->Emit("SOMETHING_THAT_NOBODY_KNOWS", guild, data), 1u);
  ASSERT_EQ(discord_->SendRaw({}, R"({"t":null,"s":null,"op":77,"d":{"x":1}})"), kShards);
  discord_->EmitTraffic(100);
  ExpectExact(*stream_);
  const auto events = stream_->events();
  const auto found = std::find_if(events.begin(), events.end(), [](const auto& event) {
    return event.type() == "SOMETHING_THAT_NOBODY_KNOWS";
  });
  ASSERT_NE(found, events.end());
  EXPECT_EQ(found->guild_id(), guild);
  EXPECT_EQ(discord_->counters().connections, kShards) << "the connection was given up";
}

TEST_F(DeliveryTest, GarbageEndsTheConnectionAndTheSessionResumes) {
  Start();
  uint64_t resumes = 0;
  for (const char* garbage : {"not json", "{", R"({"t":"lower case","s":1,"op":0,"d":{}})", "[]",
                              R"({"t":"MESSAGE_CREATE","s":99,"op":0,"d":{)"}) {
    ASSERT_EQ(discord_->SendRaw(ShardId{0, kShards}, garbage), 1u);
    ASSERT_TRUE(WaitForResumes(++resumes)) << garbage << "\n" << server_->err();
    ASSERT_TRUE(AllConnected());
  }
  discord_->EmitTraffic(100);
  ExpectExact(*stream_);
  EXPECT_EQ(discord_->counters().identifies, kShards);
}

TEST_F(DeliveryTest, OverTlsWithACertificateThatTheSystemTrusts) {
  options_.tls = true;
  Start();
  discord_->EmitTraffic(500);
  ExpectExact(*stream_);
}

// ---- Servers that are not Discord ----

struct NamedQuirk {
  const char* name;
  void (*apply)(simulator::Quirks&);
};

// For the names of the tests, which CTest lists with their parameters.
void PrintTo(const NamedQuirk& quirk, std::ostream* out) { *out << quirk.name; }

class QuirkTest : public DeliveryTest, public ::testing::WithParamInterface<NamedQuirk> {};

TEST_P(QuirkTest, DoesNoHarm) {
  GetParam().apply(options_.quirks);
  for (const char* compression : {"zstd-stream", "zlib-stream"}) {
    compression_ = compression;
    Start();
    discord_->EmitTraffic(200);
    ExpectExact(*stream_);
    stream_.reset();
    server_.reset();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Servers, QuirkTest,
    ::testing::Values(
        NamedQuirk{"FirstSequenceIsZero",
                   [](simulator::Quirks& quirks) { quirks.first_sequence_zero = true; }},
        NamedQuirk{"HelloHasNoSequenceAndType",
                   [](simulator::Quirks& quirks) { quirks.bare_hello = true; }},
        NamedQuirk{"KeysComeInAnotherOrder",
                   [](simulator::Quirks& quirks) { quirks.data_first = true; }},
        NamedQuirk{"EachMessageIsACompleteFrame",
                   [](simulator::Quirks& quirks) { quirks.complete_frames = true; }},
        NamedQuirk{"CompressionIsIgnored",
                   [](simulator::Quirks& quirks) { quirks.ignore_compress = true; }},
        NamedQuirk{"NoAckBeforeIdentify",
                   [](simulator::Quirks& quirks) { quirks.ack_after_identify_only = true; }},
        NamedQuirk{"UserAgentIsAskedFor",
                   [](simulator::Quirks& quirks) { quirks.require_user_agent = true; }}),
    [](const auto& test) { return test.param.name; });

TEST_F(DeliveryTest, EventsOfForeignGuildsPass) {
  options_.quirks.foreign_guilds = true;
  Start();
  discord_->EmitTraffic(200);
  ExpectExact(*stream_);
}

TEST_F(DeliveryTest, AResumeThatIsAlwaysRefusedEndsInANewSession) {
  options_.quirks.refuse_resume = true;
  Start();
  ASSERT_EQ(discord_->DropConnections(ShardId{0, kShards}), 1u);
  ASSERT_TRUE(discord_->WaitUntil([&] { return discord_->counters().identifies == kShards + 1; },
                                  std::chrono::seconds(20)))
      << server_->err();
  ASSERT_TRUE(AllConnected());
  discord_->EmitTraffic(200);
  ExpectExact(*stream_);
}

// ---- Subscribers ----

TEST_F(DeliveryTest, ASubscriberThatComesBackWithItsCursorMissesNothing) {
  options_.rate = 2000;
  Start();
  ASSERT_TRUE(stream_->WaitForEvents(500));
  uint64_t next_offset = 0;
  v1::EventsRequest request = test::FromEarliest();
  for (int visit = 0; visit < 5; ++visit) {
    EventStream stream(*stub_, request);
    ASSERT_TRUE(stream.WaitForEvents(300));
    stream.Cancel();
    stream.Finish();
    for (const auto& event : stream.events()) ASSERT_EQ(event.offset(), next_offset++);
    request.set_cursor(stream.cursor());
  }
}

TEST_F(DeliveryTest, ASubscriberFromLatestGetsWhatComesNext) {
  Start();
  ASSERT_TRUE(CatchUp(*stream_));
  const uint64_t end = stream_->events().size();
  for (const bool explicitly : {true, false}) {
    v1::EventsRequest request;
    if (explicitly) request.set_from(v1::START_FROM_LATEST);
    EventStream latest(*stub_, request);
    ASSERT_TRUE(latest.WaitFor([](const auto& batches) { return !batches.empty(); }));
    EXPECT_EQ(latest.batches().front().events_size(), 0) << "the first message comes at once";
    EXPECT_NE(latest.cursor(), "");
    discord_->EmitTraffic(10);
    ASSERT_TRUE(latest.WaitForEvents(10));
    EXPECT_GE(latest.events().front().offset(), end);
  }
}

TEST_F(DeliveryTest, AnIdleStreamSaysWhereItStandsWithinFiveSeconds) {
  Start();
  ASSERT_TRUE(CatchUp(*stream_));
  const size_t before = stream_->batches().size();
  const auto started = std::chrono::steady_clock::now();
  ASSERT_TRUE(stream_->WaitFor([&](const auto& batches) { return batches.size() > before; }));
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::milliseconds(5500));
  EXPECT_EQ(stream_->batches().back().events_size(), 0);
}

TEST_F(DeliveryTest, BatchesKeepToWhatTheSubscriberAsksFor) {
  options_.large_guilds = 1;
  Start();
  discord_->EmitTraffic(1000);
  ASSERT_TRUE(CatchUp(*stream_));
  const auto all = stream_->events();

  v1::EventsRequest by_events = test::FromEarliest();
  by_events.set_max_batch_events(7);
  v1::EventsRequest by_bytes = test::FromEarliest();
  by_bytes.set_max_batch_bytes(10'000);
  v1::EventsRequest small_events = test::FromEarliest();
  small_events.set_max_event_bytes(2000);
  for (const auto& request : {by_events, by_bytes, small_events}) {
    EventStream stream(*stub_, request);
    ASSERT_TRUE(stream.WaitForEvents(all.size()));
    const auto events = stream.events();
    for (size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(events[i].offset(), all[i].offset());
      ASSERT_EQ(events[i].data_bytes(), all[i].data().size());
      const bool left_out =
          request.max_event_bytes() > 0 && all[i].data().size() > request.max_event_bytes();
      ASSERT_EQ(events[i].data(), left_out ? "" : all[i].data());
    }
    for (const auto& batch : stream.batches()) {
      if (request.max_batch_events() > 0) {
        ASSERT_LE(batch.events_size(), 7);
      }
      if (request.max_batch_bytes() > 0 && batch.events_size() > 1) {
        ASSERT_LE(batch.ByteSizeLong(), 10'100u);
      }
    }
  }
}

TEST_F(DeliveryTest, ASubscriberMayAskForItsBatchesToWait) {
  Start();
  ASSERT_TRUE(CatchUp(*stream_));
  v1::EventsRequest request;
  request.set_max_delay_ms(300);
  EventStream patient(*stub_, request);
  ASSERT_TRUE(patient.WaitFor([](const auto& batches) { return !batches.empty(); }));
  discord_->SetRate(200);
  ASSERT_TRUE(patient.WaitForEvents(150));
  const auto batches = patient.batches();
  // 200 events a second for 300 ms each: few batches, where each event would have come alone.
  EXPECT_LT(batches.size(), 12u);
}

TEST_F(DeliveryTest, ASubscriberBehindWhatIsKeptGetsOneGapThatCountsTheLoss) {
  // What comes at the start is far less than what is kept, too.
  options_.guilds = 10;
  Start({"--retain-bytes", "2MiB"});
  ASSERT_TRUE(stream_->WaitFor([](const auto& batches) { return !batches.empty(); }));
  const std::string first_cursor = stream_->batches().front().cursor();
  const uint64_t first_offset = static_cast<uint64_t>(stream_->batches().front().events_size());
  for (int i = 0; i < 25; ++i) {
    // Far less than what is kept, so that the one that reads is never overtaken.
    discord_->EmitTraffic(200);
    ASSERT_TRUE(CatchUp(*stream_));
  }
  v1::EventsRequest request;
  request.set_cursor(first_cursor);
  EventStream late(*stub_, request);
  ASSERT_TRUE(late.WaitForEvents(1));
  const auto batches = late.batches();
  ASSERT_TRUE(batches.front().has_gap());
  const v1::Gap& gap = batches.front().gap();
  EXPECT_EQ(gap.reason(), v1::GAP_REASON_NOT_RETAINED);
  EXPECT_EQ(gap.from(), first_cursor);
  ASSERT_TRUE(gap.has_lost_events());
  EXPECT_EQ(first_offset + gap.lost_events(), late.events().front().offset());
  for (size_t i = 1; i < batches.size(); ++i) EXPECT_FALSE(batches[i].has_gap());
}

TEST_F(DeliveryTest, ACursorOfAnotherLogStartsAtTheOldestEventWithAGap) {
  Start();
  ASSERT_TRUE(CatchUp(*stream_));
  const std::string foreign = stream_->cursor();
  stream_.reset();
  server_.reset();
  Start();
  v1::EventsRequest request;
  request.set_cursor(foreign);
  EventStream stream(*stub_, request);
  ASSERT_TRUE(stream.WaitForEvents(1));
  const auto batch = stream.batches().front();
  ASSERT_TRUE(batch.has_gap());
  EXPECT_EQ(batch.gap().reason(), v1::GAP_REASON_OTHER_LOG);
  EXPECT_EQ(batch.gap().from(), foreign);
  EXPECT_FALSE(batch.gap().has_lost_events());
  EXPECT_EQ(stream.events().front().offset(), 0u);
}

TEST_F(DeliveryTest, ASubscriberThatDoesNotReadHoldsUpNobody) {
  Start({"--retain-bytes", "8MiB"});
  grpc::ClientContext stalled_context;
  auto stalled = stub_->Events(&stalled_context, test::FromEarliest());
  v1::EventBatch batch;
  ASSERT_TRUE(stalled->Read(&batch));
  for (int i = 0; i < 20; ++i) {
    discord_->EmitTraffic(1000);
    ASSERT_TRUE(CatchUp(*stream_)) << "the one that reads waits for the one that does not";
  }
  ExpectExact(*stream_);
  // It goes on where it stood, or behind one gap that counts.
  uint64_t next_offset = static_cast<uint64_t>(batch.events_size());
  const uint64_t end = stream_->events().size();
  while (next_offset < end) {
    ASSERT_TRUE(stalled->Read(&batch));
    if (batch.has_gap()) next_offset += batch.gap().lost_events();
    for (const auto& event : batch.events()) ASSERT_EQ(event.offset(), next_offset++);
  }
  stalled_context.TryCancel();
  while (stalled->Read(&batch)) {
  }
  stalled->Finish();
}

TEST_F(DeliveryTest, AStopDeliversWhatThereIsKeepsTheSessionsAndEndsTheStreams) {
  options_.rate = 2000;
  Start();
  ASSERT_TRUE(stream_->WaitForEvents(1000));
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->WaitForExit(), 0) << server_->err();
  const grpc::Status status = stream_->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(stream_->reason(), "SERVER_STOPPING");
  const auto closes = discord_->counters().client_closes;
  EXPECT_FALSE(closes.contains(1000) || closes.contains(1001)) << "these codes end the session";
  EXPECT_EQ(discord_->Sessions().size(), kShards);
  uint64_t next_offset = 0;
  for (const auto& event : stream_->events()) ASSERT_EQ(event.offset(), next_offset++);
  EXPECT_EQ(stream_->events().back().type(), "SHARDD_SHARD_STATE");
}

}  // namespace
}  // namespace shardd
