// Send against the real server: what it answers, and what reaches Discord.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"

namespace shardd {
namespace {

using namespace std::chrono_literals;
using grpc::StatusCode;
using test::Eventually;
using ::testing::HasSubstr;

struct Answer {
  StatusCode code = StatusCode::OK;
  std::string reason;
  std::string message;
  std::string retry_after_ms;
  v1::SendResponse response;
};

v1::SendRequest ToShard(uint32_t shard_id, uint32_t op, std::string data) {
  v1::SendRequest request;
  request.set_shard_id(shard_id);
  request.set_op(op);
  request.set_data(std::move(data));
  return request;
}
v1::SendRequest ToGuild(uint64_t guild_id, uint32_t op, std::string data) {
  v1::SendRequest request = ToShard(0, op, std::move(data));
  request.set_guild_id(guild_id);
  return request;
}

class SendTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::string> flags = {"--shard-count", "4"}) {
    options_.max_concurrency = 16;
    discord_ = std::make_unique<simulator::Simulator>(options_);
    flags.insert(flags.end(), {"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                               "--admin-listen", "off"});
    server_ = std::make_unique<test::ShardDProcess>(
        flags, test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
    ASSERT_NE(server_->address(), "") << server_->err();
    stub_ = test::Connect(server_->address());
  }
  void StartReady(uint32_t shards = 4) {
    Start({"--shard-count", std::to_string(shards), "--hello-timeout", hello_timeout_});
    for (uint32_t id = 0; id < shards; ++id) {
      ASSERT_TRUE(WaitForState(id, v1::SHARD_STATE_READY));
    }
  }

  bool WaitForState(uint32_t shard_id, v1::ShardState state) {
    return Eventually([&] {
      grpc::ClientContext context;
      v1::StatsRequest request;
      request.add_shard_ids(shard_id);
      v1::StatsResponse stats;
      return stub_->Stats(&context, request, &stats).ok() && stats.shards(0).state() == state;
    });
  }
  void Kill(uint32_t shard_id) {
    grpc::ClientContext context;
    v1::KillRequest request;
    request.add_shard_ids(shard_id);
    request.set_keep_session(true);
    v1::KillResponse response;
    ASSERT_TRUE(stub_->Kill(&context, request, &response).ok());
  }

  std::vector<simulator::ReceivedCommand> Commands(ShardId shard) const {
    const auto session = discord_->Session(shard);
    if (!session) return {};
    return discord_->Commands(session->session_id);
  }

  Answer Send(const v1::SendRequest& request, std::optional<std::chrono::milliseconds> within = 20s,
              grpc::ClientContext* given = nullptr) {
    grpc::ClientContext own;
    grpc::ClientContext& context = given == nullptr ? own : *given;
    if (within) context.set_deadline(std::chrono::system_clock::now() + *within);
    Answer answer;
    const grpc::Status status = stub_->Send(&context, request, &answer.response);
    answer.code = status.error_code();
    answer.message = status.error_message();
    answer.reason = test::ReasonOf(context);
    const auto& trailers = context.GetServerTrailingMetadata();
    if (const auto found = trailers.find("shardd-retry-after-ms"); found != trailers.end()) {
      answer.retry_after_ms = std::string(found->second.data(), found->second.size());
    }
    return answer;
  }

  // From two shards to four, as fast as it goes.
  void StartForRescale() {
    Start({"--shard-count", "2", "--rescale-lag", "300ms", "--rescale-drain", "300ms"});
    for (const uint32_t id : {0u, 1u}) ASSERT_TRUE(WaitForState(id, v1::SHARD_STATE_READY));
  }
  void Rescale() {
    grpc::ClientContext context;
    v1::RescaleRequest request;
    request.set_shard_count(4);
    v1::RescaleResponse response;
    ASSERT_TRUE(stub_->Rescale(&context, request, &response).ok());
    ASSERT_TRUE(Eventually([&] {
      grpc::ClientContext stats_context;
      v1::StatsResponse stats;
      return stub_->Stats(&stats_context, {}, &stats).ok() &&
             stats.rescale().state() == v1::RESCALE_STATE_DONE;
    })) << server_->err();
  }

  std::string hello_timeout_ = "10s";
  simulator::SimulatorOptions options_;
  std::unique_ptr<simulator::Simulator> discord_;
  std::unique_ptr<test::ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
};

#define EXPECT_ANSWER(answer, expected_code, expected_reason, expected_text) \
  do {                                                                       \
    const Answer got = answer;                                               \
    EXPECT_EQ(got.code, StatusCode::expected_code) << got.message;           \
    EXPECT_EQ(got.reason, expected_reason) << got.message;                   \
    EXPECT_THAT(got.message, HasSubstr(expected_text));                      \
  } while (false)

TEST_F(SendTest, ACommandGoesThroughTheShardOfItsTarget) {
  StartReady();
  for (const uint32_t op : {3, 4, 8, 31, 43}) {
    const Answer answer = Send(ToShard(2, op, R"({"guild_id":"1"})"));
    ASSERT_EQ(answer.code, StatusCode::OK) << answer.message;
    EXPECT_EQ(answer.response.shard_id(), 2u);
    EXPECT_TRUE(answer.response.has_held());
  }
  ASSERT_TRUE(Eventually([&] { return Commands({2, 4}).size() == 5; }));
  const auto commands = Commands({2, 4});
  const std::vector<int64_t> ops = {3, 4, 8, 31, 43};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(commands[i].op, ops[i]);
    EXPECT_EQ(commands[i].data, R"({"guild_id":"1"})");
  }
  const uint64_t guild = discord_->guild_ids()[0];
  const Answer answer = Send(ToGuild(guild, 4, R"({"guild_id":"1"})"));
  ASSERT_EQ(answer.code, StatusCode::OK) << answer.message;
  EXPECT_EQ(answer.response.shard_id(), (guild >> 22) % 4);
  v1::SendRequest counted = ToShard(3, 4, "{}");
  counted.set_shard_count(4);
  EXPECT_EQ(Send(counted).code, StatusCode::OK);
  EXPECT_EQ(discord_->counters().server_closes.size(), 0u);
}

TEST_F(SendTest, WhatCannotBeSentIsRefused) {
  StartReady();
  EXPECT_ANSWER(Send(v1::SendRequest()), INVALID_ARGUMENT, "SEND_TARGET_MISSING", "guild_id");
  for (const uint32_t op : {0u, 1u, 2u, 5u, 6u, 7u, 9u, 10u, 11u, 42u, 4294967295u}) {
    EXPECT_ANSWER(Send(ToShard(0, op, "{}")), INVALID_ARGUMENT, "SEND_OP_INVALID",
                  "op " + std::to_string(op));
  }
  for (const char* data : {"", "{", "null", "[]", "{}{}", "{\"a\":\"\xff\"}", "{},\"op\":2"}) {
    EXPECT_ANSWER(Send(ToShard(0, 4, data)), INVALID_ARGUMENT, "SEND_JSON_INVALID", "JSON");
  }
  const std::string large = R"({"a":")" + std::string(4096, 'x') + "\"}";
  EXPECT_ANSWER(Send(ToShard(0, 4, large)), INVALID_ARGUMENT, "SEND_TOO_LARGE", "4096");
  EXPECT_ANSWER(Send(ToShard(0, 8, R"({"guild_id":"1","nonce":")" + std::string(33, 'n') + "\"}")),
                INVALID_ARGUMENT, "SEND_NONCE_TOO_LONG", "32");
  EXPECT_ANSWER(Send(ToShard(4, 4, "{}")), NOT_FOUND, "SHARD_NOT_FOUND", "shard 4/4");
  EXPECT_ANSWER(Send(ToShard(4294967295u, 4, "{}")), NOT_FOUND, "SHARD_NOT_FOUND", "4294967295");
  v1::SendRequest counted = ToShard(0, 4, "{}");
  counted.set_shard_count(8);
  EXPECT_ANSWER(Send(counted), NOT_FOUND, "SHARD_NOT_FOUND", "shard 0/8");
  counted.set_shard_count(70000);
  EXPECT_ANSWER(Send(counted), INVALID_ARGUMENT, "SHARD_COUNT_INVALID", "65535");
  EXPECT_EQ(discord_->counters().server_closes.size(), 0u);
}

