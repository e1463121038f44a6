// What a bot may ask for over its session: op 3, 4, 8, 31 and 43.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::GatewayClient;
using test::kAllIntents;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kGuildMembers = 1 << 1;
constexpr uint64_t kVoiceStates = 1 << 7;
constexpr uint64_t kPresences = 1 << 8;

std::string Text(const boost::json::value& value) { return std::string(value.as_string()); }

class CommandTest : public testing::Test {
 protected:
  // Without GUILDS, so that only answers come.
  void Start(GatewayClient& client, uint64_t intents = kGuildMembers, ShardId shard = {0, 1}) {
    ASSERT_TRUE(client.Start(shard, intents).has_value());
  }

  static std::string Command(int op, const std::string& data) {
    return R"({"op":)" + std::to_string(op) + R"(,"d":)" + data + "}";
  }
  // `more` follows guild_id.
  std::string Members(const std::string& more, size_t guild = 0) const {
    return Command(
        8, R"({"guild_id":")" + std::to_string(simulator_.guild_ids()[guild]) + "\"," + more + "}");
  }
  // Everything that was sent before the answer to this heartbeat.
  std::vector<std::string> TypesUntilAck(GatewayClient& client) {
    const size_t before = client.dispatches().size();
    client.Heartbeat(1);
    EXPECT_TRUE(client.ReadOp(11).has_value());
    std::vector<std::string> types;
    for (size_t i = before; i < client.dispatches().size(); ++i) {
      types.push_back(client.dispatches()[i].type);
    }
    return types;
  }
  // All chunks of one answer.
  std::vector<test::Payload> Chunks(GatewayClient& client) {
    std::vector<test::Payload> chunks;
    while (true) {
      auto chunk = client.ReadType("GUILD_MEMBERS_CHUNK");
      if (!chunk.has_value()) return chunks;
      const bool last = chunk->d().at("chunk_index").to_number<uint64_t>() + 1 ==
                        chunk->d().at("chunk_count").to_number<uint64_t>();
      chunks.push_back(*std::move(chunk));
      if (last) return chunks;
    }
  }
  static std::vector<std::string> Ids(const test::Payload& chunk) {
    std::vector<std::string> ids;
    for (const auto& member : chunk.d().at("members").as_array()) {
      ids.emplace_back(member.at("user").at("id").as_string());
    }
    return ids;
  }

  Simulator simulator_{{.guilds = 20,
                        .large_guilds = 1,
                        .large_guild_bytes = 900'000,
                        .identify_window = milliseconds(0),
                        .record = true}};
};

TEST_F(CommandTest, AWholeMemberListComesInChunksOfAThousand) {
  GatewayClient client(simulator_.port(), {.compress = "zlib-stream"});
  Start(client, kGuildMembers | 1);
  ASSERT_TRUE(simulator_.WaitForSessions(1, 1));
  client.Send(Members(R"("query":"","limit":0,"nonce":"abc")"));
  const auto chunks = Chunks(client);
  uint64_t members = 0;
  for (const auto& payload : client.dispatches()) {
    if (payload.type != "GUILD_CREATE") continue;
    if (Text(payload.d().at("id")) == std::to_string(simulator_.guild_ids()[0])) {
      members = payload.d().at("member_count").to_number<uint64_t>();
    }
  }
  ASSERT_GT(members, 1500u);
  ASSERT_EQ(chunks.size(), (members + 999) / 1000);
  std::set<std::string> ids;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const auto& d = chunks[i].d().as_object();
    EXPECT_EQ(Text(d.at("guild_id")), std::to_string(simulator_.guild_ids()[0]));
    EXPECT_EQ(d.at("chunk_index"), i);
    EXPECT_EQ(d.at("chunk_count"), chunks.size());
    EXPECT_EQ(Text(d.at("nonce")), "abc");
    EXPECT_FALSE(d.contains("presences"));
    EXPECT_FALSE(d.contains("not_found"));
    EXPECT_LE(d.at("members").as_array().size(), 1000u);
    for (const auto& id : Ids(chunks[i])) ids.insert(id);
  }
  EXPECT_EQ(ids.size(), members);
}

