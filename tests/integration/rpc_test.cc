// Every RPC of the real server: what it answers, and how it refuses what it cannot do.

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <random>
#include <thread>

#include "health.grpc.pb.h"
#include "reflection.grpc.pb.h"
#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"

namespace shardd {
namespace {

using grpc::StatusCode;
using test::Eventually;
using ::testing::AllOf;
using ::testing::HasSubstr;

struct Failure {
  StatusCode code = StatusCode::OK;
  std::string reason;
  std::string message;
  std::string retry_after_ms;
};

class RpcTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::string> flags = {"--shard-count", "4"}) {
    simulator::SimulatorOptions options;
    options.max_concurrency = max_concurrency_;
    options.recommended_shards = 4;
    options.session_starts_remaining = session_starts_;
    discord_ = std::make_unique<simulator::Simulator>(options);
    flags.insert(flags.end(), {"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                               "--admin-listen", "off"});
    server_ = std::make_unique<test::ShardDProcess>(
        flags, test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
    ASSERT_NE(server_->address(), "") << server_->err();
    stub_ = test::Connect(server_->address());
  }

  bool WaitUntilGatewayKnown() {
    return Eventually([&] { return GetStats().recommended_shards() == 4; });
  }
  bool WaitUntilReady(size_t shards) {
    return Eventually([&] {
      size_t ready = 0;
      const v1::StatsResponse stats = GetStats();
      for (const auto& shard : stats.shards()) ready += shard.state() == v1::SHARD_STATE_READY;
      return ready == shards;
    });
  }

  template <typename Request, typename Response>
  Failure Call(grpc::Status (v1::ShardControl::Stub::*method)(grpc::ClientContext*, const Request&,
                                                              Response*),
               const Request& request, Response* response = nullptr) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    Response ignored;
    const grpc::Status status =
        (stub_.get()->*method)(&context, request, response == nullptr ? &ignored : response);
    return FailureOf(status, context);
  }

  template <typename Request, typename Message>
  Failure CallStream(std::unique_ptr<grpc::ClientReader<Message>> (v1::ShardControl::Stub::*method)(
                         grpc::ClientContext*, const Request&),
                     const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    auto reader = (stub_.get()->*method)(&context, request);
    Message message;
    EXPECT_FALSE(reader->Read(&message)) << "a refused stream delivers nothing";
    const grpc::Status status = reader->Finish();
    return FailureOf(status, context);
  }

  static Failure FailureOf(const grpc::Status& status, const grpc::ClientContext& context) {
    Failure failure{status.error_code(), test::ReasonOf(context), status.error_message(), ""};
    const auto& trailers = context.GetServerTrailingMetadata();
    if (const auto found = trailers.find("shardd-retry-after-ms"); found != trailers.end()) {
      failure.retry_after_ms = std::string(found->second.data(), found->second.size());
    }
    return failure;
  }

  v1::StatsResponse GetStats() {
    v1::StatsResponse stats;
    EXPECT_EQ(Call(&v1::ShardControl::Stub::Stats, v1::StatsRequest(), &stats).code,
              StatusCode::OK);
    return stats;
  }

  static v1::SpawnRequest SpawnOf(std::vector<uint32_t> ids, uint32_t count = 0) {
    v1::SpawnRequest request;
    request.mutable_shard_ids()->Assign(ids.begin(), ids.end());
    request.set_shard_count(count);
    return request;
  }
  static v1::KillRequest KillOf(std::vector<uint32_t> ids) {
    v1::KillRequest request;
    request.mutable_shard_ids()->Assign(ids.begin(), ids.end());
    return request;
  }

  static v1::RescaleRequest RescaleTo(uint32_t count, bool dry_run = false) {
    v1::RescaleRequest request;
    request.set_shard_count(count);
    request.set_dry_run(dry_run);
    return request;
  }
  v1::RescaleStatus Rescale(const v1::RescaleRequest& request) {
    v1::RescaleResponse response;
    const Failure failure = Call(&v1::ShardControl::Stub::Rescale, request, &response);
    EXPECT_EQ(failure.code, StatusCode::OK) << failure.message;
    return response.rescale();
  }

  uint32_t max_concurrency_ = 16;
  std::optional<uint32_t> session_starts_;
  std::unique_ptr<simulator::Simulator> discord_;
  std::unique_ptr<test::ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
};

#define EXPECT_FAILS(call, expected_code, expected_reason, expected_text)  \
  do {                                                                     \
    const Failure failure = call;                                          \
    EXPECT_EQ(failure.code, StatusCode::expected_code) << failure.message; \
    EXPECT_EQ(failure.reason, expected_reason) << failure.message;         \
    EXPECT_THAT(failure.message, HasSubstr(expected_text));                \
  } while (false)

using Stub = v1::ShardControl::Stub;

// ---- Spawn and Kill ----

TEST_F(RpcTest, SpawnStartsTheShardsThatItNames) {
  Start({"--shard-count", "4", "--no-spawn"});
  ASSERT_TRUE(WaitUntilGatewayKnown());
  EXPECT_EQ(GetStats().shard_count(), 0u);
  EXPECT_EQ(GetStats().generation(), 0u);

  v1::SpawnResponse spawned;
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({2, 0}), &spawned).code, StatusCode::OK);
  ASSERT_EQ(spawned.shards_size(), 2);
  EXPECT_EQ(spawned.shards(0).shard_id(), 0u);
  EXPECT_EQ(spawned.shards(1).shard_id(), 2u);
  EXPECT_EQ(spawned.shards(1).shard_count(), 4u);
  ASSERT_TRUE(WaitUntilReady(2));

