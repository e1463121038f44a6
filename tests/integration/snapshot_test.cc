// A bot that starts long after its shards has its guilds: what it is told first, and what it is
// told then, adds up to what is true.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <map>
#include <set>
#include <thread>

#include "events/cursor.h"
#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/guild_cache.h"
#include "support/shardd_process.h"
#include "support/temp_dir.h"

namespace shardd {
namespace {

using simulator::GuildState;
using simulator::Simulator;
using test::Differences;
using test::EventStream;
using test::Eventually;
using test::GuildCache;
using test::TrueGuilds;

constexpr uint32_t kShards = 3;

v1::EventsRequest WithSnapshot() {
  v1::EventsRequest request;
  request.set_snapshot(true);
  return request;
}

uint64_t OffsetOf(const std::string& cursor) {
  const auto parsed = events::ParseCursor(cursor);
  return parsed.ok() ? parsed->offset : 0;
}

class SnapshotTest : public ::testing::Test {
 protected:
  SnapshotTest() : discord_({.guilds = 60, .recommended_shards = kShards, .max_concurrency = 16}) {}

  void Start() {
    server_ = std::make_unique<test::ShardDProcess>(
        std::vector<std::string>{"--api-url", discord_.api_url(), "--listen", "127.0.0.1:0",
                                 "--admin-listen", "off", "--intents", "all", "--data-dir",
                                 directory_ / "data", "--retain-bytes", "8MiB"},
        test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
    ASSERT_NE(server_->address(), "") << server_->err();
    stub_ = test::Connect(server_->address());
    ASSERT_TRUE(discord_.WaitForSessions(kShards, kShards)) << server_->err();
    ASSERT_TRUE(CatchUp());
  }

  v1::StatsResponse Stats() {
    grpc::ClientContext context;
    v1::StatsResponse response;
    EXPECT_TRUE(stub_->Stats(&context, {}, &response).ok());
    return response;
  }

  // Waits until the log has all that the simulator has sent.
  bool CatchUp() {
    return Eventually([&] {
      const v1::StatsResponse stats = Stats();
      for (uint32_t id = 0; id < kShards; ++id) {
        const auto session = discord_.Session({id, kShards});
        if (!session.has_value() || static_cast<int>(id) >= stats.shards_size()) return false;
        if (stats.shards(static_cast<int>(id)).sequence() < session->sequence) return false;
      }
      return true;
    });
  }

  // What happens in an hour of a small bot: 20 events a second, and a change of a guild now and
  // then.
  void AnHourGoesBy() {
    for (int minute = 0; minute < 60; ++minute) {
      discord_.EmitTraffic(600);
      discord_.EmitStructure(60);
      discord_.EmitTraffic(600);
      ASSERT_TRUE(CatchUp());
    }
  }

  // Waits until the stream has got the snapshot and all that the log has now.
  bool WaitForNewest(EventStream& stream) {
    const uint64_t newest = OffsetOf(Stats().log().newest_cursor());
    return stream.WaitFor([&](const auto& batches) {
      if (batches.empty() || OffsetOf(batches.back().cursor()) < newest) return false;
      return batches.back().events_size() == 0 || !batches.back().events(0).snapshot();
    });
  }

  static GuildCache CacheOf(const std::vector<v1::Event>& events) {
    GuildCache cache;
    for (const auto& event : events) cache.Take(event.type(), event.data());
    return cache;
  }

  // First the snapshot, then everything from where it stops, once.
  static void ExpectNoHole(const std::vector<v1::EventBatch>& batches) {
    ASSERT_FALSE(batches.empty());
    const uint64_t position = OffsetOf(batches.front().cursor());
    uint64_t next = position;
    bool live = false;
    std::set<uint64_t> in_snapshot;
    for (const auto& batch : batches) {
      EXPECT_FALSE(batch.has_gap());
      for (const auto& event : batch.events()) {
        if (event.snapshot()) {
          EXPECT_FALSE(live) << "the snapshot goes on behind live events";
          EXPECT_LT(event.offset(), position);
          EXPECT_TRUE(in_snapshot.insert(event.offset()).second);
        } else {
          live = true;
          ASSERT_EQ(event.offset(), next++);
        }
      }
      if (!live) {
        EXPECT_EQ(OffsetOf(batch.cursor()), position);
      }
    }
  }

  test::TempDir directory_;
  Simulator discord_;
  std::unique_ptr<test::ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
};

TEST_F(SnapshotTest, BotThatStartsAnHourLaterHasItsGuilds) {
  Start();
  const auto at_start = TrueGuilds(discord_);
  AnHourGoesBy();
  const auto truth = TrueGuilds(discord_);
  ASSERT_NE(at_start, truth);
  // The log alone could not tell it.
  ASSERT_GT(OffsetOf(Stats().log().oldest_cursor()), 10'000u);

  EventStream stream(*stub_, WithSnapshot());
  ASSERT_TRUE(WaitForNewest(stream));
  ExpectNoHole(stream.batches());
  const GuildCache cache = CacheOf(stream.events());
  EXPECT_EQ(Differences(cache.guilds(), truth), "");
  EXPECT_EQ(cache.unknown(), 0u);
  std::map<std::string, int> types;
  for (const auto& event : stream.events()) ++types[event.type()];
  EXPECT_EQ(types["READY"], static_cast<int>(kShards));
  EXPECT_EQ(types["MESSAGE_CREATE"], 0);

  const v1::SnapshotStats stats = Stats().snapshot();
  EXPECT_EQ(stats.guilds(), truth.size());
  EXPECT_EQ(stats.readys(), kShards);
  EXPECT_EQ(stats.guilds_left_out(), 0u);
  EXPECT_GT(stats.bytes(), 0u);
  EXPECT_GE(stats.disk_bytes(), stats.bytes());
  EXPECT_EQ(stats.limit_bytes(), uint64_t{1} << 30);

  // It goes on live.
  discord_.EmitStructure(500);
  ASSERT_TRUE(CatchUp());
  ASSERT_TRUE(WaitForNewest(stream));
  EXPECT_EQ(Differences(CacheOf(stream.events()).guilds(), TrueGuilds(discord_)), "");
}

TEST_F(SnapshotTest, NothingIsMissingOrDoubledBetweenSnapshotAndLiveEvents) {
  Start();
  discord_.EmitStructure(500);
  std::atomic<bool> done = false;
  std::thread traffic([&] {
    while (!done) {
      discord_.EmitTraffic(20);
      discord_.EmitStructure(5);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  std::vector<std::unique_ptr<EventStream>> streams;
  for (uint32_t i = 0; i < 6; ++i) {
    v1::EventsRequest request = WithSnapshot();
    request.set_max_batch_events(1 + 5 * i);
    streams.push_back(std::make_unique<EventStream>(*stub_, request));
    EXPECT_TRUE(streams.back()->WaitFor([](const auto& batches) {
      return !batches.empty() && batches.back().events_size() > 0 &&
             !batches.back().events(0).snapshot();
    }));
  }
  done = true;
  traffic.join();
  ASSERT_TRUE(CatchUp());
  const auto truth = TrueGuilds(discord_);
  for (const auto& stream : streams) {
    ASSERT_TRUE(WaitForNewest(*stream));
    ExpectNoHole(stream->batches());
    EXPECT_EQ(Differences(CacheOf(stream->events()).guilds(), truth), "");
  }
}

TEST_F(SnapshotTest, OutlivesTheServersProcess) {
  Start();
  AnHourGoesBy();
  const size_t guilds = TrueGuilds(discord_).size();
  ASSERT_TRUE(Eventually([&] { return Stats().snapshot().guilds() == guilds; }));
  server_->Signal(SIGKILL);
  server_->WaitForExit();
  discord_.EmitStructure(200);
  Start();
  EventStream stream(*stub_, WithSnapshot());
  ASSERT_TRUE(WaitForNewest(stream));
  EXPECT_EQ(Differences(CacheOf(stream.events()).guilds(), TrueGuilds(discord_)), "");
  EXPECT_EQ(discord_.counters().identifies, kShards);
  size_t counted = 0;
  const v1::StatsResponse stats = Stats();
  for (const auto& shard : stats.shards()) counted += shard.guilds();
  EXPECT_EQ(counted, TrueGuilds(discord_).size());
}

TEST_F(SnapshotTest, PartitionsHaveTheirGuildsAlone) {
  Start();
  discord_.EmitStructure(1000);
  ASSERT_TRUE(CatchUp());
  const auto truth = TrueGuilds(discord_);
  std::map<uint64_t, GuildState> together;
  for (uint32_t index = 0; index < 2; ++index) {
    v1::EventsRequest request = WithSnapshot();
    request.mutable_filter()->mutable_partition()->set_index(index);
    request.mutable_filter()->mutable_partition()->set_count(2);
    EventStream stream(*stub_, request);
    ASSERT_TRUE(WaitForNewest(stream));
    GuildCache cache;
    for (const auto& event : stream.events()) {
      // READY, which is of no guild and lists those of all partitions, comes to the first one.
      if (event.type() == "READY") {
        EXPECT_EQ(index, 0u);
      } else if (event.guild_id() != 0) {
        EXPECT_EQ((event.guild_id() >> 22) % 2, index);
        cache.Take(event.type(), event.data());
      }
    }
    for (const auto& [id, guild] : cache.guilds()) EXPECT_TRUE(together.emplace(id, guild).second);
  }
  EXPECT_EQ(Differences(together, truth), "");
}

TEST_F(SnapshotTest, ClientThatBrokeOffStartsAgainAtItsCursor) {
  Start();
  discord_.EmitStructure(500);
  ASSERT_TRUE(CatchUp());
  v1::EventsRequest request = WithSnapshot();
  request.set_max_batch_events(3);
  std::string cursor;
  {
    EventStream stream(*stub_, request);
    ASSERT_TRUE(stream.WaitForEvents(6));
    cursor = stream.batches().front().cursor();
  }
  discord_.EmitStructure(500);
  discord_.EmitTraffic(500);
  ASSERT_TRUE(CatchUp());
  request.set_cursor(cursor);
  EventStream stream(*stub_, request);
  ASSERT_TRUE(WaitForNewest(stream));
  EXPECT_EQ(Differences(CacheOf(stream.events()).guilds(), TrueGuilds(discord_)), "");
  // All of the events since come as usual, too.
  uint64_t next = OffsetOf(cursor);
  for (const auto& event : stream.events()) {
    if (!event.snapshot()) {
      ASSERT_EQ(event.offset(), next++);
    }
  }
}

TEST_F(SnapshotTest, NamedConsumerGoesOnBehindTheSnapshot) {
  Start();
  v1::EventsRequest request = WithSnapshot();
  request.set_consumer("bot");
  uint64_t position = 0;
  {
    EventStream stream(*stub_, request);
    ASSERT_TRUE(WaitForNewest(stream));
    ExpectNoHole(stream.batches());
    position = OffsetOf(stream.batches().front().cursor());
  }
  // It has acknowledged nothing, so it gets everything since then.
  discord_.EmitTraffic(100);
  ASSERT_TRUE(CatchUp());
  EventStream stream(*stub_, request);
  ASSERT_TRUE(WaitForNewest(stream));
  EXPECT_EQ(OffsetOf(stream.batches().front().cursor()), position);
  EXPECT_EQ(Differences(CacheOf(stream.events()).guilds(), TrueGuilds(discord_)), "");
}

}  // namespace
}  // namespace shardd