TEST_F(CommandTest, AWholeMemberListTakesTheIntent) {
  GatewayClient client(simulator_.port());
  Start(client, 0);
  client.Send(Members(R"("query":"","limit":0)"));
  EXPECT_THAT(TypesUntilAck(client), IsEmpty());
  EXPECT_EQ(simulator_.counters().commands_ignored, 1u);
  client.Send(Members(R"("query":"","limit":2)"));
  EXPECT_EQ(Ids(Chunks(client).at(0)).size(), 2u) << "a part takes none";
}

TEST_F(CommandTest, AQueryFindsNamesThatBeginSo) {
  GatewayClient client(simulator_.port());
  Start(client);
  client.Send(Members(R"("query":"","limit":1)"));
  const auto first = Chunks(client).at(0);
  const std::string name(first.d().at("members").at(0).at("user").at("username").as_string());
  client.Send(Members(R"("query":")" + name.substr(0, 3) + R"(","limit":0)"));
  const auto found = Chunks(client).at(0);
  EXPECT_THAT(Ids(found), testing::Contains(Ids(first).at(0)));
  EXPECT_LE(Ids(found).size(), 100u);
  for (const auto& member : found.d().at("members").as_array()) {
    const std::string other(member.at("user").at("username").as_string());
    EXPECT_EQ(other.substr(0, 3), name.substr(0, 3));
  }
  client.Send(Members(R"("query":"no such name","limit":10)"));
  EXPECT_THAT(Ids(Chunks(client).at(0)), IsEmpty());
  client.Send(Members(R"("query":"","limit":500)"));
  EXPECT_EQ(Ids(Chunks(client).at(0)).size(), 100u);
}

