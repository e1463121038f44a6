// GET /gateway and /gateway/bot, and the control endpoint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <system_error>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using test::Fetch;
using test::GatewayClient;
using testing::HasSubstr;

TEST(ApiTest, GatewayNeedsNoToken) {
  const Simulator simulator;
  const auto answer = Fetch(simulator.port(), "GET", "/api/v10/gateway");
  EXPECT_EQ(answer.status, 200u);
  EXPECT_EQ(answer.body, R"({"url":"ws://127.0.0.1:)" + std::to_string(simulator.port()) + "\"}");
  EXPECT_EQ(Fetch(simulator.port(), "GET", "/api/v9/gateway").status, 200u);
  EXPECT_EQ(Fetch(simulator.port(), "GET", "/api/gateway").status, 200u);
  EXPECT_EQ(Fetch(simulator.port(), "GET", "/api/v10/users/@me").status, 404u);
  EXPECT_EQ(Fetch(simulator.port(), "POST", "/api/v10/gateway").status, 405u);
}

TEST(ApiTest, APortInUseIsAnErrorThatNamesIt) {
  const Simulator simulator;
  try {
    const Simulator second({.port = simulator.port()});
    FAIL() << "listens twice";
  } catch (const std::system_error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("cannot listen on 127.0.0.1:" + std::to_string(simulator.port())));
  }
}

TEST(ApiTest, GatewayBotReportsTheBudget) {
  const Simulator simulator({.token = "secret",
                             .recommended_shards = 7,
                             .max_concurrency = 3,
                             .session_starts_total = 1000,
                             .session_starts_remaining = 5});
  const auto answer = Fetch(simulator.port(), "GET", "/api/v10/gateway/bot", "Bot secret");
  ASSERT_EQ(answer.status, 200u);
  const auto body = boost::json::parse(answer.body);
  EXPECT_EQ(body.at("shards"), 7);
  const auto& limit = body.at("session_start_limit");
  EXPECT_EQ(limit.at("total"), 1000);
  EXPECT_EQ(limit.at("remaining"), 5);
  EXPECT_EQ(limit.at("reset_after"), 0);
  EXPECT_EQ(limit.at("max_concurrency"), 3);

  GatewayClient client(simulator.port());
  client.ReadOp(10);
  client.Identify({0, 1}, 1, "Bot secret");
  ASSERT_TRUE(client.ReadType("READY").has_value());
  EXPECT_EQ(simulator.session_starts_remaining(), 4u);
}

boost::json::value Limit(const Simulator& simulator) {
  const auto answer = Fetch(simulator.port(), "GET", "/api/v10/gateway/bot", "Bot any");
  return boost::json::parse(answer.body).at("session_start_limit");
}

TEST(ApiTest, TheBudgetComesBackWithTheDay) {
  Simulator simulator({.session_starts_total = 10,
                       .session_starts_day = std::chrono::milliseconds(700),
                       .identify_window = std::chrono::milliseconds(0)});
  simulator.SetSessionStarts(2);
  EXPECT_EQ(Limit(simulator).at("remaining"), 2);
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}, 0).has_value());
  const auto limit = Limit(simulator);
  if (limit.at("remaining") != 10) {  // the day is not over yet
    EXPECT_EQ(limit.at("remaining"), 1);
    EXPECT_GT(limit.at("reset_after").as_int64(), 0);
    EXPECT_LE(limit.at("reset_after").as_int64(), 700);
  }
  ASSERT_TRUE(simulator.WaitUntil([&] { return simulator.session_starts_remaining() == 10; }));
  EXPECT_EQ(Limit(simulator).at("remaining"), 10);
  EXPECT_EQ(Limit(simulator).at("reset_after"), 0);
}

TEST(ApiTest, ADayMayHaveBegunBefore) {
  const Simulator simulator(
      {.session_starts_remaining = 3, .session_starts_reset_after = std::chrono::hours(1)});
  const auto limit = Limit(simulator);
  EXPECT_EQ(limit.at("remaining"), 3);
  EXPECT_GT(limit.at("reset_after").as_int64(), 3'000'000);
  EXPECT_LE(limit.at("reset_after").as_int64(), 3'600'000);
}

TEST(ApiTest, AWrongTokenIs401) {
  const Simulator simulator({.token = "secret"});
  for (const char* authorization : {"", "Bot wrong", "secret", "Bearer secret"}) {
    const auto answer = Fetch(simulator.port(), "GET", "/api/v10/gateway/bot", authorization);
    EXPECT_EQ(answer.status, 401u) << authorization;
    EXPECT_EQ(answer.body, R"({"message":"401: Unauthorized","code":0})");
  }
}

TEST(ApiTest, InjectedAnswersCountDown) {
  Simulator simulator;
  const auto fetch = [&] {
    return Fetch(simulator.port(), "GET", "/api/v10/gateway/bot", "Bot any");
  };
  simulator.AnswerGatewayBotWith(429, 1, std::chrono::milliseconds(1500));
  const auto limited = fetch();
  EXPECT_EQ(limited.status, 429u);
  EXPECT_EQ(limited.retry_after, "2");
  EXPECT_THAT(limited.body, HasSubstr(R"("retry_after":1.5)"));
  EXPECT_EQ(fetch().status, 200u);
  simulator.AnswerGatewayBotWith(502, 2);
  EXPECT_EQ(fetch().status, 502u);
  EXPECT_EQ(fetch().status, 502u);
  EXPECT_EQ(fetch().status, 200u);
  EXPECT_EQ(simulator.counters().gateway_bot_requests, 5u);
}

TEST(ApiTest, TakesOrdersOverHttp) {
  Simulator simulator({.guilds = 0});
  GatewayClient client(simulator.port());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  const auto order = [&](std::string_view target, std::string_view body = {}) {
    return Fetch(simulator.port(), "POST", target, {}, body).body;
  };
  EXPECT_EQ(order("/simulator/reconnect?shard=1"), R"({"affected":0})");
  EXPECT_EQ(order("/simulator/reconnect?shard=0&count=1"), R"({"affected":1})");
  EXPECT_TRUE(client.ReadOp(7).has_value());
  EXPECT_EQ(order("/simulator/emit?type=X&guild=0", R"({"a":1})"), R"({"affected":1})");
  EXPECT_EQ(client.ReadType("X")->data, R"({"a":1})");
  EXPECT_THAT(Fetch(simulator.port(), "GET", "/simulator/status").body,
              HasSubstr(R"("shard":[0,1])"));
  EXPECT_EQ(order("/simulator/close?code=4009"), R"({"affected":1})");
  EXPECT_EQ(client.ReadClose(), 4009);
}

}  // namespace
}  // namespace shardd::simulator