TEST_F(SendTest, AGuildOfAnotherServersShardIsNotFound) {
  Start({"--shard-count", "4", "--shard-ids", "0-1"});
  ASSERT_TRUE(WaitForState(1, v1::SHARD_STATE_READY));
  EXPECT_ANSWER(Send(ToGuild(uint64_t{3} << 22, 4, "{}")), NOT_FOUND, "SHARD_NOT_FOUND",
                "shard 3/4");
  EXPECT_EQ(Send(ToGuild(uint64_t{5} << 22, 4, "{}")).response.shard_id(), 1u);
}

TEST_F(SendTest, BeforeTheFirstSpawnThereIsNoShard) {
  Start({"--shard-count", "4", "--no-spawn"});
  EXPECT_ANSWER(Send(ToShard(0, 4, "{}")), NOT_FOUND, "SHARD_NOT_FOUND", "Spawn");
  EXPECT_ANSWER(Send(ToGuild(1, 4, "{}")), NOT_FOUND, "SHARD_NOT_FOUND", "Spawn");
}

TEST_F(SendTest, AStoppedOrFailedShardTakesNoCommands) {
  StartReady();
  Kill(1);
  EXPECT_ANSWER(Send(ToShard(1, 4, "{}")), FAILED_PRECONDITION, "SHARD_NOT_RUNNING", "shard 1/4");
  ASSERT_EQ(discord_->CloseWith(ShardId{2, 4}, 4014), 1u);
  ASSERT_TRUE(WaitForState(2, v1::SHARD_STATE_FAILED));
  EXPECT_ANSWER(Send(ToShard(2, 4, "{}")), FAILED_PRECONDITION, "SHARD_NOT_RUNNING", "Stats");
}