  // Idempotent: what runs stays as it is.
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({}), &spawned).code, StatusCode::OK);
  EXPECT_EQ(spawned.shards_size(), 4);
  ASSERT_TRUE(WaitUntilReady(4));
  EXPECT_EQ(discord_->counters().identifies, 4u);
  const v1::StatsResponse stats = GetStats();
  EXPECT_EQ(stats.shard_count(), 4u);
  EXPECT_EQ(stats.generation(), 1u);
  for (const auto& shard : stats.shards()) EXPECT_EQ(shard.identifies(), 1u);
}

TEST_F(RpcTest, SpawnRefusesWhatDoesNotFit) {
  Start();
  ASSERT_TRUE(WaitUntilReady(4));
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({1, 1})), INVALID_ARGUMENT, "DUPLICATE_SHARD_ID",
               "shard 1");
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({4})), INVALID_ARGUMENT, "SHARD_ID_OUT_OF_RANGE",
               "0 to 3");
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({0}, 8)), FAILED_PRECONDITION, "SHARD_COUNT_MISMATCH",
               "Rescale");
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({9}, 8)), INVALID_ARGUMENT, "SHARD_ID_OUT_OF_RANGE",
               "shard 9");
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({}, 70000)), INVALID_ARGUMENT, "SHARD_COUNT_INVALID",
               "65535");
  EXPECT_EQ(discord_->counters().identifies, 4u);
}

TEST_F(RpcTest, SpawnRefusesShardsOfOtherServers) {
  Start({"--shard-count", "4", "--shard-ids", "0-1"});
  ASSERT_TRUE(WaitUntilReady(2));
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({2})), FAILED_PRECONDITION, "SHARD_NOT_ASSIGNED",
               "--shard-ids");
  v1::SpawnResponse spawned;
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({}), &spawned).code, StatusCode::OK);
  EXPECT_EQ(spawned.shards_size(), 2);
}

TEST_F(RpcTest, SpawnRefusesToOverdrawTheSessionBudget) {
  session_starts_ = 15;
  Start({"--shard-count", "4", "--no-spawn", "--identify-reserve", "12"});
  ASSERT_TRUE(WaitUntilGatewayKnown());
  EXPECT_EQ(GetStats().session_budget().reserve(), 12u);
  const Failure spent = Call(&Stub::Spawn, SpawnOf({}));
  EXPECT_EQ(spent.code, StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(spent.reason, "SESSION_BUDGET_SPENT");
  EXPECT_THAT(spent.message, AllOf(HasSubstr("4 IDENTIFYs would be due"), HasSubstr("of 1000"),
                                   HasSubstr("grants 15"), HasSubstr("12 are kept"),
                                   HasSubstr("--identify-reserve")));
  EXPECT_NE(spent.retry_after_ms, "");
  EXPECT_EQ(discord_->counters().identifies, 0u) << "nothing was started";
  EXPECT_EQ(GetStats().session_budget().remaining(), 15u);
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({0, 1, 2})).code, StatusCode::OK);
  ASSERT_TRUE(WaitUntilReady(3));
  EXPECT_EQ(GetStats().session_budget().remaining(), 12u);

  // What Spawn may not touch is there for a shard that has lost its session.
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({3})), RESOURCE_EXHAUSTED, "SESSION_BUDGET_SPENT",
               "grants 12");
  discord_->SendInvalidSession(ShardId{.id = 1, .count = 4}, false);
  ASSERT_TRUE(discord_->WaitUntil([&] { return discord_->counters().identifies == 4; }));
  ASSERT_TRUE(WaitUntilReady(3));
  EXPECT_EQ(GetStats().session_budget().remaining(), 11u);
  EXPECT_TRUE(server_->WaitForLog("few session starts are left")) << server_->err();
}

TEST_F(RpcTest, SpawnOnASpentBudgetSaysWhenDiscordsDayEnds) {
  Start({"--shard-count", "4", "--identify-reserve", "998"});
  // The server's own start is refused, too, and does not end it.
  ASSERT_TRUE(server_->WaitForLog("not all shards run yet")) << server_->err();
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({0})).code, StatusCode::OK);
  ASSERT_TRUE(WaitUntilReady(1));
  // Discord's day has begun with that; it is asked again, and names its end.
  ASSERT_TRUE(Eventually([&] { return GetStats().session_budget().has_resets_at(); }));
  const Failure failure = Call(&Stub::Spawn, SpawnOf({1, 2}));
  EXPECT_EQ(failure.reason, "SESSION_BUDGET_SPENT");
  ASSERT_NE(failure.retry_after_ms, "");
  constexpr int64_t kHour = 3'600'000;
  EXPECT_GT(std::stoll(failure.retry_after_ms), 23 * kHour);
  EXPECT_LE(std::stoll(failure.retry_after_ms), 24 * kHour);
}

