// HELLO, heartbeats, IDENTIFY and everything that can be wrong with what a client sends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::GatewayClient;
using test::kAllIntents;
using testing::StartsWith;

SimulatorOptions Fast() { return {.identify_window = milliseconds(0)}; }

TEST(IdentifyTest, HelloComesFirstInDiscordsForm) {
  const Simulator simulator({.heartbeat_interval = milliseconds(41250)});
  GatewayClient client(simulator.port());
  const auto hello = client.Read();
  ASSERT_TRUE(hello.has_value());
  EXPECT_THAT(hello->text,
              StartsWith(R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,)"));
}

TEST(IdentifyTest, HeartbeatsAreAcknowledgedBeforeAndAfterReady) {
  const Simulator simulator(Fast());
  GatewayClient client(simulator.port());
  client.ReadOp(10);
  client.Heartbeat();
  EXPECT_EQ(client.ReadOp(11)->text, R"({"t":null,"s":null,"op":11,"d":null})");
  client.Identify({0, 1});
  ASSERT_TRUE(client.ReadType("READY").has_value());
  client.Heartbeat(1);
  ASSERT_TRUE(client.ReadOp(11).has_value());
  EXPECT_EQ(simulator.Session({0, 1})->heartbeat_sequence, 1u);
}

TEST(IdentifyTest, SilenceIsClosedWith1000AndTheSessionIsGone) {
  const Simulator simulator({.heartbeat_tolerance = milliseconds(400)});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  EXPECT_EQ(client.ReadClose(), 1000);
  EXPECT_EQ(simulator.counters().heartbeat_timeouts, 1u);
  EXPECT_FALSE(simulator.Session({0, 1}).has_value());
}

TEST(IdentifyTest, ReadyIsNumberOneAndNamesTheGuildsOfItsShardOnly) {
  const Simulator simulator({.guilds = 200, .identify_window = milliseconds(0)});
  std::vector<uint64_t> named;
  for (uint32_t id = 0; id < 3; ++id) {
    GatewayClient client(simulator.port());
    const auto ready = client.Start({id, 3});
    ASSERT_TRUE(ready.has_value());
    EXPECT_EQ(ready->sequence, 1u);
    EXPECT_THAT(ready->text, StartsWith(R"({"t":"READY","s":1,"op":0,"d":{"v":10,)"));
    EXPECT_EQ(ready->d().at("shard"), boost::json::value({id, 3}));
    EXPECT_EQ(ready->d().at("resume_gateway_url").as_string(), simulator.gateway_url().c_str());
    EXPECT_EQ(client.session_id().size(), 32u);
    for (const uint64_t guild : client.ready_guilds()) {
      EXPECT_EQ((guild >> 22) % 3, id);
      named.push_back(guild);
    }
  }
  EXPECT_THAT(named, testing::UnorderedElementsAreArray(simulator.guild_ids()));
}

TEST(IdentifyTest, WithoutShardItIsTheOnlyOne) {
  const Simulator simulator(Fast());
  GatewayClient client(simulator.port());
  client.ReadOp(10);
  client.Send(
      R"({"op":2,"d":{"token":"x","properties":{"$os":"linux"},"compress":"true","intents":1}})");
  const auto ready = client.ReadType("READY");
  ASSERT_TRUE(ready.has_value());
  EXPECT_FALSE(ready->d().as_object().contains("shard"));
  EXPECT_EQ(client.ready_guilds().size(), simulator.guild_ids().size());
}

TEST(IdentifyTest, ABucketTakesOneIdentifyInAWindow) {
  const Simulator simulator({.max_concurrency = 2, .identify_window = std::chrono::hours(1)});
  GatewayClient first(simulator.port());
  GatewayClient other_bucket(simulator.port());
  GatewayClient same_bucket(simulator.port());
  ASSERT_TRUE(first.Start({0, 4}).has_value());
  ASSERT_TRUE(other_bucket.Start({1, 4}).has_value());
  same_bucket.ReadOp(10);
  same_bucket.Identify({2, 4});
  EXPECT_EQ(same_bucket.Read()->text, R"({"t":null,"s":null,"op":9,"d":false})");
  EXPECT_TRUE(same_bucket.connected());
  EXPECT_EQ(simulator.counters().identifies_refused, 1u);
  EXPECT_EQ(simulator.session_starts_remaining(), 998u);
}

TEST(IdentifyTest, ASpentBudgetResetsTheToken) {
  const Simulator simulator(
      {.token = "secret", .session_starts_total = 1, .identify_window = milliseconds(0)});
  GatewayClient first(simulator.port());
  first.ReadOp(10);
  first.Identify({0, 2}, 1, "secret");
  ASSERT_TRUE(first.ReadType("READY").has_value());
  GatewayClient second(simulator.port());
  second.ReadOp(10);
  second.Identify({1, 2}, 1, "secret");
  EXPECT_EQ(second.ReadClose(), 4003);
  EXPECT_EQ(first.ReadClose(), 4003);
  GatewayClient third(simulator.port());
  third.ReadOp(10);
  third.Identify({0, 2}, 1, "secret");
  EXPECT_EQ(third.ReadClose(), 4004);
  EXPECT_EQ(test::Fetch(simulator.port(), "GET", "/api/v10/gateway/bot", "Bot secret").status,
            401u);
}

struct Offence {
  const char* name;
  const char* query;
  const char* payload;
  uint16_t code;
};

class OffenceTest : public testing::TestWithParam<Offence> {};

TEST_P(OffenceTest, IsClosedWithItsCode) {
  const Simulator simulator({.token = "secret", .disallowed_intents = 1 << 8});
  GatewayClient::Options options;
  if (*GetParam().query != '\0') options.query = GetParam().query;
  GatewayClient client(simulator.port(), options);
  if (*GetParam().payload != '\0') client.Send(GetParam().payload);
  EXPECT_EQ(client.ReadClose(), GetParam().code);
  EXPECT_EQ(simulator.counters().server_closes.at(GetParam().code), 1u);
}

const std::string kOversize = R"({"op":1,"d":")" + std::string(4100, 'x') + "\"}";