TEST_F(CommandTest, UserIdsAreFoundOrNamedAsNotFound) {
  GatewayClient client(simulator_.port());
  Start(client);
  client.Send(Members(R"("query":"","limit":3)"));
  const auto ids = Ids(Chunks(client).at(0));
  client.Send(Members(R"("user_ids":[")" + ids[2] + R"(","17",")" + ids[0] + R"("])"));
  const auto found = Chunks(client).at(0);
  EXPECT_THAT(Ids(found), ElementsAre(ids[2], ids[0]));
  EXPECT_EQ(found.d().at("not_found"), boost::json::value({"17"}));
  client.Send(Members(R"("user_ids":")" + ids[1] + '"'));
  EXPECT_THAT(Ids(Chunks(client).at(0)), ElementsAre(ids[1]));

  std::string many = R"("user_ids":["1")";
  for (int i = 2; i <= 101; ++i) many += "," + std::to_string(i);
  client.Send(Members(many + "]"));
  EXPECT_EQ(Chunks(client).at(0).d().at("not_found").as_array().size(), 100u);
}

TEST_F(CommandTest, PresencesComeWhenAskedForWithTheIntent) {
  GatewayClient with(simulator_.port());
  GatewayClient without(simulator_.port());
  Start(with, kPresences);
  Start(without, 0);
  for (GatewayClient* client : {&with, &without}) {
    client->Send(Members(R"("query":"","limit":50,"presences":true)"));
  }
  const auto chunk = Chunks(with).at(0);
  const auto ids = Ids(chunk);
  EXPECT_FALSE(chunk.d().at("presences").as_array().empty());
  for (const auto& presence : chunk.d().at("presences").as_array()) {
    const std::string id(presence.at("user").at("id").as_string());
    EXPECT_THAT(ids, testing::Contains(id));
  }
  EXPECT_FALSE(Chunks(without).at(0).d().as_object().contains("presences"));
}

TEST_F(CommandTest, ANonceOverThirtyTwoBytesIsIgnored) {
  GatewayClient client(simulator_.port());
  Start(client);
  const std::string longest(32, 'n');
  client.Send(Members(R"("query":"","limit":1,"nonce":")" + longest + '"'));
  EXPECT_EQ(Chunks(client).at(0).d().at("nonce").as_string(), longest.c_str());
  client.Send(Members(R"("query":"","limit":1,"nonce":")" + longest + "n\""));
  EXPECT_FALSE(Chunks(client).at(0).d().as_object().contains("nonce"));
}

TEST_F(CommandTest, RequestsThatMakeNoSenseGetNoAnswer) {
  GatewayClient client(simulator_.port());
  Start(client, kAllIntents & ~uint64_t{1}, {1, 2});
  const auto& guilds = simulator_.guild_ids();
  const size_t foreign =
      std::find_if(guilds.begin(), guilds.end(), [](uint64_t id) { return (id >> 22) % 2 == 0; }) -
      guilds.begin();
  const std::string all = R"("query":"","limit":0)";
  const std::vector<std::string> requests = {
      Members(all, foreign),
      Members(R"("query":"")"),
      Command(8, "{" + all + "}"),
      Command(8, R"({"guild_id":"1",)" + all + "}"),
      Command(8, R"({"guild_id":{},"user_ids":[]})"),
      Command(4, R"({"guild_id":"1","channel_id":"2"})"),
      Command(31, R"({"guild_ids":"1"})"),
      Command(43, R"({"guild_id":"1","fields":["status"]})")};
  for (const auto& request : requests) client.Send(request);
  EXPECT_THAT(TypesUntilAck(client), IsEmpty());
  EXPECT_EQ(simulator_.counters().commands_ignored, requests.size());
}

TEST_F(CommandTest, AGuildsMemberListComesOnceInThirtySeconds) {
  GatewayClient client(simulator_.port());
  GatewayClient twin(simulator_.port());
  Start(client);
  Start(twin);
  client.Send(Members(R"("query":"","limit":0)"));
  ASSERT_FALSE(Chunks(client).empty());
  twin.Send(Members(R"("query":"","limit":0,"nonce":"n")"));
  const auto limited = twin.Read();
  ASSERT_EQ(limited->type, "RATE_LIMITED") << "the limit is the bot's, not the session's";
  EXPECT_EQ(limited->sequence, 2u);
  EXPECT_EQ(limited->d().at("opcode"), 8);
  EXPECT_GT(limited->d().at("retry_after").as_double(), 10);
  EXPECT_LE(limited->d().at("retry_after").as_double(), 30);
  EXPECT_EQ(Text(limited->d().at("meta").at("guild_id")),
            std::to_string(simulator_.guild_ids()[0]));
  EXPECT_EQ(Text(limited->d().at("meta").at("nonce")), "n");
  EXPECT_EQ(simulator_.counters().member_requests_limited, 1u);
  // Of other guilds, and of parts of a list, it says nothing.
  twin.Send(Members(R"("query":"","limit":0)", 1));
  EXPECT_FALSE(Chunks(twin).empty());
  twin.Send(Members(R"("query":"","limit":1)"));
  EXPECT_FALSE(Chunks(twin).empty());
}

TEST(MemberLimitTest, CanBeMadeShorter) {
  const Simulator simulator({.guilds = 1, .all_members_window = milliseconds(0)});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}, kGuildMembers).has_value());
  for (int i = 0; i < 3; ++i) {
    client.Send(R"({"op":8,"d":{"guild_id":")" + std::to_string(simulator.guild_ids()[0]) +
                R"(","query":"","limit":0}})");
    EXPECT_TRUE(client.ReadType("GUILD_MEMBERS_CHUNK").has_value());
  }
  EXPECT_EQ(simulator.counters().member_requests_limited, 0u);
}

TEST_F(CommandTest, JoiningVoiceTellsTheGuildAndNamesAServer) {
  GatewayClient client(simulator_.port());
  GatewayClient watching(simulator_.port());
  Start(client, kVoiceStates);
  Start(watching, kVoiceStates);
  const std::string guild = std::to_string(simulator_.guild_ids()[3]);
  const auto move = [&](const std::string& channel) {
    client.Send(Command(4, R"({"guild_id":")" + guild + R"(","channel_id":)" + channel +
                               R"(,"self_mute":true,"self_deaf":false})"));
  };
  move("\"123\"");
  const auto state = client.Read();
  ASSERT_EQ(state->type, "VOICE_STATE_UPDATE");
  EXPECT_EQ(Text(state->d().at("guild_id")), guild);
  EXPECT_EQ(Text(state->d().at("channel_id")), "123");
  EXPECT_EQ(state->d().at("self_mute"), true);
  EXPECT_EQ(state->d().at("session_id").as_string(), client.session_id().c_str());
  const auto server = client.Read();
  ASSERT_EQ(server->type, "VOICE_SERVER_UPDATE");
  EXPECT_EQ(Text(server->d().at("guild_id")), guild);
  EXPECT_EQ(watching.Read()->text, state->text);
  move("\"124\"");
  EXPECT_EQ(Text(client.Read()->d().at("channel_id")), "124");
  move("null");
  EXPECT_TRUE(client.Read()->d().at("channel_id").is_null()) << "no server for a move";
  move("null");
  EXPECT_THAT(TypesUntilAck(client), IsEmpty()) << "not in voice any more";
}