TEST_F(RpcTest, SpawnBeforeDiscordHasAnsweredSaysWhenToAskAgain) {
  simulator::SimulatorOptions options;
  discord_ = std::make_unique<simulator::Simulator>(options);
  discord_->AnswerGatewayBotWith(503, 1000);
  server_ = std::make_unique<test::ShardDProcess>(
      std::vector<std::string>{"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                               "--admin-listen", "off"},
      test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
  stub_ = test::Connect(server_->address());
  const Failure failure = Call(&Stub::Spawn, SpawnOf({0}));
  EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
  EXPECT_EQ(failure.reason, "GATEWAY_NOT_KNOWN");
  EXPECT_NE(failure.retry_after_ms, "");
}

TEST_F(RpcTest, KillStopsAndCanBeRepeated) {
  Start();
  ASSERT_TRUE(WaitUntilReady(4));
  for (int i = 0; i < 2; ++i) {
    v1::KillResponse killed;
    ASSERT_EQ(Call(&Stub::Kill, KillOf({3, 1}), &killed).code, StatusCode::OK);
    ASSERT_EQ(killed.shards_size(), 2);
    EXPECT_EQ(killed.shards(0).shard_id(), 1u);
    EXPECT_EQ(killed.shards(0).state(), v1::SHARD_STATE_STOPPED);
    EXPECT_EQ(killed.shards(1).state(), v1::SHARD_STATE_STOPPED);
  }
  EXPECT_TRUE(discord_->WaitUntil([&] { return discord_->counters().client_closes[1000] == 2; }));
  v1::KillResponse all;
  ASSERT_EQ(Call(&Stub::Kill, KillOf({}), &all).code, StatusCode::OK);
  EXPECT_EQ(all.shards_size(), 4);
}

TEST_F(RpcTest, KillAndStatsOfAShardThatNeverWasSpawnedAreNotFound) {
  Start({"--shard-count", "4", "--no-spawn"});
  ASSERT_TRUE(WaitUntilGatewayKnown());
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({0})).code, StatusCode::OK);
  EXPECT_FAILS(Call(&Stub::Kill, KillOf({1})), NOT_FOUND, "SHARD_NOT_FOUND", "shard 1");
  EXPECT_FAILS(Call(&Stub::Kill, KillOf({0, 0})), INVALID_ARGUMENT, "DUPLICATE_SHARD_ID",
               "shard 0");
  v1::StatsRequest stats;
  stats.add_shard_ids(1);
  EXPECT_FAILS(Call(&Stub::Stats, stats), NOT_FOUND, "SHARD_NOT_FOUND", "shard 1");
  stats.set_shard_ids(0, 0);
  stats.set_shard_count(8);
  EXPECT_FAILS(Call(&Stub::Stats, stats), NOT_FOUND, "SHARD_NOT_FOUND", "shard 0/8");
}

// ---- Locate, Stats, Watch ----

TEST_F(RpcTest, LocateFollowsDiscordsFormula) {
  Start({"--shard-count", "4", "--no-spawn"});
  v1::LocateRequest request;
  request.set_guild_id(197038439483310086);
  EXPECT_FAILS(Call(&Stub::Locate, request), FAILED_PRECONDITION, "NO_GENERATION", "Spawn");
  request.set_shard_count(70000);
  EXPECT_FAILS(Call(&Stub::Locate, request), INVALID_ARGUMENT, "SHARD_COUNT_INVALID", "65535");
  request.set_shard_count(10);
  v1::LocateResponse response;
  ASSERT_EQ(Call(&Stub::Locate, request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.shard_id(), (197038439483310086ULL >> 22) % 10);
  EXPECT_EQ(response.shard_count(), 10u);

  ASSERT_TRUE(WaitUntilGatewayKnown());
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({0})).code, StatusCode::OK);
  request.set_shard_count(0);
  ASSERT_EQ(Call(&Stub::Locate, request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.shard_id(), (197038439483310086ULL >> 22) % 4);
  EXPECT_EQ(response.shard_count(), 4u);
}

TEST_F(RpcTest, StatsSaysWhatRuns) {
  Start({"--shard-count", "4", "--environment", "staging"});
  ASSERT_TRUE(WaitUntilReady(4));
  test::EventStream stream(*stub_, test::FromEarliest());
  ASSERT_TRUE(stream.WaitForEvents(20));
  const v1::StatsResponse stats = GetStats();
  EXPECT_EQ(stats.server().environment(), "staging");
  EXPECT_NE(stats.server().instance_id(), "");
  EXPECT_NE(stats.server().version(), "");
  EXPECT_GT(stats.server().started_at().seconds(), 1'600'000'000);
  EXPECT_EQ(stats.shard_count(), 4u);
  EXPECT_EQ(stats.recommended_shards(), 4u);
  EXPECT_EQ(stats.session_budget().max_concurrency(), 16u);
  EXPECT_EQ(stats.session_budget().remaining(), stats.session_budget().total() - 4);
  EXPECT_GT(stats.log().events(), 20u);
  EXPECT_GT(stats.log().bytes(), 1000u);
  ASSERT_EQ(stats.subscribers_size(), 1);
  EXPECT_TRUE(stats.subscribers(0).connected());
  EXPECT_TRUE(stats.subscribers(0).has_lag());
  EXPECT_NE(stats.subscribers(0).peer(), "");
  ASSERT_EQ(stats.shards_size(), 4);
  uint32_t guilds = 0;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(stats.shards(i).shard_id(), static_cast<uint32_t>(i));
    EXPECT_TRUE(stats.shards(i).has_connected_since());
    EXPECT_GT(stats.shards(i).events(), 0u);
    guilds += stats.shards(i).guilds();
  }
  EXPECT_EQ(guilds, discord_->guild_ids().size());
  EXPECT_EQ(stats.DebugString().find("token"), std::string::npos);
  stream.Cancel();
  stream.Finish();
  EXPECT_TRUE(Eventually([&] { return GetStats().subscribers_size() == 0; }));
}

