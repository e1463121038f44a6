// The real server ends, by kill -9 or in peace, and the next one on the same data directory goes on
// where it stopped.

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <csignal>
#include <random>
#include <thread>

#include "simulator/simulator.h"
#include "support/delivered.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"
#include "support/temp_dir.h"

namespace shardd {
namespace {

using namespace std::chrono_literals;
using simulator::Simulator;
using simulator::SimulatorOptions;
using test::EventStream;
using test::Eventually;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Flags = std::vector<std::string>;

constexpr char kToken[] = "MTk4NjIyNDgz.Cl2FMQ.s3cret";
constexpr uint32_t kShards = 4;

class RestartTest : public ::testing::Test {
 protected:
  RestartTest() {
    options_.record = true;
    options_.guilds = 40;
    options_.max_concurrency = 16;
    options_.identify_window = 100ms;
    options_.recommended_shards = kShards;
  }

  void Start(Flags flags = {}, const char* token = kToken) {
    if (discord_ == nullptr) discord_ = std::make_unique<Simulator>(options_);
    stream_.reset();
    flags.insert(flags.end(), {"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                               "--admin-listen", "127.0.0.1:0", "--data-dir", dir_ / "data",
                               "--retain-bytes", "64MiB", "--max-message-bytes", "1MiB"});
    server_ = std::make_unique<test::ShardDProcess>(
        flags, test::ShardDProcess::Variables{{"DISCORD_TOKEN", token}});
    ASSERT_NE(server_->address(), "") << server_->err();
    stub_ = test::Connect(server_->address());
    stream_ = std::make_unique<EventStream>(*stub_, test::FromEarliest());
  }
  void StartReady(Flags flags = {}, uint32_t shards = kShards) {
    Start(std::move(flags));
    ASSERT_TRUE(discord_->WaitForSessions(shards, shards)) << server_->err();
    ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  }
  void Kill() {
    server_->Signal(SIGKILL);
    ASSERT_TRUE(server_->WaitForExit().has_value());
  }
  void Stop() {
    server_->Signal(SIGTERM);
    ASSERT_EQ(server_->WaitForExit(), 0) << server_->err();
  }

