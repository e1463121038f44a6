#include "simulator/traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <set>

namespace shardd::simulator {
namespace {

namespace json = boost::json;
using testing::EndsWith;

Guilds MakeGuilds(uint64_t seed, uint32_t count) {
  Guilds::Options options;
  options.seed = seed;
  options.count = count;
  return Guilds(options);
}

TEST(TrafficTest, ASeedAlwaysMakesTheSame) {
  const Guilds guilds = MakeGuilds(7, 50);
  const Guilds same = MakeGuilds(7, 50);
  const Guilds other = MakeGuilds(8, 50);
  EXPECT_EQ(guilds.ids(), same.ids());
  EXPECT_NE(guilds.ids(), other.ids());
  EXPECT_EQ(guilds.CreateData(3), same.CreateData(3));
  Traffic a(guilds, 7);
  Traffic b(same, 7);
  Traffic c(other, 8);
  int different = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto x = a.Next();
    const auto y = b.Next();
    ASSERT_EQ(x->type, y->type);
    ASSERT_EQ(x->guild_id, y->guild_id);
    ASSERT_EQ(x->data, y->data);
    different += x->data != c.Next()->data;
  }
  EXPECT_EQ(different, 2000);
}

TEST(TrafficTest, EventsAreJsonWithDiscordsKeysAndTheirGuild) {
  const Guilds guilds = MakeGuilds(1, 200);
  Traffic traffic(guilds, 1);
  std::map<std::string, size_t> types;
  std::set<std::string> created;
  size_t bytes = 0;
  size_t foreign = 0;
  size_t escaped = 0;
  constexpr int kEvents = 20'000;
  for (int i = 0; i < kEvents; ++i) {
    const auto event = traffic.Next();
    ++types[event->type];
    bytes += event->data.size();
    const json::value data = json::parse(event->data);
    const std::string guild = std::to_string(event->guild_id);
    ASSERT_EQ(data.at("guild_id").as_string(), guild.c_str()) << event->data;
    ASSERT_GE(guild.size(), 17u);
    ASSERT_LE(guild.size(), 19u);
    const bool appended = event->type.starts_with("MESSAGE_") || event->type == "TYPING_START";
    if (appended) {
      ASSERT_THAT(event->data, EndsWith(R"(,"guild_id":")" + guild + "\"}"));
    }
    // What a careless search for the first guild_id would find.
    const size_t first = event->data.find(R"("guild_id":")");
    foreign += event->data.compare(first + 12, guild.size(), guild) != 0;
    escaped += event->data.find(R"(\"guild_id\":)") != std::string::npos;
    if (event->type == "MESSAGE_CREATE") {
      ASSERT_TRUE(created.insert(std::string(data.at("id").as_string())).second);
    }
  }
  EXPECT_EQ(types.size(), 9u);
  EXPECT_GT(types["MESSAGE_CREATE"], kEvents * 2 / 5);
  EXPECT_GT(bytes / kEvents, 900u);
  EXPECT_LT(bytes / kEvents, 1400u);
  EXPECT_GT(foreign, kEvents / 100);
  EXPECT_GT(escaped, kEvents / 100);
}

TEST(GuildsTest, SizesAndActivityAreHeavyTailed) {
  const Guilds guilds = MakeGuilds(1, 500);
  std::vector<size_t> sizes;
  for (size_t i = 0; i < 500; ++i) {
    const std::string data = guilds.CreateData(i);
    sizes.push_back(data.size());
    if (i % 25 != 0) continue;
    const json::value create = json::parse(data);
    EXPECT_EQ(create.at("id").as_string(), std::to_string(guilds.ids()[i]).c_str());
    EXPECT_GE(create.as_object().size(), 45u);
    EXPECT_FALSE(create.at("members").as_array().empty());
    EXPECT_FALSE(create.at("channels").as_array().empty());
  }
  std::sort(sizes.begin(), sizes.end());
  EXPECT_LT(sizes[250], 15'000u);
  EXPECT_GT(sizes.back(), 200'000u);
  EXPECT_LT(sizes.back(), 600'000u);

  Random random(1);
  std::map<size_t, int> picks;
  for (int i = 0; i < 10'000; ++i) ++picks[guilds.Pick(random)];
  const auto busiest = std::max_element(
      picks.begin(), picks.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  EXPECT_GT(busiest->second, 200);
  EXPECT_GT(picks.size(), 300u);
}

TEST(GuildsTest, EveryShardOfACountOwnsSome) {
  const Guilds guilds = MakeGuilds(1, 1000);
  std::map<uint64_t, int> by_shard;
  for (const uint64_t id : guilds.ids()) ++by_shard[(id >> 22) % 16];
  ASSERT_EQ(by_shard.size(), 16u);
  for (const auto& [shard, count] : by_shard) EXPECT_GT(count, 30) << shard;
}

}  // namespace
}  // namespace shardd::simulator