TEST_F(RpcTest, WatchTellsAtOnceAtTheIntervalAndOnChanges) {
  Start();
  ASSERT_TRUE(WaitUntilReady(4));
  grpc::ClientContext context;
  v1::WatchRequest request;
  request.mutable_interval()->set_seconds(3600);
  request.add_shard_ids(2);
  auto reader = stub_->Watch(&context, request);
  v1::StatsResponse stats;
  ASSERT_TRUE(reader->Read(&stats));
  ASSERT_EQ(stats.shards_size(), 1);
  EXPECT_EQ(stats.shards(0).state(), v1::SHARD_STATE_READY);
  ASSERT_EQ(Call(&Stub::Kill, KillOf({2})).code, StatusCode::OK);
  do {
    ASSERT_TRUE(reader->Read(&stats));
  } while (stats.shards(0).state() != v1::SHARD_STATE_STOPPED);
  context.TryCancel();
  reader->Finish();

  grpc::ClientContext often_context;
  request.mutable_interval()->set_seconds(0);
  request.mutable_interval()->set_nanos(100'000'000);
  auto often = stub_->Watch(&often_context, request);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(often->Read(&stats));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(250));
  often_context.TryCancel();
  often->Finish();
}

TEST_F(RpcTest, StatsDoesNotWaitWhileShardsAreSpawnedAndKilled) {
  Start({"--shard-count", "4", "--threads", "1", "--batch-delay", "100ms"});
  ASSERT_TRUE(WaitUntilReady(4));
  discord_->SetRate(500);
  std::atomic<bool> running = true;
  std::thread controller([&] {
    const auto stub = test::Connect(server_->address());
    while (running) {
      grpc::ClientContext context;
      v1::KillResponse response;
      EXPECT_TRUE(stub->Kill(&context, KillOf({3}), &response).ok());
    }
  });
  // Each Kill waits for the worker's round, of 100 ms. The fan-out reads these statistics too,
  // between two events.
  std::vector<std::chrono::nanoseconds> times;
  for (int i = 0; i < 21; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(7));
    const auto start = std::chrono::steady_clock::now();
    GetStats();
    times.push_back(std::chrono::steady_clock::now() - start);
  }
  running = false;
  controller.join();
  std::sort(times.begin(), times.end());
  EXPECT_LT(times[times.size() / 2], std::chrono::milliseconds(20));
}

TEST_F(RpcTest, WatchTellsTheLastStateOfEachChange) {
  Start();
  ASSERT_TRUE(WaitUntilReady(4));
  grpc::ClientContext context;
  v1::WatchRequest request;
  request.mutable_interval()->set_seconds(3600);
  auto reader = stub_->Watch(&context, request);
  std::mutex mutex;
  v1::StatsResponse newest;
  std::thread watcher([&] {
    v1::StatsResponse stats;
    while (reader->Read(&stats)) {
      const std::lock_guard lock(mutex);
      newest = stats;
    }
    reader->Finish();
  });
  v1::KillRequest kill = KillOf({2});
  kill.set_keep_session(true);
  for (uint64_t i = 1; i <= 25; ++i) {
    EXPECT_EQ(Call(&Stub::Kill, kill).code, StatusCode::OK);
    // What it has missed comes in one round with the change of its state.
    discord_->EmitTraffic(3000);
    EXPECT_EQ(Call(&Stub::Spawn, SpawnOf({2})).code, StatusCode::OK);
    const auto is_told = [&] {
      const std::lock_guard lock(mutex);
      return newest.shards_size() == 4 && newest.shards(2).state() == v1::SHARD_STATE_READY &&
             newest.shards(2).resumes() == i;
    };
    EXPECT_TRUE(Eventually(is_told, std::chrono::seconds(3))) << i;
  }
  context.TryCancel();
  watcher.join();
}

// ---- Streams that end at any moment ----