TEST_F(SendTest, WhatWaitsEndsWithItsShard) {
  StartReady(1);
  discord_->SilenceNextHellos(1000);
  discord_->DropConnections();
  ASSERT_TRUE(Eventually([&] { return discord_->counters().connections >= 2; }));
  auto waiting = std::async(std::launch::async, [&] { return Send(ToShard(0, 4, "{}")); });
  EXPECT_EQ(waiting.wait_for(200ms), std::future_status::timeout);
  Kill(0);
  EXPECT_ANSWER(waiting.get(), FAILED_PRECONDITION, "SHARD_NOT_RUNNING", "Spawn");
}

TEST_F(SendTest, AShardThatIsNotReadyKeepsACommandUntilTheDeadline) {
  hello_timeout_ = "1s";
  StartReady(1);
  discord_->SilenceNextHellos(1);
  discord_->DropConnections();
  ASSERT_TRUE(Eventually([&] { return discord_->counters().connections >= 2; }));
  EXPECT_ANSWER(Send(ToShard(0, 4, "{}"), 100ms), DEADLINE_EXCEEDED, "", "");
  // The next attempt succeeds, after the time that HELLO may take.
  EXPECT_EQ(Send(ToShard(0, 4, R"({"second":1})"), 30s).code, StatusCode::OK);
  ASSERT_TRUE(Eventually([&] { return !Commands({0, 1}).empty(); }));
  EXPECT_EQ(Commands({0, 1}).size(), 1u) << "the first is not sent any more";
  EXPECT_EQ(Commands({0, 1})[0].data, R"({"second":1})");
}

TEST_F(SendTest, ACancelledCallEndsAtOnce) {
  StartReady(1);
  discord_->SilenceNextHellos(1000);
  discord_->DropConnections();
  ASSERT_TRUE(Eventually([&] { return discord_->counters().connections >= 2; }));
  grpc::ClientContext context;
  auto waiting = std::async(std::launch::async,
                            [&] { return Send(ToShard(0, 4, "{}"), std::nullopt, &context); });
  EXPECT_EQ(waiting.wait_for(200ms), std::future_status::timeout);
  context.TryCancel();
  EXPECT_EQ(waiting.get().code, StatusCode::CANCELLED);
}

