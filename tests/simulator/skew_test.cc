// Sessions of two shard counts side by side, and how what they get differs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "simulator/lag.h"
#include "simulator/simulator.h"
#include "support/canonical.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::GatewayClient;

std::vector<std::string> Types(const std::vector<SentDispatch>& sent) {
  std::vector<std::string> types;
  for (const auto& dispatch : sent) types.push_back(dispatch.type);
  return types;
}

TEST(LagTest, StaysWithinItsRangeAndChangesSlowly) {
  const Lag range{milliseconds(100), milliseconds(900)};
  const SteadyTime start = SteadyClock::now();
  auto last = LagAt(range, 1, start);
  auto least = last;
  auto most = last;
  for (int i = 1; i < 60'000; ++i) {
    const auto lag = LagAt(range, 1, start + milliseconds(i));
    least = std::min(least, lag);
    most = std::max(most, lag);
    EXPECT_LE(lag > last ? lag - last : last - lag, milliseconds(3)) << i;
    last = lag;
  }
  EXPECT_GE(least, milliseconds(100));
  EXPECT_LT(least, milliseconds(200));
  EXPECT_LE(most, milliseconds(900));
  EXPECT_GT(most, milliseconds(800));
  EXPECT_EQ(LagAt({}, 1, start).count(), 0);
}

class SkewTest : public testing::Test {
 protected:
  // A session of one shard, and one of two shards that has the first guild.
  void Start(uint64_t intents = test::kAllIntents) {
    one_ = Open({0, 1}, intents);
    two_ = Open({ShardForGuild(guild(), 2), 2}, intents);
  }
  std::unique_ptr<GatewayClient> Open(ShardId shard, uint64_t intents) {
    auto client = std::make_unique<GatewayClient>(simulator_.port());
    EXPECT_TRUE(client->Start(shard, intents).has_value());
    EXPECT_TRUE(simulator_.WaitForSessions(shard.count, 1));
    return client;
  }
  uint64_t guild() const { return simulator_.guild_ids()[0]; }
  // What the session has been given since its start, of this guild.
  std::vector<SentDispatch> Of(const GatewayClient& client, uint64_t guild_id) {
    auto sent = simulator_.Sent(client.session_id());
    std::erase_if(sent, [&](const auto& one) {
      return one.guild_id != guild_id || one.type == "GUILD_CREATE";
    });
    return sent;
  }
  void EmitNumbered(int n, const char* type = "X") {
    for (int i = 0; i < n; ++i) simulator_.Emit(type, guild(), std::to_string(i));
  }

  Simulator simulator_{
      {.guilds = 6, .identify_window = milliseconds(0), .record = true, .record_emitted = true}};
  std::unique_ptr<GatewayClient> one_;
  std::unique_ptr<GatewayClient> two_;
};

TEST_F(SkewTest, ALaggingSideGetsTheSameLaterAndInOrder) {
  simulator_.SetLag(2, {milliseconds(300), milliseconds(600)});
  Start();
  const auto begun = SteadyClock::now();
  EmitNumbered(50);
  simulator_.Emit("LAST", guild(), "{}");
  ASSERT_TRUE(one_->ReadType("LAST").has_value());
  ASSERT_TRUE(two_->ReadType("LAST").has_value());
  EXPECT_GE(SteadyClock::now() - begun, milliseconds(300));
  const auto sent = simulator_.Sent(two_->session_id());
  ASSERT_EQ(sent.size(), two_->dispatches().size());
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(sent[i].sequence, two_->dispatches()[i].sequence);
    EXPECT_EQ(sent[i].data, two_->dispatches()[i].data);
  }
}

TEST_F(SkewTest, NoAckOvertakesWhatWasOnItsWay) {
  Start();
  simulator_.SetLag(2, {milliseconds(300), milliseconds(300)});
  simulator_.Emit("X", guild(), "{}");
  two_->Heartbeat(1);
  const auto first = two_->ReadOp(11);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(two_->dispatches().back().type, "X");
}

TEST_F(SkewTest, WhatWasOnItsWayToALostConnectionComesWithAResume) {
  Start();
  simulator_.SetLag(2, {std::chrono::seconds(60), std::chrono::seconds(60)});
  EmitNumbered(3);
  const uint64_t seen = two_->sequence();
  simulator_.DropConnections(ShardId{ShardForGuild(guild(), 2), 2});
  simulator_.SetLag(2, {});
  GatewayClient resumed(simulator_.port());
  resumed.ReadOp(10);
  resumed.Resume(two_->session_id(), seen);
  ASSERT_TRUE(resumed.ReadType("RESUMED").has_value());
  EXPECT_EQ(resumed.dispatches().size(), simulator_.Sent(two_->session_id()).size() - seen);
}