TEST_F(RpcTest, StreamsThatAreCancelledAtAnyMomentLeaveNothingBehind) {
  constexpr int kMost = 64;
  Start({"--shard-count", "4", "--max-subscribers", std::to_string(kMost)});
  ASSERT_TRUE(WaitUntilReady(4));
  discord_->SetRate(2000);
  std::vector<std::thread> clients;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    clients.emplace_back([&, seed] {
      std::mt19937 random(seed);
      // A connection of its own, for half of them, that goes down with the streams on it.
      for (int i = 0; i < 60; ++i) {
        std::unique_ptr<v1::ShardControl::Stub> own;
        if (seed % 2 == 0) own = test::Connect(server_->address());
        v1::ShardControl::Stub& stub = own ? *own : *stub_;
        grpc::ClientContext context;
        if (random() % 4 == 0) {
          context.set_deadline(std::chrono::system_clock::now() +
                               std::chrono::microseconds(random() % 20'000));
        }
        const auto use = [&](auto reader, auto message) {
          const uint32_t reads = random() % 2;
          for (uint32_t j = 0; j < reads && reader->Read(&message); ++j) {
          }
          std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
          context.TryCancel();
          while (reader->Read(&message)) {
          }
          EXPECT_FALSE(reader->Finish().ok());
        };
        if (random() % 2 == 0) {
          v1::EventsRequest request = test::FromEarliest();
          if (random() % 2 == 0) request.set_from(v1::START_FROM_LATEST);
          request.set_max_delay_ms(random() % 2 * 50);
          use(stub.Events(&context, request), v1::EventBatch());
        } else {
          v1::WatchRequest request;
          request.mutable_interval()->set_seconds(80'000);
          use(stub.Watch(&context, request), v1::StatsResponse());
        }
      }
    });
  }
  for (auto& client : clients) client.join();
  // All places are free again, well before any interval has passed.
  EXPECT_TRUE(Eventually(
      [&] {
        std::vector<std::unique_ptr<test::EventStream>> streams;
        for (int i = 0; i < kMost; ++i) {
          streams.push_back(std::make_unique<test::EventStream>(*stub_, v1::EventsRequest()));
        }
        return std::all_of(streams.begin(), streams.end(), [](const auto& stream) {
          return stream->WaitFor([](const auto& batches) { return !batches.empty(); },
                                 std::chrono::milliseconds(500));
        });
      },
      std::chrono::seconds(10)));
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->WaitForExit(), 0) << server_->err();
}

TEST_F(RpcTest, AStopEndsWhateverIsOpenAndWhateverOpensMeanwhile) {
  Start({"--shard-count", "4", "--drain-timeout", "3s"});
  ASSERT_TRUE(WaitUntilReady(4));
  discord_->SetRate(2000);
  namespace health = grpc::health::v1;
  std::vector<std::thread> clients;
  std::atomic<bool> running = true;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] {
      const auto channel =
          grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
      const auto stub = v1::ShardControl::NewStub(channel);
      const auto health_stub = health::Health::NewStub(channel);
      const auto drain = [&](auto reader, auto message) {
        while (reader->Read(&message)) {
        }
        EXPECT_FALSE(reader->Finish().ok());
      };
      while (running) {
        grpc::ClientContext context;
        if (i < 4) {
          drain(stub->Events(&context, test::FromEarliest()), v1::EventBatch());
        } else if (i < 7) {
          drain(stub->Watch(&context, v1::WatchRequest()), v1::StatsResponse());
        } else {
          drain(health_stub->Watch(&context, health::HealthCheckRequest()),
                health::HealthCheckResponse());
        }
      }
    });
  }
  // And one that never reads.
  grpc::ClientContext stalled_context;
  const auto stalled = stub_->Events(&stalled_context, test::FromEarliest());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->WaitForExit(std::chrono::seconds(10)), 0) << server_->err();
  running = false;
  for (auto& client : clients) client.join();
  stalled_context.TryCancel();
}