TEST_F(SendTest, ManyAtOnceNeverBreakDiscordsLimit) {
  StartReady(1);
  std::map<std::string, int> reasons;
  std::mutex mutex;
  std::vector<std::thread> callers;
  for (int i = 0; i < 10; ++i) {
    callers.emplace_back([&] {
      for (int j = 0; j < 50; ++j) {
        const Answer answer = Send(ToShard(0, 4, "{}"), 5s);
        if (answer.code != StatusCode::OK) {
          EXPECT_EQ(answer.code, StatusCode::RESOURCE_EXHAUSTED) << answer.message;
          EXPECT_GT(std::atoi(answer.retry_after_ms.c_str()), 0);
        }
        const std::lock_guard lock(mutex);
        ++reasons[answer.reason];
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_LE(reasons[""], 113);
  EXPECT_GE(reasons[""], 110);
  EXPECT_EQ(reasons[""] + reasons["SEND_RATE_LIMITED"], 500);
  EXPECT_EQ(discord_->counters().server_closes[4008], 0u);
  EXPECT_EQ(discord_->counters().connections, 1u);
}

TEST_F(SendTest, TooManyThatWaitAreRefused) {
  StartReady(1);
  discord_->SilenceNextHellos(1000);
  discord_->DropConnections();
  ASSERT_TRUE(Eventually([&] { return discord_->counters().connections >= 2; }));
  std::vector<std::future<Answer>> waiting;
  // On threads of their own, each of which waits.
  for (int i = 0; i < 270; ++i) {
    waiting.push_back(
        std::async(std::launch::async, [&] { return Send(ToShard(0, 4, "{}"), 60s); }));
  }
  const auto refused = [&] {
    return std::ranges::count_if(
        waiting, [](auto& each) { return each.wait_for(0s) == std::future_status::ready; });
  };
  EXPECT_TRUE(Eventually([&] { return refused() == 270 - 256; }));
  Kill(0);
  std::map<std::string, int> reasons;
  for (auto& each : waiting) ++reasons[each.get().reason];
  EXPECT_EQ(reasons["SEND_QUEUE_FULL"], 14);
  EXPECT_EQ(reasons["SHARD_NOT_RUNNING"], 256);
}

TEST_F(SendTest, AllMembersOfAGuildAreAskedForOncePer30Seconds) {
  StartReady();
  const std::string request = R"({"guild_id":"5","query":"","limit":0})";
  EXPECT_EQ(Send(ToShard(0, 8, request)).code, StatusCode::OK);
  // Through another shard, too: the limit is the bot's.
  const Answer answer = Send(ToShard(1, 8, request), 5s);
  EXPECT_ANSWER(answer, RESOURCE_EXHAUSTED, "SEND_RATE_LIMITED", "limits");
  EXPECT_GT(std::atoi(answer.retry_after_ms.c_str()), 20'000);
  EXPECT_EQ(Send(ToShard(0, 8, R"({"guild_id":"6","query":"","limit":0})")).code, StatusCode::OK);
  EXPECT_EQ(Send(ToShard(0, 8, R"({"guild_id":"5","query":"a","limit":5})")).code, StatusCode::OK);
}

TEST_F(SendTest, RateLimitedIsHonouredAndDelivered) {
  StartReady(1);
  test::EventStream stream(*stub_, test::FromEarliest());
  discord_->Emit("RATE_LIMITED", 0,
                 R"({"opcode":8,"retry_after":29.457,"meta":{"guild_id":"7","nonce":"n"}})");
  ASSERT_TRUE(Eventually([&] {
    return std::ranges::any_of(stream.events(),
                               [](const auto& event) { return event.type() == "RATE_LIMITED"; });
  }));
  const Answer answer = Send(ToShard(0, 8, R"({"guild_id":"7","query":"","limit":0})"), 5s);
  EXPECT_ANSWER(answer, RESOURCE_EXHAUSTED, "SEND_RATE_LIMITED", "limits");
  EXPECT_GT(std::atoi(answer.retry_after_ms.c_str()), 15'000);
  EXPECT_LE(std::atoi(answer.retry_after_ms.c_str()), 29'457);
}

TEST_F(SendTest, FivePresencesIn20SecondsAndTheSixthKnowsWhen) {
  StartReady(1);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Send(ToShard(0, 3, R"({"status":"idle"})")).code, StatusCode::OK);
  }
  const Answer answer = Send(ToShard(0, 3, R"({"status":"dnd"})"), 5s);
  EXPECT_ANSWER(answer, RESOURCE_EXHAUSTED, "SEND_RATE_LIMITED", "limits");
  EXPECT_GT(std::atoi(answer.retry_after_ms.c_str()), 10'000);
  EXPECT_EQ(Send(ToShard(0, 4, "{}"), 5s).code, StatusCode::OK);
  EXPECT_EQ(discord_->counters().presence_updates_dropped, 0u);
}

TEST_F(SendTest, ThePresenceGoesIntoTheIdentifyOfEverySession) {
  Start({"--shard-count", "1", "--presence", R"({"status":"idle","activities":[]})"});
  const auto presence = [&] {
    const auto session = discord_->Session({0, 1});
    return session ? session->presence : "";
  };
  ASSERT_TRUE(WaitForState(0, v1::SHARD_STATE_READY));
  EXPECT_THAT(presence(), HasSubstr("idle"));
  ASSERT_EQ(
      Send(ToShard(0, 3, R"({"status":"dnd","activities":[],"since":null,"afk":false})")).code,
      StatusCode::OK);
  ASSERT_TRUE(Eventually([&] { return presence().find("dnd") != std::string::npos; }));
  const std::string before = discord_->Session({0, 1})->session_id;
  discord_->SendInvalidSession({}, false);
  ASSERT_TRUE(Eventually([&] {
    const auto session = discord_->Session({0, 1});
    return session && session->session_id != before;
  }));
  EXPECT_THAT(presence(), HasSubstr("dnd"));
}

TEST_F(SendTest, ARescaleTakesThePresenceAndTheCallsAlong) {
  StartForRescale();
  const uint64_t guild = discord_->guild_ids().at(3);
  const std::string join =
      R"({"guild_id":")" + std::to_string(guild) + R"(","channel_id":"7","self_mute":true})";
  ASSERT_EQ(Send(ToGuild(guild, 4, join)).code, StatusCode::OK);
  ASSERT_EQ(Send(ToShard(1, 3, R"({"status":"dnd","activities":[]})")).code, StatusCode::OK);
  ASSERT_NO_FATAL_FAILURE(Rescale());
  const uint32_t its_shard = ShardForGuild(guild, 4);
  for (uint32_t id = 0; id < 4; ++id) {
    const auto session = discord_->Session({id, 4});
    ASSERT_TRUE(session.has_value());
    EXPECT_THAT(session->presence, HasSubstr("dnd"));
    const auto commands = Commands({id, 4});
    ASSERT_EQ(commands.size(), id == its_shard ? 1u : 0u);
    if (id == its_shard) {
      EXPECT_EQ(commands[0].op, 4);
      EXPECT_THAT(commands[0].data, HasSubstr(R"("channel_id":"7")"));
    }
  }
}

TEST_F(SendTest, WhatWaitsForAGuildsOldShardGoesThroughItsNewOne) {
  StartForRescale();
  const uint64_t guild = discord_->guild_ids().at(3);
  const std::string presence = R"({"status":"idle","activities":[]})";
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(Send(ToGuild(guild, 3, presence)).code, StatusCode::OK);
  }
  // Discord takes five in 20 s over one connection.
  auto to_guild =
      std::async(std::launch::async, [&] { return Send(ToGuild(guild, 3, presence), 60s); });
  auto to_shard = std::async(std::launch::async, [&, other = 1 - ShardForGuild(guild, 2)] {
    for (int i = 0; i < 5; ++i) Send(ToShard(other, 3, presence));
    return Send(ToShard(other, 3, presence), 60s);
  });
  ASSERT_EQ(to_guild.wait_for(300ms), std::future_status::timeout);
  ASSERT_EQ(to_shard.wait_for(300ms), std::future_status::timeout);
  ASSERT_NO_FATAL_FAILURE(Rescale());
  ASSERT_EQ(to_guild.wait_for(5s), std::future_status::ready);
  const Answer sent = to_guild.get();
  EXPECT_EQ(sent.code, StatusCode::OK) << sent.message;
  EXPECT_EQ(sent.response.shard_id(), ShardForGuild(guild, 4));
  EXPECT_ANSWER(to_shard.get(), FAILED_PRECONDITION, "SHARD_NOT_RUNNING", "");
}

TEST_F(SendTest, AStopEndsWhatWaits) {
  StartReady(1);
  discord_->SilenceNextHellos(1000);
  discord_->DropConnections();
  ASSERT_TRUE(Eventually([&] { return discord_->counters().connections >= 2; }));
  std::vector<std::future<Answer>> waiting;
  for (int i = 0; i < 20; ++i) {
    waiting.push_back(
        std::async(std::launch::async, [&] { return Send(ToShard(0, 4, "{}"), 60s); }));
  }
  EXPECT_EQ(waiting.front().wait_for(300ms), std::future_status::timeout);
  server_->Signal(SIGTERM);
  for (auto& each : waiting) {
    EXPECT_ANSWER(each.get(), UNAVAILABLE, "SERVER_STOPPING", "stops");
  }
  EXPECT_EQ(server_->WaitForExit(), 0) << server_->err();
}

TEST_F(SendTest, AStopUnderSendsIsClean) {
  StartReady(2);
  std::vector<std::thread> callers;
  for (uint32_t i = 0; i < 6; ++i) {
    callers.emplace_back([&, i] {
      const auto stub = test::Connect(server_->address());
      for (;;) {
        grpc::ClientContext context;
        // Some are cancelled by their deadline at any moment.
        context.set_deadline(std::chrono::system_clock::now() + (i % 2 == 0 ? 20s : 3ms));
        v1::SendResponse response;
        const grpc::Status status = stub->Send(&context, ToShard(i % 2, 4, "{}"), &response);
        if (status.error_code() == StatusCode::UNAVAILABLE) return;
      }
    });
  }
  std::this_thread::sleep_for(300ms);
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->WaitForExit(), 0) << server_->err();
  for (auto& caller : callers) caller.join();
}

}  // namespace
}  // namespace shardd