TEST_F(SkewTest, NeighboursOfAGuildChangePlacesOnOneSideOnly) {
  simulator_.SetSkew(2, {.swapped = 0.3});
  Start();
  EmitNumbered(400);
  ASSERT_TRUE(simulator_.WaitUntil([&] { return Of(*two_, guild()).size() == 400; }));
  const auto straight = Of(*one_, guild());
  const auto swapped = Of(*two_, guild());
  size_t moved = 0;
  std::vector<int> numbers;
  for (size_t i = 0; i < 400; ++i) {
    EXPECT_EQ(straight[i].data, std::to_string(i));
    const int number = std::stoi(swapped[i].data);
    EXPECT_LE(std::abs(number - static_cast<int>(i)), 1);
    moved += number != static_cast<int>(i);
    numbers.push_back(number);
  }
  EXPECT_GT(moved, 100u);
  std::sort(numbers.begin(), numbers.end());
  for (int i = 0; i < 400; ++i) EXPECT_EQ(numbers[static_cast<size_t>(i)], i);
}

TEST_F(SkewTest, InteractionsComeLateWithoutHoldingUpOthers) {
  simulator_.SetSkew(2, {.interactions = {milliseconds(100), milliseconds(200)}});
  Start();
  EmitNumbered(5, "INTERACTION_CREATE");
  EmitNumbered(1);
  ASSERT_TRUE(simulator_.WaitUntil([&] { return Of(*two_, guild()).size() == 6; }));
  EXPECT_EQ(Types(Of(*one_, guild())).back(), "X");
  const auto late = Of(*two_, guild());
  EXPECT_EQ(late.front().type, "X");
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(late[i + 1].data, std::to_string(i));
}

TEST_F(SkewTest, SomeEventsComeToOneSideAlone) {
  simulator_.SetSkew(2, {.one_sided = 0.2});
  Start();
  EmitNumbered(500);
  const size_t both = Of(*one_, guild()).size();
  EXPECT_EQ(Of(*two_, guild()).size(), 500u);
  EXPECT_GT(both, 300u);
  EXPECT_LT(both, 450u);
  size_t alone = 0;
  for (const auto& event : simulator_.TakeEmitted()) {
    if (event.type != "X") continue;
    if (event.shard_counts == std::vector<uint32_t>{2}) ++alone;
  }
  EXPECT_EQ(alone, 500 - both);
}

TEST_F(SkewTest, WhatWasEmittedIsTheOneTrueOrder) {
  simulator_.SetPermuteKeys(true);
  Start();
  simulator_.EmitTraffic(300);
  simulator_.EmitStructure(300);
  std::map<uint64_t, std::vector<uint64_t>> truth;
  int64_t last = 0;
  for (const auto& event : simulator_.TakeEmitted()) {
    EXPECT_GE(event.unix_nanos, last);
    last = event.unix_nanos;
    EXPECT_THAT(event.shard_counts, testing::Contains(1));
    if (event.type == "GUILD_CREATE") continue;
    truth[event.guild_id].push_back(test::CanonicalDigest(event.type, event.data));
  }
  EXPECT_TRUE(simulator_.TakeEmitted().empty());
  for (const uint64_t id : simulator_.guild_ids()) {
    std::vector<const GatewayClient*> owners = {one_.get()};
    if (ShardForGuild(id, 2) == ShardForGuild(guild(), 2)) owners.push_back(two_.get());
    for (const GatewayClient* client : owners) {
      std::vector<uint64_t> digests;
      for (const auto& sent : Of(*client, id)) {
        digests.push_back(test::CanonicalDigest(sent.type, sent.data));
      }
      EXPECT_EQ(digests, truth[id]);
    }
  }
}

TEST_F(SkewTest, GuildsThatComeAndGoAreToldToBothSidesAlike) {
  Start();
  simulator_.EmitStructure(3000);
  std::map<std::string, size_t> moves;
  for (const uint64_t id : simulator_.guild_ids()) {
    if (ShardForGuild(id, 2) != ShardForGuild(guild(), 2)) continue;
    std::vector<std::string> told[2];
    for (int side = 0; side < 2; ++side) {
      for (const auto& sent : simulator_.Sent((side == 0 ? one_ : two_)->session_id())) {
        if (sent.guild_id != id) continue;
        told[side].push_back(sent.type + sent.data);
        if (side == 0) ++moves[sent.type];
      }
    }
    EXPECT_EQ(told[0], told[1]);
  }
  EXPECT_GT(moves["GUILD_DELETE"], 5u);
  EXPECT_GT(moves["GUILD_CREATE"], 5u);
}

TEST_F(SkewTest, WithoutTheIntentGuildsNoGuildIsToldOf) {
  Start(test::kAllIntents & ~uint64_t{1});
  simulator_.EmitStructure(500);
  simulator_.EmitTraffic(100);
  for (const GatewayClient* client : {one_.get(), two_.get()}) {
    const auto types = Types(simulator_.Sent(client->session_id()));
    EXPECT_THAT(types, testing::Not(testing::Contains("GUILD_CREATE")));
    EXPECT_THAT(types, testing::Not(testing::Contains("GUILD_DELETE")));
    EXPECT_THAT(types, testing::Contains("MESSAGE_CREATE"));
  }
  for (const auto& event : simulator_.TakeEmitted()) {
    EXPECT_EQ(event.shard_counts.empty(),
              event.type.starts_with("GUILD_CREATE") || event.type.starts_with("GUILD_DELETE") ||
                  event.type.starts_with("GUILD_UPDATE") || event.type.starts_with("GUILD_ROLE") ||
                  event.type.starts_with("CHANNEL"))
        << event.type;
    if (!event.shard_counts.empty()) break;
  }
}

