#include "gateway/gateway_bot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/status.h"
#include "support/rest_stub.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using test::RestStub;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kToken[] = "s3cret";

absl::StatusOr<GatewayBot> Fetch(const RestStub& discord) {
  return FetchGatewayBot({.api_url = discord.api_url(), .token = kToken}, {});
}

absl::StatusOr<GatewayBot> FetchOf(const std::string& answer) {
  const RestStub discord({answer});
  const auto bot = Fetch(discord);
  EXPECT_THAT(std::string(Message(bot.status())), Not(HasSubstr(kToken)));
  return bot;
}

TEST(GatewayBotTest, AsksAsDiscordWantsToBeAsked) {
  const RestStub discord({RestStub::Bot(2, 1000, 990, 3'600'000, 16)});
  const SteadyTime before = SteadyClock::now();
  const auto bot = Fetch(discord);
  ASSERT_TRUE(bot.ok()) << bot.status();
  EXPECT_EQ(bot->recommended_shards, 2u);
  EXPECT_EQ(bot->session_starts_remaining, 990u);
  EXPECT_EQ(bot->session_starts_reset_after, 1h);
  EXPECT_GE(bot->asked_at, before);
  EXPECT_GE(bot->read_at, bot->asked_at);
  ASSERT_EQ(discord.requests().size(), 1u);
  // https://discord.com/developers/docs/reference#user-agent
  EXPECT_THAT(
      discord.requests()[0],
      AllOf(HasSubstr("GET /api/v10/gateway/bot HTTP/1.1\r\n"),
            HasSubstr("Authorization: Bot s3cret\r\n"),
            ::testing::ContainsRegex("User-Agent: DiscordBot \\(https://[^,]+, [0-9.]+\\)")));
}

TEST(GatewayBotTest, HonoursEveryWayToSay429) {
  struct Case {
    std::string head;
    std::string body;
    std::chrono::milliseconds wait;
  };
  const std::string json = R"({"message":"You are being rate limited.","retry_after":64.57})";
  const std::vector<Case> cases = {
      {"Retry-After: 65", json, 65s},
      {"Retry-After: 1.5", "", 1500ms},
      {"X-RateLimit-Reset-After: 2.25", "", 2250ms},
      {"Retry-After: 1\r\nX-RateLimit-Reset-After: 3", "", 3s},
      {"X-Other: 1", json, 64570ms},
      // discord-api-docs#8570
      {"Retry-After: 46263", "<html>error code: 1015</html>", 46263s},
      // Cloudflare, in its own words.
      {"Content-Type: text/html", "<html>error code: 1015</html>", 60s},
      {"Retry-After: soon", "error code: 1015", 60s},
      {"Retry-After: -5", "", 60s},
      {"Retry-After: nan", R"({"retry_after":-1})", 60s},
      {"Retry-After: 1e300", "", 7 * 24h},
      {"Retry-After: 0", "", 0s},
  };
  for (const Case& each : cases) {
    const auto bot = FetchOf(RestStub::Http("429 Too Many Requests\r\n" + each.head, each.body));
    EXPECT_EQ(bot.status().code(), absl::StatusCode::kResourceExhausted) << each.head;
    EXPECT_EQ(RetryAfter(bot.status()), each.wait) << each.head;
  }
}

TEST(GatewayBotTest, TellsFailuresApart) {
  const std::vector<std::pair<std::string, absl::StatusCode>> cases = {
      {RestStub::Http("401 Unauthorized", R"({"message":"401: Unauthorized","code":0})"),
       absl::StatusCode::kUnauthenticated},
      {RestStub::Http("403 Forbidden", "<html>"), absl::StatusCode::kFailedPrecondition},
      {RestStub::Http("502 Bad Gateway", "<html>"), absl::StatusCode::kUnavailable},
      {RestStub::Http("302 Found\r\nLocation: http://127.0.0.1:1/", ""),
       absl::StatusCode::kFailedPrecondition},
      {"", absl::StatusCode::kUnavailable},
      {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", absl::StatusCode::kUnavailable},
      {"no HTTP at all\r\n\r\n", absl::StatusCode::kUnavailable},
      {RestStub::Http("200 OK", std::string(10 << 20, ' ')), absl::StatusCode::kUnavailable},
      {"HTTP/1.1 200 OK\r\nX: " + std::string(1 << 20, 'x'), absl::StatusCode::kUnavailable},
  };
  for (const auto& [answer, code] : cases) {
    const auto bot = FetchOf(answer);
    EXPECT_EQ(bot.status().code(), code) << answer.substr(0, 40) << ": " << bot.status();
    EXPECT_FALSE(RetryAfter(bot.status()));
  }
}

TEST(GatewayBotTest, RefusesWhatDiscordDoesNotDocument) {
  const std::string limit = R"("session_start_limit":{"total":1000,"remaining":1,"reset_after":0})";
  for (const std::string& body : std::vector<std::string>{
           "", "[]", "null", "<html></html>", "{}", R"({"url":"ws://a"})",
           R"({"url":"ftp://a",)" + limit + "}", R"({"url":7,)" + limit + "}",
           R"({"url":"ws://a","session_start_limit":{"remaining":-1}})",
           R"({"url":"ws://a","session_start_limit":{"remaining":"1"}})",
           R"({"url":"ws://a","session_start_limit":{"remaining":1,"total":-1}})",
           R"({"url":"ws://a","session_start_limit":{"remaining":1,"total":1e12}})",
           R"({"url":"ws://a","session_start_limit":{"remaining":99999999999}})",
           R"({"url":"ws://a","session_start_limit":{"remaining":1,"reset_after":-1}})",
           R"({"url":"ws://a","session_start_limit":{"remaining":1,"reset_after":1e18}})",
           R"({"url":"ws://a","session_start_limit":{"remaining":1,"max_concurrency":-16}})",
           R"({"url":"ws://a","shards":-1,)" + limit + "}",
           R"({"url":"ws://a","shards":1e9,)" + limit + "}",
           R"({"url":"ws://a","shards":[],)" + limit + "}"}) {
    const auto bot = FetchOf(RestStub::Http("200 OK", body));
    EXPECT_EQ(bot.status().code(), absl::StatusCode::kFailedPrecondition) << body;
  }
}

TEST(GatewayBotTest, ZerosMeanWhatThirdPartyServersMean) {
  const auto bot = FetchOf(RestStub::Bot(0, 0, 5, 0, 0));
  ASSERT_TRUE(bot.ok()) << bot.status();
  EXPECT_EQ(bot->recommended_shards, 1u);
  EXPECT_EQ(bot->max_concurrency, 1u);
  EXPECT_EQ(bot->session_starts_total, 0u);
}

}  // namespace
}  // namespace shardd::gateway