TEST_F(RpcTest, HealthSaysThatTheServerStops) {
  Start();
  ASSERT_TRUE(WaitUntilReady(4));
  namespace health = grpc::health::v1;
  const auto stub = health::Health::NewStub(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  health::HealthCheckRequest request;
  request.set_service("shardd.v1.ShardControl");
  auto reader = stub->Watch(&context, request);
  health::HealthCheckResponse response;
  do {
    ASSERT_TRUE(reader->Read(&response));
  } while (response.status() != health::HealthCheckResponse::SERVING);
  server_->Signal(SIGTERM);
  ASSERT_TRUE(reader->Read(&response))
      << "who balances load sends new streams until it hears of the stop";
  EXPECT_EQ(response.status(), health::HealthCheckResponse::NOT_SERVING);
  while (reader->Read(&response)) {
  }
  reader->Finish();
  EXPECT_EQ(server_->WaitForExit(), 0) << server_->err();
}

TEST_F(RpcTest, WatchRefusesIntervalsThatMakeNoSense) {
  Start();
  v1::WatchRequest request;
  for (const auto& [seconds, nanos] :
       std::vector<std::pair<int64_t, int32_t>>{{0, 0},
                                                {0, 99'999'999},
                                                {-1, 0},
                                                {0, -1},
                                                {86'401, 0},
                                                {INT64_MAX, INT32_MAX},
                                                {INT64_MIN, 0}}) {
    request.mutable_interval()->set_seconds(seconds);
    request.mutable_interval()->set_nanos(nanos);
    EXPECT_FAILS(CallStream(&Stub::Watch, request), INVALID_ARGUMENT, "WATCH_INTERVAL_INVALID",
                 "100 ms");
  }
  request.clear_interval();
  request.add_shard_ids(9);
  EXPECT_FAILS(CallStream(&Stub::Watch, request), NOT_FOUND, "SHARD_NOT_FOUND", "shard 9");
}

// ---- Events ----

TEST_F(RpcTest, EventsRefusesWhatItCannotDo) {
  Start();
  v1::EventsRequest request;
  for (const char* cursor :
       {"", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA", "1234567890123456789012345678!"}) {
    request.set_cursor(cursor);
    EXPECT_FAILS(CallStream(&Stub::Events, request), INVALID_ARGUMENT, "CURSOR_MALFORMED",
                 "EventBatch.cursor");
  }
  request.Clear();
  request.set_from(static_cast<v1::StartFrom>(17));
  EXPECT_FAILS(CallStream(&Stub::Events, request), INVALID_ARGUMENT, "START_INVALID", "17");
}

TEST_F(RpcTest, EventsRefusesASnapshotWhereNoneIsKept) {
  Start({"--snapshot-bytes", "0"});
  v1::EventsRequest request;
  request.set_snapshot(true);
  EXPECT_FAILS(CallStream(&Stub::Events, request), FAILED_PRECONDITION, "SNAPSHOT_OFF",
               "--snapshot-bytes");
}

TEST_F(RpcTest, EventsRefusesBytesThatAreNoRequest) {
  Start();
  grpc::GenericStub generic(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = generic.PrepareCall(&context, "/shardd.v1.ShardControl/Events", &queue);
  const auto wait = [&] {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
  };
  call->StartCall(nullptr);
  wait();
  grpc::Slice garbage("\xff\xff\xff");
  call->WriteLast(grpc::ByteBuffer(&garbage, 1), grpc::WriteOptions(), nullptr);
  wait();
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_EQ(test::ReasonOf(context), "REQUEST_MALFORMED");
}

TEST_F(RpcTest, StreamsAreBounded) {
  Start({"--shard-count", "4", "--max-subscribers", "2"});
  auto first = std::make_unique<test::EventStream>(*stub_, v1::EventsRequest());
  test::EventStream second(*stub_, v1::EventsRequest());
  const auto begun = [](const auto& batches) { return !batches.empty(); };
  ASSERT_TRUE(first->WaitFor(begun) && second.WaitFor(begun));
  EXPECT_FAILS(CallStream(&Stub::Events, v1::EventsRequest()), RESOURCE_EXHAUSTED,
               "TOO_MANY_SUBSCRIBERS", "--max-subscribers");
  EXPECT_FAILS(CallStream(&Stub::Watch, v1::WatchRequest()), RESOURCE_EXHAUSTED,
               "TOO_MANY_SUBSCRIBERS", "2");
  first.reset();
  EXPECT_TRUE(Eventually([&] {
    test::EventStream third(*stub_, v1::EventsRequest());
    return third.WaitFor(begun, std::chrono::milliseconds(500));
  }));
}

TEST_F(RpcTest, WhatIsNotBuiltYetIsUnimplemented) {
  Start();
  EXPECT_EQ(Call(&Stub::Restart, v1::RestartRequest()).code, StatusCode::UNIMPLEMENTED);
}

// ---- Rescale: what it answers; rescale_test.cc has what it does ----

TEST_F(RpcTest, ADryRunSaysWhatARescaleWouldTakeAndSpendsNothing) {
  Start();
  EXPECT_EQ(GetStats().rescale().state(), v1::RESCALE_STATE_NONE);
  ASSERT_TRUE(WaitUntilReady(4));
  const uint32_t left = GetStats().session_budget().remaining();
  const v1::RescaleStatus plan = Rescale(RescaleTo(8, /*dry_run=*/true));
  EXPECT_EQ(plan.state(), v1::RESCALE_STATE_PLANNED);
  EXPECT_EQ(plan.from_shard_count(), 4u);
  EXPECT_EQ(plan.to_shard_count(), 8u);
  EXPECT_EQ(plan.plan().identifies(), 8u);
  EXPECT_EQ(plan.plan().budget_after(), left - 8);
  EXPECT_EQ(plan.plan().peak_connections(), 12u);
  EXPECT_GT(plan.plan().duration().seconds(), 4);
  EXPECT_GT(plan.plan().memory_bytes(), 0u);
  EXPECT_THAT(plan.plan().warnings(0), HasSubstr("4010"));
  EXPECT_EQ(GetStats().rescale().state(), v1::RESCALE_STATE_NONE);
  EXPECT_EQ(discord_->counters().identifies, 4u);
  EXPECT_EQ(GetStats().session_budget().remaining(), left);
}

TEST_F(RpcTest, ARescaleToWhatRunsIsDoneAtOnce) {
  Start();
  ASSERT_TRUE(WaitUntilReady(4));
  for (const uint32_t count : {4u, 0u}) {
    const v1::RescaleStatus done = Rescale(RescaleTo(count));
    EXPECT_EQ(done.state(), v1::RESCALE_STATE_DONE);
    EXPECT_EQ(done.from_shard_count(), 4u);
    EXPECT_EQ(done.to_shard_count(), 4u);
  }
  EXPECT_EQ(discord_->counters().identifies, 4u);
}

TEST_F(RpcTest, RescaleRefusesWhatItCannotDo) {
  Start({"--shard-count", "4", "--shard-ids", "0-1"});
  ASSERT_TRUE(WaitUntilReady(2));
  EXPECT_FAILS(Call(&Stub::Rescale, RescaleTo(8)), FAILED_PRECONDITION, "PARTIAL_POOL", "2 of 4");
  EXPECT_FAILS(Call(&Stub::Rescale, RescaleTo(70'000)), INVALID_ARGUMENT, "SHARD_COUNT_INVALID",
               "70000");
  v1::RescaleRequest per_shard;
  per_shard.set_guilds_per_shard(2501);
  EXPECT_FAILS(Call(&Stub::Rescale, per_shard), INVALID_ARGUMENT, "GUILDS_PER_SHARD_INVALID",
               "2500");
}

TEST_F(RpcTest, RescaleBeforeTheFirstSpawnHasNothingToStartFrom) {
  Start({"--shard-count", "4", "--no-spawn"});
  EXPECT_FAILS(Call(&Stub::Rescale, RescaleTo(8)), FAILED_PRECONDITION, "NO_GENERATION", "Spawn");
}

TEST_F(RpcTest, RescaleDoesNotStartTheGuildsOfStoppedShards) {
  Start();
  ASSERT_TRUE(WaitUntilReady(4));
  ASSERT_EQ(Call(&Stub::Kill, KillOf({1, 2})).code, StatusCode::OK);
  EXPECT_FAILS(Call(&Stub::Rescale, RescaleTo(8)), FAILED_PRECONDITION, "SHARD_NOT_RUNNING",
               "shards 1-2 of 4");
  EXPECT_EQ(Rescale(RescaleTo(4)).state(), v1::RESCALE_STATE_DONE);
}

TEST_F(RpcTest, RescaleRefusesToOverdrawTheSessionBudget) {
  session_starts_ = 20;
  Start({"--shard-count", "4", "--identify-reserve", "10"});
  ASSERT_TRUE(WaitUntilReady(4));
  const Failure spent = Call(&Stub::Rescale, RescaleTo(8));
  EXPECT_EQ(spent.code, StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(spent.reason, "SESSION_BUDGET_SPENT");
  EXPECT_THAT(spent.message, AllOf(HasSubstr("8 IDENTIFYs would be due"), HasSubstr("grants 16")));
  EXPECT_NE(spent.retry_after_ms, "");
  EXPECT_EQ(GetStats().rescale().state(), v1::RESCALE_STATE_NONE);
  EXPECT_EQ(discord_->counters().identifies, 4u) << "nothing was started";
  const v1::RescaleStatus plan = Rescale(RescaleTo(8, /*dry_run=*/true));
  EXPECT_EQ(plan.plan().budget_after(), 0u);
  EXPECT_THAT(plan.plan().warnings(0), HasSubstr("do not cover it"));
  // What it does cover begins.
  EXPECT_EQ(Rescale(RescaleTo(6)).state(), v1::RESCALE_STATE_PLANNED);
}

TEST_F(RpcTest, ARescaleThatIdentifiesIsShownAndCanBeCancelled) {
  // One IDENTIFY in five seconds.
  max_concurrency_ = 1;
  Start({"--shard-count", "1"});
  ASSERT_TRUE(WaitUntilReady(1));
  grpc::ClientContext context;
  v1::WatchRequest watch;
  watch.mutable_interval()->set_seconds(3600);
  auto reader = stub_->Watch(&context, watch);
  v1::StatsResponse stats;
  ASSERT_TRUE(reader->Read(&stats));

  EXPECT_EQ(Rescale(RescaleTo(8)).state(), v1::RESCALE_STATE_PLANNED);
  while (stats.rescale().state() != v1::RESCALE_STATE_IDENTIFYING) {
    ASSERT_TRUE(reader->Read(&stats));
  }
  // The generation in charge stays what all else is about.
  EXPECT_EQ(stats.shard_count(), 1u);
  EXPECT_EQ(stats.generation(), 1u);
  EXPECT_EQ(stats.shards_size(), 1);
  v1::StatsRequest incoming;
  incoming.set_shard_count(8);
  v1::StatsResponse of_incoming;
  ASSERT_EQ(Call(&Stub::Stats, incoming, &of_incoming).code, StatusCode::OK);
  EXPECT_EQ(of_incoming.shards_size(), 8);
  v1::LocateResponse located;
  ASSERT_EQ(Call(&Stub::Locate, v1::LocateRequest(), &located).code, StatusCode::OK);
  EXPECT_EQ(located.shard_count(), 1u);

  EXPECT_EQ(Rescale(RescaleTo(8)).state(), v1::RESCALE_STATE_IDENTIFYING);
  EXPECT_EQ(Rescale(RescaleTo(0)).state(), v1::RESCALE_STATE_IDENTIFYING);
  EXPECT_FAILS(Call(&Stub::Rescale, RescaleTo(4)), FAILED_PRECONDITION, "RESCALE_RUNNING",
               "from 1 to 8");
  EXPECT_FAILS(Call(&Stub::Kill, KillOf({0})), FAILED_PRECONDITION, "RESCALE_RUNNING", "Cancel");
  EXPECT_FAILS(Call(&Stub::Spawn, SpawnOf({0}, 8)), FAILED_PRECONDITION, "RESCALE_RUNNING",
               "Cancel");
  EXPECT_EQ(Call(&Stub::Spawn, SpawnOf({})).code, StatusCode::OK);

  v1::CancelRescaleResponse cancelled;
  ASSERT_EQ(Call(&Stub::CancelRescale, v1::CancelRescaleRequest(), &cancelled).code,
            StatusCode::OK);
  EXPECT_EQ(cancelled.rescale().state(), v1::RESCALE_STATE_CANCELLED);
  while (stats.rescale().state() != v1::RESCALE_STATE_CANCELLED) {
    ASSERT_TRUE(reader->Read(&stats));
  }
  context.TryCancel();
  reader->Finish();
  ASSERT_EQ(Call(&Stub::Stats, incoming, &of_incoming).code, StatusCode::OK);
  EXPECT_EQ(of_incoming.shards_size(), 0);
  EXPECT_TRUE(discord_->WaitForSessions(1, 1));
  EXPECT_EQ(Call(&Stub::Kill, KillOf({0})).code, StatusCode::OK);

  test::EventStream stream(*stub_, test::FromEarliest());
  ASSERT_TRUE(stream.WaitFor([](const auto& batches) {
    std::vector<std::string> states;
    for (const auto& batch : batches) {
      for (const auto& event : batch.events()) {
        if (event.type() == "SHARDD_RESCALE") states.push_back(event.data());
      }
    }
    return states.size() == 2 && states[0].find("IDENTIFYING") != std::string::npos &&
           states[1].find(
               "\"state\":\"CANCELLED\",\"from_shard_count\":1,\"to_shard_count\":8,"
               "\"generation\":1,\"reason\":\"by CancelRescale\"") != std::string::npos;
  }));
}

// ---- Reflection and health ----

TEST_F(RpcTest, ReflectionListsAndDescribesTheService) {
  Start();
  namespace reflection = grpc::reflection::v1alpha;
  const auto stub = reflection::ServerReflection::NewStub(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  auto stream = stub->ServerReflectionInfo(&context);
  reflection::ServerReflectionRequest request;
  reflection::ServerReflectionResponse response;
  request.set_list_services("*");
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service())
    names.push_back(service.name());
  EXPECT_THAT(names, ::testing::IsSupersetOf({"shardd.v1.ShardControl", "grpc.health.v1.Health"}));

  request.set_file_containing_symbol("shardd.v1.ShardControl");
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  std::vector<std::string> methods;
  for (const std::string& bytes : response.file_descriptor_response().file_descriptor_proto()) {
    google::protobuf::FileDescriptorProto file;
    ASSERT_TRUE(file.ParseFromString(bytes));
    for (const auto& service : file.service()) {
      for (const auto& method : service.method()) methods.push_back(method.name());
    }
  }
  EXPECT_THAT(methods, ::testing::UnorderedElementsAre("Spawn", "Kill", "Restart", "Rescale",
                                                       "CancelRescale", "Stats", "Watch", "Events",
                                                       "Ack", "Send", "Locate"));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(RpcTest, HealthFollowsTheShards) {
  Start({"--shard-count", "4", "--no-spawn"});
  namespace health = grpc::health::v1;
  const auto stub = health::Health::NewStub(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  const auto status = [&](const std::string& service) {
    grpc::ClientContext context;
    health::HealthCheckRequest request;
    request.set_service(service);
    health::HealthCheckResponse response;
    const grpc::Status result = stub->Check(&context, request, &response);
    return result.ok() ? response.status() : health::HealthCheckResponse::SERVICE_UNKNOWN;
  };
  const std::string service = "shardd.v1.ShardControl";
  EXPECT_EQ(status(""), health::HealthCheckResponse::SERVING);
  EXPECT_EQ(status("nobody.knows.This"), health::HealthCheckResponse::SERVICE_UNKNOWN);
  // Nothing is wanted, so all that is wanted is there.
  EXPECT_TRUE(Eventually([&] { return status(service) == health::HealthCheckResponse::SERVING; }));
  ASSERT_EQ(Call(&Stub::Spawn, SpawnOf({})).code, StatusCode::OK);
  ASSERT_TRUE(WaitUntilReady(4));
  EXPECT_TRUE(Eventually([&] { return status(service) == health::HealthCheckResponse::SERVING; }));
  discord_->CloseWith(ShardId{3, 4}, 4013);
  EXPECT_TRUE(
      Eventually([&] { return status(service) == health::HealthCheckResponse::NOT_SERVING; }));
  EXPECT_EQ(status(""), health::HealthCheckResponse::SERVING);
  // A stopped shard is not wanted.
  ASSERT_EQ(Call(&Stub::Kill, KillOf({3})).code, StatusCode::OK);
  EXPECT_TRUE(Eventually([&] { return status(service) == health::HealthCheckResponse::SERVING; }));
}

}  // namespace
}  // namespace shardd