  v1::StatsResponse Stats() {
    grpc::ClientContext context;
    v1::StatsResponse stats;
    EXPECT_TRUE(stub_->Stats(&context, {}, &stats).ok());
    return stats;
  }
  std::vector<v1::ShardState> States() {
    std::vector<v1::ShardState> states;
    const v1::StatsResponse stats = Stats();
    for (const auto& shard : stats.shards()) states.push_back(shard.state());
    return states;
  }
  bool WaitUntilAllReady() {
    return Eventually([&] {
      const auto states = States();
      return !states.empty() && std::ranges::all_of(states, [](v1::ShardState state) {
        return state == v1::SHARD_STATE_READY || state == v1::SHARD_STATE_STOPPED;
      });
    });
  }
  void KillShard(uint32_t id, bool keep_session) {
    grpc::ClientContext context;
    v1::KillRequest request;
    request.add_shard_ids(id);
    request.set_keep_session(keep_session);
    v1::KillResponse response;
    ASSERT_TRUE(stub_->Kill(&context, request, &response).ok());
  }
  void SpawnShard(uint32_t id) {
    grpc::ClientContext context;
    v1::SpawnRequest request;
    request.add_shard_ids(id);
    v1::SpawnResponse response;
    const grpc::Status status = stub_->Spawn(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  // All that was sent has come, once, over all processes.
  void ExpectExact(uint32_t shards = kShards) {
    ASSERT_TRUE(test::CatchUp(*discord_, *stream_, shards)) << server_->err();
    test::ExpectExact(*discord_, *stream_);
  }
  // Its events' types and numbers, SHARDD_SESSION_LOST among Discord's.
  std::vector<std::string> ReadysAndLosses(uint32_t shard_id) {
    std::vector<std::string> found;
    for (const auto& event : stream_->events()) {
      if (event.shard_id() != shard_id) continue;
      if (event.type() == "READY" || event.type() == "SHARDD_SESSION_LOST") {
        found.push_back(event.type() + " " + std::to_string(event.session()));
      }
    }
    return found;
  }
  bool WaitForReadysAndLosses(uint32_t shard_id, size_t count) {
    return Eventually([&] { return ReadysAndLosses(shard_id).size() >= count; });
  }
  std::vector<std::string> LossReasons() {
    std::vector<std::string> reasons;
    for (const auto& event : stream_->events()) {
      if (event.type() != "SHARDD_SESSION_LOST") continue;
      reasons.emplace_back(boost::json::parse(event.data()).at("reason").as_string());
    }
    return reasons;
  }

  SimulatorOptions options_;
  test::TempDir dir_;
  std::unique_ptr<Simulator> discord_;
  std::unique_ptr<test::ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
  std::unique_ptr<EventStream> stream_;
};

TEST_F(RestartTest, KilledUnderLoadItLosesAndDoublesNothingAndIdentifiesNobody) {
  options_.rate = 2000;
  StartReady();
  std::mt19937 random(7);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50 + random() % 300));
    Kill();
    Start();
    ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  }
  discord_->SetRate(0);
  ExpectExact();
  EXPECT_EQ(discord_->counters().identifies, kShards);
  EXPECT_GE(discord_->counters().resumes, 5u * kShards);
  EXPECT_EQ(discord_->counters().resumes_refused, 0u);
  EXPECT_EQ(Stats().generation(), 1u);
  EXPECT_EQ(Stats().shard_count(), kShards);
  EXPECT_THAT(LossReasons(), ::testing::IsEmpty());
}

TEST_F(RestartTest, ACleanStopKeepsEverySession) {
  options_.rate = 500;
  StartReady();
  Stop();
  discord_->EmitTraffic(1000);
  StartReady();
  discord_->SetRate(0);
  ExpectExact();
  EXPECT_EQ(discord_->counters().identifies, kShards);
  EXPECT_EQ(discord_->counters().resumes, kShards);
  const v1::StatsResponse stats = Stats();
  for (const auto& shard : stats.shards()) {
    EXPECT_EQ(shard.identifies(), 0u);
    EXPECT_EQ(shard.resumes(), 1u);
    EXPECT_EQ(shard.reason(), "resumed");
  }
}

TEST_F(RestartTest, AConsumerGoesOnAtItsCursor) {
  StartReady();
  discord_->EmitTraffic(200);
  ASSERT_TRUE(test::CatchUp(*discord_, *stream_, kShards));
  const std::string cursor = stream_->cursor();
  const size_t before = stream_->events().size();
  Kill();
  discord_->EmitTraffic(200);
  StartReady();
  v1::EventsRequest request;
  request.set_cursor(cursor);
  EventStream later(*stub_, request);
  ASSERT_TRUE(test::CatchUp(*discord_, *stream_, kShards));
  const auto all = stream_->events();
  ASSERT_TRUE(later.WaitForEvents(all.size() - before));
  EXPECT_FALSE(later.batches().front().has_gap());
  EXPECT_EQ(later.events().front().offset(), before);
}

TEST_F(RestartTest, WhatWasStoppedStaysStoppedAndComesBackByItsSession) {
  StartReady();
  KillShard(1, /*keep_session=*/true);
  KillShard(2, /*keep_session=*/false);
  Kill();
  Start({"--no-spawn"});
  ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  EXPECT_THAT(States(), ElementsAre(v1::SHARD_STATE_READY, v1::SHARD_STATE_STOPPED,
                                    v1::SHARD_STATE_STOPPED, v1::SHARD_STATE_READY));
  EXPECT_EQ(Stats().shards(1).reason(), "stopped, session kept");
  EXPECT_EQ(Stats().shards(2).reason(), "stopped");
  SpawnShard(1);
  ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  EXPECT_EQ(discord_->counters().identifies, kShards);
  // Without a session it waits for /gateway/bot, and gets the next number.
  ASSERT_TRUE(Eventually([&] { return Stats().has_session_budget(); }));
  SpawnShard(2);
  ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  EXPECT_EQ(discord_->counters().identifies, kShards + 1);
  ASSERT_TRUE(WaitForReadysAndLosses(2, 2));
  EXPECT_THAT(ReadysAndLosses(2), ElementsAre("READY 1", "READY 2"));
  Kill();
  Start({"--no-spawn"});
  ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  EXPECT_EQ(discord_->counters().identifies, kShards + 1);
  ExpectExact();
}

TEST_F(RestartTest, WhatRunsWinsOverWhatDiscordRecommendsAndOverTheFlags) {
  StartReady();
  discord_->SetRecommendedShards(6);
  Stop();
  StartReady();
  EXPECT_EQ(server_->err().find("--reset-generation"), std::string::npos);
  Stop();
  StartReady({"--shard-count", "8", "--shard-ids", "0-5"});
  EXPECT_TRUE(server_->WaitForLog("data_dir=\"0-3 of 4\" flags=\"0-5 of 8\""));
  EXPECT_EQ(Stats().generation(), 1u);
  EXPECT_EQ(Stats().shard_count(), kShards);
  EXPECT_EQ(discord_->counters().identifies, kShards);
}

TEST_F(RestartTest, ResetGenerationStartsOverAndSaysWhatIsLost) {
  StartReady();
  Stop();
  StartReady({"--reset-generation", "--shard-count", "2"}, 2);
  EXPECT_EQ(Stats().generation(), 2u);
  EXPECT_EQ(Stats().shard_count(), 2u);
  EXPECT_EQ(Stats().shards_size(), 2);
  ASSERT_TRUE(Eventually([&] { return LossReasons().size() == kShards; }));
  EXPECT_THAT(LossReasons(), ::testing::Each("--reset-generation"));
  Kill();
  StartReady({}, 2);
  EXPECT_EQ(Stats().generation(), 2u);
  EXPECT_EQ(discord_->counters().identifies, kShards + 2);
  EXPECT_EQ(discord_->counters().resumes, 2u);
}

TEST_F(RestartTest, AResetToTheSameCountGivesNoNumberTwice) {
  StartReady();
  Stop();
  StartReady({"--reset-generation"});
  ASSERT_TRUE(WaitForReadysAndLosses(0, 3));
  EXPECT_THAT(ReadysAndLosses(0), ElementsAre("READY 1", "SHARDD_SESSION_LOST 1", "READY 2"));
}

TEST_F(RestartTest, OtherIntentsNeedNewSessionsAndItIsSaid) {
  StartReady();
  Stop();
  StartReady({"--intents", "GUILDS"});
  EXPECT_TRUE(server_->WaitForLog("session lost"));
  for (uint32_t id = 0; id < kShards; ++id) {
    ASSERT_TRUE(WaitForReadysAndLosses(id, 3));
    EXPECT_THAT(ReadysAndLosses(id), ElementsAre("READY 1", "SHARDD_SESSION_LOST 1", "READY 2"));
    EXPECT_EQ(discord_->Session({id, kShards})->intents, 1u);
  }
  EXPECT_THAT(LossReasons(), ::testing::Each(HasSubstr("--intents wants 1")));
  EXPECT_EQ(Stats().generation(), 1u);
  Kill();
  StartReady({"--intents", "GUILDS"});
  EXPECT_EQ(discord_->counters().identifies, 2u * kShards);
}

TEST_F(RestartTest, SessionsOfAnotherDiscordAreNotResumed) {
  StartReady();
  Stop();
  const std::unique_ptr<Simulator> first = std::move(discord_);
  StartReady();
  EXPECT_EQ(first->counters().resumes, 0u);
  EXPECT_EQ(discord_->counters().resumes + discord_->counters().resumes_refused, 0u);
  ASSERT_TRUE(WaitForReadysAndLosses(0, 3));
  EXPECT_THAT(ReadysAndLosses(0), ElementsAre("READY 1", "SHARDD_SESSION_LOST 1", "READY 2"));
}

TEST_F(RestartTest, AnotherBotsTokenEndsWith2AndTouchesNothing) {
  StartReady();
  Stop();
  test::ShardDProcess other({"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                             "--admin-listen", "off", "--data-dir", dir_ / "data"},
                            {{"DISCORD_TOKEN", "MTk4NjIyNDg0.Cl2FMQ.s3cret"}});
  EXPECT_EQ(other.WaitForExit(), 2);
  EXPECT_TRUE(other.WaitForLog("give each bot a --data-dir of its own")) << other.err();
  // Neither does a new token of the same bot.
  Start({}, "MTk4NjIyNDgz.Zyxw12.an0ther");
  ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  EXPECT_EQ(discord_->counters().identifies, kShards);
  ExpectExact();
}

TEST_F(RestartTest, AMistypedTokenCostsNoSession) {
  options_.token = kToken;
  StartReady();
  Stop();
  Start({}, "MTk4NjIyNDgz.Cl2FMQ.mistyped");
  ASSERT_EQ(server_->WaitForExit(), 3) << server_->err();
  discord_->EmitTraffic(100);
  StartReady();
  ExpectExact();
  EXPECT_EQ(discord_->counters().identifies, kShards);
}

TEST_F(RestartTest, ShardsResumeWhileDiscordDoesNotTellTheGateway) {
  StartReady();
  Kill();
  discord_->EmitTraffic(100);
  discord_->AnswerGatewayBotWith(429, 1000, std::chrono::hours(12));
  Start();
  ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  ExpectExact();
  EXPECT_EQ(discord_->counters().identifies, kShards);
  // By what was known last, a lost session can be replaced, too.
  discord_->SendInvalidSession({ShardId{1, kShards}}, /*resumable=*/false);
  ASSERT_TRUE(WaitForReadysAndLosses(1, 3)) << server_->err();
  EXPECT_THAT(ReadysAndLosses(1), ElementsAre("READY 1", "SHARDD_SESSION_LOST 1", "READY 2"));
}

TEST_F(RestartTest, ASessionThatDiscordRefusesIsLostInFrontOfTheNextReady) {
  StartReady();
  discord_->EmitTraffic(100);
  ASSERT_TRUE(test::CatchUp(*discord_, *stream_, kShards));
  const uint64_t last = discord_->Session({2, kShards})->sequence;
  Kill();
  discord_->ForgetSessions({ShardId{2, kShards}});
  Start();
  ASSERT_TRUE(WaitForReadysAndLosses(2, 3)) << server_->err();
  EXPECT_THAT(ReadysAndLosses(2), ElementsAre("READY 1", "SHARDD_SESSION_LOST 1", "READY 2"));
  for (const auto& event : stream_->events()) {
    if (event.type() != "SHARDD_SESSION_LOST") continue;
    const auto loss = boost::json::parse(event.data());
    EXPECT_EQ(loss.at("last_sequence").to_number<uint64_t>(), last);
    EXPECT_GT(loss.at("last_event_unix_nanos").to_number<int64_t>(), 0);
  }
  EXPECT_EQ(discord_->counters().identifies, kShards + 1);
  ExpectExact();
  // Neither is the lost one tried again.
  Kill();
  Start();
  ASSERT_TRUE(WaitUntilAllReady()) << server_->err();
  EXPECT_EQ(discord_->counters().resumes_refused, 1u);
  EXPECT_EQ(discord_->counters().identifies, kShards + 1);
}

TEST_F(RestartTest, AShardThatFailedIsTriedAgain) {
  StartReady();
  discord_->CloseWith({ShardId{3, kShards}}, 4014);
  ASSERT_TRUE(Eventually([&] { return Stats().shards(3).state() == v1::SHARD_STATE_FAILED; }));
  Kill();
  StartReady();
  EXPECT_EQ(discord_->counters().identifies, kShards + 1);
}

TEST_F(RestartTest, AnEventThatWasSkippedIsNotAskedForAgain) {
  StartReady();
  ASSERT_EQ(discord_->SendBomb({ShardId{0, kShards}}, 5 << 20), 1u);
  const auto oversize = [&] {
    return std::ranges::count(stream_->events(), "SHARDD_OVERSIZE", &v1::Event::type);
  };
  ASSERT_TRUE(Eventually([&] { return oversize() == 1; })) << server_->err();
  Kill();
  StartReady();
  discord_->EmitTraffic(50);
  ASSERT_TRUE(test::CatchUp(*discord_, *stream_, kShards));
  EXPECT_EQ(oversize(), 1);
  EXPECT_EQ(discord_->counters().identifies, kShards);
}

TEST_F(RestartTest, KilledWhileItStartsItBeginsOneGeneration) {
  options_.identify_window = 5000ms;
  options_.max_concurrency = 1;
  options_.recommended_shards = 2;
  Start();
  ASSERT_TRUE(WaitForReadysAndLosses(0, 1)) << server_->err();
  Kill();
  discord_->SetRecommendedShards(3);
  StartReady({}, 2);
  EXPECT_EQ(Stats().generation(), 1u);
  EXPECT_EQ(Stats().shards_size(), 2);
  EXPECT_EQ(discord_->counters().identifies, 2u);
  ExpectExact(2);
}

}  // namespace
}  // namespace shardd