INSTANTIATE_TEST_SUITE_P(
    , OffenceTest,
    testing::Values(
        Offence{"UnknownOpcode", "", R"({"op":99,"d":null})", 4001},
        Offence{"NoJson", "", "hello", 4002}, Offence{"NoObject", "", "[1]", 4002},
        Offence{"NoOpcode", "", R"({"d":1})", 4002},
        Offence{"IdentifyWithoutData", "", R"({"op":2,"d":null})", 4002},
        Offence{"Oversize", "", kOversize.c_str(), 4002},
        Offence{"CommandBeforeIdentify", "", R"({"op":3,"d":{}})", 4003},
        Offence{"WrongToken", "", R"({"op":2,"d":{"token":"wrong","intents":1}})", 4004},
        Offence{"WrongTokenInResume", "",
                R"({"op":6,"d":{"token":"wrong","session_id":"x","seq":1}})", 4004},
        Offence{"ShardBeyondCount", "",
                R"({"op":2,"d":{"token":"secret","intents":1,"shard":[2,2]}})", 4010},
        Offence{"ShardOfCountZero", "",
                R"({"op":2,"d":{"token":"secret","intents":1,"shard":[0,0]}})", 4010},
        Offence{"Version5", "/?v=5&encoding=json", "", 4012},
        Offence{"UndefinedIntent", "", R"({"op":2,"d":{"token":"secret","intents":131072}})", 4013},
        Offence{"DisallowedIntent", "", R"({"op":2,"d":{"token":"secret","intents":257}})", 4014}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(IdentifyTest, ASecondIdentifyIsClosedWith4005) {
  const Simulator simulator(Fast());
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  client.Identify({0, 1});
  EXPECT_EQ(client.ReadClose(), 4005);
  EXPECT_TRUE(simulator.Session({0, 1}).has_value()) << "the session can be resumed";
}

TEST(IdentifyTest, AResumeOfAConnectionWithASessionIsClosedWith4005) {
  const Simulator simulator(Fast());
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  client.Resume(client.session_id(), 1);
  EXPECT_EQ(client.ReadClose(), 4005);
}

TEST(IdentifyTest, ACommandWithoutAnObjectIsClosedWith4001) {
  for (const char* data : {"null", "[]", "1"}) {
    const Simulator simulator(Fast());
    GatewayClient client(simulator.port());
    ASSERT_TRUE(client.Start({0, 1}).has_value());
    client.Send(std::string(R"({"op":8,"d":)") + data + "}");
    EXPECT_EQ(client.ReadClose(), 4001) << data;
    EXPECT_TRUE(simulator.Session({0, 1}).has_value()) << "the session can be resumed";
  }
}

TEST(IdentifyTest, PayloadsOver4096BytesAreClosedWith4002) {
  const Simulator simulator(Fast());
  for (const size_t size : {4095, 4096, 4097}) {
    GatewayClient client(simulator.port());
    client.ReadOp(10);
    std::string text = R"({"op":1,"d":null,"x":")";
    text.resize(size - 2, 'x');
    client.Send(text + "\"}");
    if (size > 4096) {
      EXPECT_EQ(client.ReadClose(), 4002);
    } else {
      EXPECT_TRUE(client.ReadOp(11).has_value()) << size;
    }
  }
}

TEST(IdentifyTest, AShardCountOfTheWrongMultipleIsClosedWith4010) {
  const Simulator simulator({.shard_count_multiple = 4, .identify_window = milliseconds(0)});
  GatewayClient right(simulator.port());
  ASSERT_TRUE(right.Start({1, 8}).has_value());
  GatewayClient wrong(simulator.port());
  wrong.ReadOp(10);
  wrong.Identify({1, 6});
  EXPECT_EQ(wrong.ReadClose(), 4010);
}

TEST(IdentifyTest, WithoutAcksNoHeartbeatGetsOne) {
  const Simulator simulator({.guilds = 0, .acknowledge_heartbeats = false});
  GatewayClient client(simulator.port());
  client.ReadOp(10);
  client.Heartbeat();
  client.Identify({0, 1});
  EXPECT_EQ(client.Read()->type, "READY") << "no ACK before it";
  client.Heartbeat(1);
  EXPECT_TRUE(simulator.WaitUntil([&] { return simulator.counters().heartbeats == 2; }));
  EXPECT_FALSE(client.Read(milliseconds(20)).has_value());
}

TEST(IdentifyTest, TooManyGuildsAreClosedWith4011) {
  const Simulator simulator({.guilds = 11, .max_guilds_per_shard = 10});
  GatewayClient client(simulator.port());
  client.ReadOp(10);
  client.Identify({0, 1});
  EXPECT_EQ(client.ReadClose(), 4011);
}

TEST(IdentifyTest, TooManySendsAreClosedWith4008) {
  const Simulator simulator({.sends_per_minute = 5});
  GatewayClient client(simulator.port());
  client.ReadOp(10);
  for (int i = 0; i < 5; ++i) {
    client.Heartbeat();
    ASSERT_TRUE(client.ReadOp(11).has_value());
  }
  client.Heartbeat();
  EXPECT_EQ(client.ReadClose(), 4008);
}

TEST(IdentifyTest, CommandsOfASessionAreAccepted) {
  const Simulator simulator(Fast());
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}, 0).has_value());
  for (const int op : {3, 4, 8, 31, 43}) {
    client.Send(R"({"op":)" + std::to_string(op) + R"(,"d":{}})");
  }
  client.Heartbeat(1);
  EXPECT_EQ(client.Read()->op, 11);
}

}  // namespace
}  // namespace shardd::simulator