TEST_F(CommandTest, SoundsAndChannelInfoComeByGuild) {
  GatewayClient client(simulator_.port());
  Start(client);
  const std::string a = std::to_string(simulator_.guild_ids()[0]);
  const std::string b = std::to_string(simulator_.guild_ids()[1]);
  client.Send(Command(31, R"({"guild_ids":[")" + a + R"(","1",")" + b + R"("]})"));
  EXPECT_EQ(Text(client.ReadType("SOUNDBOARD_SOUNDS")->d().at("guild_id")), a);
  EXPECT_EQ(Text(client.ReadType("SOUNDBOARD_SOUNDS")->d().at("guild_id")), b);
  client.Send(Command(43, R"({"guild_id":")" + a + R"(","fields":["status"]})"));
  const auto info = client.ReadType("CHANNEL_INFO");
  EXPECT_EQ(Text(info->d().at("guild_id")), a);
  const auto& channels = info->d().at("channels").as_array();
  ASSERT_FALSE(channels.empty());
  EXPECT_TRUE(channels[0].as_object().contains("status"));
  EXPECT_FALSE(channels[0].as_object().contains("voice_start_time"));
}

TEST_F(CommandTest, CommandsAndPresencesAreKeptAsTheyCame) {
  GatewayClient client(simulator_.port());
  client.ReadOp(10);
  client.Send(
      R"({"op":2,"d":{"token":"x","intents":0,"presence": {"status" : "idle","since":1.50}}})");
  ASSERT_TRUE(client.ReadType("READY").has_value());
  EXPECT_EQ(simulator_.Session({0, 1})->presence, R"({"status" : "idle","since":1.50})");
  client.Send(Command(3, R"({"status":"dnd", "afk":false})"));
  client.Send(Command(43, R"({"guild_id":"1"})"));
  client.Heartbeat();
  ASSERT_TRUE(client.ReadOp(11).has_value());
  EXPECT_EQ(simulator_.Session({0, 1})->presence, R"({"status":"dnd", "afk":false})");
  const auto commands = simulator_.Commands(client.session_id());
  ASSERT_EQ(commands.size(), 2u);
  EXPECT_EQ(commands[0].op, 3);
  EXPECT_EQ(commands[0].data, R"({"status":"dnd", "afk":false})");
  EXPECT_EQ(commands[1].op, 43);
  EXPECT_EQ(
      test::Fetch(simulator_.port(), "GET", "/simulator/commands?session=" + client.session_id())
          .body,
      R"([{"op":3,"d":{"status":"dnd", "afk":false}},{"op":43,"d":{"guild_id":"1"}}])");
  client.Close(1000);
  ASSERT_TRUE(simulator_.WaitUntil([&] { return !simulator_.Session({0, 1}).has_value(); }));
  EXPECT_EQ(simulator_.Commands(client.session_id()).size(), 2u) << "because of `record`";
}

TEST_F(CommandTest, ASixthPresenceInTwentySecondsIsDropped) {
  GatewayClient client(simulator_.port());
  Start(client);
  for (int i = 1; i <= 6; ++i) client.Send(Command(3, R"({"since":)" + std::to_string(i) + "}"));
  EXPECT_THAT(TypesUntilAck(client), IsEmpty());
  EXPECT_EQ(simulator_.Session({0, 1})->presence, R"({"since":5})");
  EXPECT_EQ(simulator_.counters().presence_updates_dropped, 1u);
  EXPECT_EQ(simulator_.Commands(client.session_id()).size(), 6u);
}

}  // namespace
}  // namespace shardd::simulator
