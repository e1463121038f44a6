// Who gets which event: guilds, shards, intents, several shard counts side by side.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::GatewayClient;
using test::kAllIntents;

// A guild id that the given shard owns.
uint64_t GuildOf(ShardId shard) { return (uint64_t{shard.count} * 1'000'000 + shard.id) << 22; }

std::vector<std::string> TypesUntil(GatewayClient& client, std::string_view last) {
  const size_t before = client.dispatches().size();
  EXPECT_TRUE(client.ReadType(last).has_value());
  std::vector<std::string> types;
  for (size_t i = before; i < client.dispatches().size(); ++i) {
    types.push_back(client.dispatches()[i].type);
  }
  return types;
}

TEST(SessionTest, EveryGuildOfReadyIsCreated) {
  const Simulator simulator({.guilds = 40});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  std::set<uint64_t> created;
  while (created.size() < 40) {
    const auto create = client.ReadType("GUILD_CREATE");
    ASSERT_TRUE(create.has_value());
    EXPECT_EQ(create->sequence, created.size() + 2);
    EXPECT_FALSE(create->d().at("unavailable").as_bool());
    created.insert(std::stoull(std::string(create->d().at("id").as_string())));
  }
  EXPECT_THAT(client.ready_guilds(), testing::UnorderedElementsAreArray(created));
  EXPECT_TRUE(simulator.WaitForSessions(1, 1));
}

TEST(SessionTest, WithoutTheGuildsIntentNoneIsCreated) {
  Simulator simulator({.guilds = 40});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}, 1 << 9).has_value());
  simulator.Emit("MESSAGE_CREATE", simulator.guild_ids()[0], "{}");
  EXPECT_EQ(client.Read()->type, "MESSAGE_CREATE");
  EXPECT_TRUE(simulator.WaitForSessions(1, 1));
}

TEST(SessionTest, EventsGoByTheFormulaAndThoseWithoutGuildToShardZero) {
  Simulator simulator({.guilds = 0, .max_concurrency = 3});
  GatewayClient clients[] = {GatewayClient(simulator.port()), GatewayClient(simulator.port()),
                             GatewayClient(simulator.port())};
  for (uint32_t id = 0; id < 3; ++id) ASSERT_TRUE(clients[id].Start({id, 3}).has_value());
  for (uint32_t id = 0; id < 3; ++id) {
    EXPECT_EQ(simulator.Emit("FOR_" + std::to_string(id), GuildOf({id, 3}), "{}"), 1u);
  }
  EXPECT_EQ(simulator.Emit("DIRECT", 0, "{}"), 1u);
  for (uint32_t id = 0; id < 3; ++id) simulator.Emit("LAST", GuildOf({id, 3}), "{}");
  EXPECT_THAT(TypesUntil(clients[0], "LAST"), testing::ElementsAre("FOR_0", "DIRECT", "LAST"));
  EXPECT_THAT(TypesUntil(clients[1], "LAST"), testing::ElementsAre("FOR_1", "LAST"));
  EXPECT_THAT(TypesUntil(clients[2], "LAST"), testing::ElementsAre("FOR_2", "LAST"));
}

TEST(SessionTest, SeveralShardCountsAndEqualShardsLiveSideBySide) {
  Simulator simulator({.guilds = 30, .identify_window = milliseconds(0)});
  GatewayClient two(simulator.port());
  GatewayClient three(simulator.port());
  GatewayClient twin(simulator.port());
  ASSERT_TRUE(two.Start({1, 2}, 1 << 9).has_value());
  ASSERT_TRUE(three.Start({1, 3}, 1 << 9).has_value());
  ASSERT_TRUE(twin.Start({1, 3}, 1 << 9).has_value());
  simulator.EmitTraffic(2000);
  simulator.Emit("LAST", GuildOf({1, 6}), "{}");
  TypesUntil(two, "LAST");
  TypesUntil(three, "LAST");
  TypesUntil(twin, "LAST");
  ASSERT_EQ(three.dispatches().size(), twin.dispatches().size());
  for (size_t i = 1; i < three.dispatches().size(); ++i) {
    EXPECT_EQ(three.dispatches()[i].text, twin.dispatches()[i].text);
  }
  // Of a guild that both own, both get the same, in the same order.
  const auto shared = [](const GatewayClient& client) {
    std::vector<std::string> found;
    for (const auto& payload : client.dispatches()) {
      const auto* guild = payload.d().as_object().if_contains("guild_id");
      if (guild == nullptr) continue;
      if ((std::stoull(std::string(guild->as_string())) >> 22) % 6 == 1)
        found.push_back(payload.data);
    }
    return found;
  };
  EXPECT_FALSE(shared(two).empty());
  EXPECT_EQ(shared(two), shared(three));
}

TEST(SessionTest, TrafficHonoursShardAndIntents) {
  Simulator simulator({.guilds = 50});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({1, 2}, (1 << 9) | (1 << 11)).has_value());
  simulator.EmitTraffic(1000);
  simulator.Emit("LAST", GuildOf({1, 2}), "{}");
  std::set<std::string> types;
  for (const auto& type : TypesUntil(client, "LAST")) types.insert(type);
  // INTERACTION_CREATE comes whatever the intents.
  EXPECT_THAT(types,
              testing::UnorderedElementsAre("INTERACTION_CREATE", "LAST", "MESSAGE_CREATE",
                                            "MESSAGE_DELETE", "MESSAGE_UPDATE", "TYPING_START"));
  for (const auto& payload : client.dispatches()) {
    const auto* guild = payload.d().as_object().if_contains("guild_id");
    if (guild == nullptr) continue;
    EXPECT_EQ((std::stoull(std::string(guild->as_string())) >> 22) % 2, 1u);
  }
}

TEST(SessionTest, TheRateIsKeptAndNumbersHaveNoHoles) {
  Simulator simulator({.guilds = 20});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  simulator.SetRate(2000);
  EXPECT_TRUE(simulator.WaitUntil([&] { return simulator.counters().events >= 500; }));
  simulator.SetRate(0);
  simulator.Emit("LAST", 0, "{}");
  TypesUntil(client, "LAST");
  uint64_t expected = 1;
  for (const auto& payload : client.dispatches()) EXPECT_EQ(payload.sequence, expected++);
  EXPECT_EQ(simulator.Session({0, 1})->sequence, expected - 1);
}

TEST(SessionTest, SentHoldsEveryByteThatWasSent) {
  Simulator simulator({.guilds = 20, .record = true});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  simulator.EmitTraffic(300);
  ASSERT_TRUE(simulator.WaitForSessions(1, 1));
  simulator.Emit("LAST", 0, R"({"spaces" : "kept"})");
  TypesUntil(client, "LAST");
  client.Close(1000);
  ASSERT_TRUE(simulator.WaitUntil([&] { return !simulator.Session({0, 1}).has_value(); }));

  const auto sent = simulator.Sent(client.session_id());
  ASSERT_EQ(sent.size(), client.dispatches().size());
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(sent[i].sequence, client.dispatches()[i].sequence);
    EXPECT_EQ(sent[i].type, client.dispatches()[i].type);
    EXPECT_EQ(sent[i].data, client.dispatches()[i].data);
  }
  ASSERT_EQ(simulator.Sessions().size(), 1u);
  EXPECT_FALSE(simulator.Sessions()[0].alive);
}

TEST(SessionTest, ReadyWith2500Guilds) {
  const Simulator simulator({.guilds = 2500});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}, 0).has_value());
  EXPECT_THAT(client.ready_guilds(), testing::ElementsAreArray(simulator.guild_ids()));
}

}  // namespace
}  // namespace shardd::simulator
