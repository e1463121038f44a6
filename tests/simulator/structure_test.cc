// Guilds that change: what sessions are told adds up to what is true.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "simulator/simulator.h"
#include "support/gateway_client.h"
#include "support/guild_cache.h"

namespace shardd::simulator {
namespace {

using test::Differences;
using test::GatewayClient;
using test::GuildCache;
using test::TrueGuilds;

// Everything that the session was sent, as a bot takes it.
GuildCache Cache(const Simulator& simulator) {
  GuildCache cache;
  for (const SentDispatch& sent : simulator.Sent(simulator.Sessions().back().session_id)) {
    cache.Take(sent.type, sent.data);
  }
  return cache;
}

TEST(StructureTest, EventsLeadToWhatIsTrue) {
  Simulator simulator({.guilds = 20, .record = true});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  ASSERT_TRUE(simulator.WaitForSessions(1, 1));
  EXPECT_EQ(Differences(Cache(simulator).guilds(), TrueGuilds(simulator)), "");
  const auto before = TrueGuilds(simulator);
  simulator.EmitStructure(3000);
  EXPECT_NE(Differences(before, TrueGuilds(simulator)), "");
  const GuildCache cache = Cache(simulator);
  EXPECT_EQ(cache.unknown(), 0u);
  // A guild that is out of order may have been left since: that is told, too.
  EXPECT_EQ(Differences(cache.guilds(), TrueGuilds(simulator)), "");
}

TEST(StructureTest, LaterSessionsAreToldWhatIsTrue) {
  Simulator simulator({.guilds = 40, .max_concurrency = 16, .record = true});
  simulator.EmitStructure(5000);
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  ASSERT_TRUE(simulator.WaitForSessions(1, 1));
  const auto truth = TrueGuilds(simulator);
  EXPECT_LT(truth.size(), 40u);
  const GuildCache cache = Cache(simulator);
  ASSERT_EQ(cache.guilds().size(), truth.size());
  for (const auto& [id, guild] : truth) {
    const GuildState& told = cache.guilds().at(id);
    EXPECT_EQ(told.available, guild.available);
    if (guild.available) {
      EXPECT_EQ(told, guild);
    }
  }
}

TEST(StructureTest, AGuildThatIsNotThereHasNoTraffic) {
  Simulator simulator({.guilds = 3, .record = true});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  ASSERT_TRUE(simulator.WaitForSessions(1, 1));
  const auto here = [&] {
    size_t available = 0;
    for (const auto& guild : simulator.GuildStates()) available += guild.available ? 1 : 0;
    return available;
  };
  while (here() == 3) simulator.EmitStructure(1);
  const size_t before = simulator.Sent(client.session_id()).size();
  simulator.EmitTraffic(500);
  std::set<uint64_t> available;
  for (const auto& guild : simulator.GuildStates()) {
    if (guild.available) available.insert(guild.id);
  }
  const auto sent = simulator.Sent(client.session_id());
  EXPECT_GT(sent.size(), before);
  for (size_t i = before; i < sent.size(); ++i) EXPECT_TRUE(available.contains(sent[i].guild_id));
}

TEST(StructureTest, ASeedAlwaysMakesTheSame) {
  Simulator one({.seed = 3, .guilds = 10});
  Simulator other({.seed = 3, .guilds = 10});
  one.EmitStructure(1000);
  other.EmitStructure(1000);
  EXPECT_EQ(one.GuildStates(), other.GuildStates());
}

}  // namespace
}  // namespace shardd::simulator