TEST_F(SkewTest, EventsOfNoGuildComeToBothFirstShards) {
  const auto one = Open({0, 1}, test::kAllIntents);
  const auto two = Open({0, 2}, test::kAllIntents);
  const auto other = Open({1, 2}, test::kAllIntents);
  EXPECT_EQ(simulator_.Emit("MESSAGE_CREATE", 0, R"({"id":"1"})"), 2u);
  EXPECT_EQ(Types(Of(*one, 0)).back(), "MESSAGE_CREATE");
  EXPECT_EQ(Types(Of(*two, 0)).back(), "MESSAGE_CREATE");
  EXPECT_EQ(Types(Of(*other, 0)).back(), "READY");
}

TEST_F(SkewTest, AWrongCountIsRefusedWhileTheOtherGoesOn) {
  const auto old = Open({0, 1}, test::kAllIntents);
  simulator_.SetShardCountMultiple(3);
  GatewayClient wrong(simulator_.port());
  wrong.ReadOp(10);
  wrong.Identify({0, 2});
  EXPECT_EQ(wrong.ReadClose(), 4010);
  simulator_.SetShardCountMultiple(1);
  simulator_.SetMaxGuildsPerShard(3);
  GatewayClient crowded(simulator_.port());
  crowded.ReadOp(10);
  crowded.Identify({0, 1});
  EXPECT_EQ(crowded.ReadClose(), 4011);
  simulator_.SetDisallowedIntents(2);
  GatewayClient forbidden(simulator_.port());
  forbidden.ReadOp(10);
  forbidden.Identify({0, 7});
  EXPECT_EQ(forbidden.ReadClose(), 4014);
  simulator_.Emit("LAST", 0, "{}");
  EXPECT_TRUE(old->ReadType("LAST").has_value());
}

TEST_F(SkewTest, CountersTellWhoIdentifiedAndTheMostConnections) {
  auto one = Open({0, 1}, test::kAllIntents);
  {
    const auto two = Open({0, 2}, test::kAllIntents);
    const auto other = Open({1, 2}, test::kAllIntents);
  }
  ASSERT_TRUE(simulator_.WaitUntil([&] { return simulator_.counters().open_connections == 1; }));
  EXPECT_EQ(simulator_.counters().peak_open_connections, 3u);
  EXPECT_EQ(simulator_.counters().identifies_by_shard_count,
            (std::map<uint32_t, uint64_t>{{1, 1}, {2, 2}}));
  simulator_.ResetPeakConnections();
  EXPECT_EQ(simulator_.counters().peak_open_connections, 1u);
}

TEST_F(SkewTest, OrdersOverHttpDoTheSame) {
  for (const char* order :
       {"lag?count=2&min=200&max=300", "skew?count=2&swapped=100&one_sided=20&interactions_min=5",
        "limits?max_guilds_per_shard=5000", "equal-payloads?share=30"}) {
    EXPECT_EQ(test::Fetch(simulator_.port(), "POST", std::string("/simulator/") + order).status,
              200u)
        << order;
  }
  EXPECT_EQ(test::Fetch(simulator_.port(), "POST", "/simulator/skew?count=2&swapped=1001").status,
            400u);
  const auto status = test::Fetch(simulator_.port(), "GET", "/simulator/status");
  EXPECT_THAT(status.body, testing::HasSubstr(R"("peak_open_connections":0)"));
  EXPECT_THAT(status.body, testing::HasSubstr(R"("identifies_by_shard_count":{})"));
}

TEST(EqualPayloadsTest, ComeAgainByteForByteAndChangeNothingElse) {
  Simulator plain({.guilds = 20, .record_emitted = true});
  Simulator equal({.guilds = 20, .equal_payloads = 0.1, .record_emitted = true});
  plain.EmitTraffic(3000);
  equal.EmitTraffic(3000);
  const auto repeats = [](const std::vector<EmittedEvent>& events) {
    std::map<std::pair<uint64_t, std::string>, size_t> seen;
    size_t found = 0;
    for (const auto& event : events) found += seen[{event.guild_id, event.data}]++ > 0 ? 1 : 0;
    return found;
  };
  const auto straight = plain.TakeEmitted();
  auto repeated = equal.TakeEmitted();
  EXPECT_GT(repeats(repeated), repeats(straight) + 200);
  size_t next = 0;
  for (const auto& event : repeated) {
    if (event.data == straight[next].data) ++next;
  }
  EXPECT_GT(next, 2600u) << "the others are as they were";
  EXPECT_LT(next, 2800u);
}

}  // namespace
}  // namespace shardd::simulator
