#include "server/shard_director.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/log_sink.h"
#include "server/rpc_error.h"
#include "shardd/v1/shardd.pb.h"
#include "support/temp_dir.h"

namespace shardd::server {
namespace {

using events::ShardRecord;
using gateway::ShardState;
using Resumed = ShardDirector::Resumed;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kApi[] = "http://127.0.0.1:1/api/v10";
// Nobody listens there: what runs backs off.
constexpr char kGateway[] = "ws://127.0.0.1:1";

// A director on a log on disk, without Discord. NextProcess() is what comes after a kill or a stop.
class ShardDirectorTest : public ::testing::Test {
 protected:
  ShardDirectorTest() { NextProcess(); }
  ~ShardDirectorTest() override { End(); }

  void End() {
    director_.reset();
    pool_.reset();
    overlap_.reset();
    log_.reset();
  }
  void NextProcess() {
    End();
    auto log = events::Log::Open({.dir = dir_.path(), .retain_bytes = events::kMinRetainBytes});
    ASSERT_TRUE(log.ok()) << log.status();
    log_ = *std::move(log);
    overlap_ = std::make_unique<Overlap>(*log_, OverlapOptions{});
    gateway::ShardPoolOptions pool_options;
    pool_options.token = "token";
    pool_options.intents = options_.intents;
    pool_ = std::make_unique<gateway::ShardPool>(pool_options, [this] {
      return std::make_unique<LogSink>(*log_, *overlap_, board_, [] {});
    });
    director_ = std::make_unique<ShardDirector>(options_, *pool_, *log_);
  }
  void TellGateway(uint32_t remaining = 1000) {
    gateway::GatewayBot bot;
    bot.url = kGateway;
    bot.recommended_shards = 2;
    bot.session_starts_total = 1000;
    bot.session_starts_remaining = remaining;
    bot.asked_at = bot.read_at = SteadyClock::now();
    director_->SetGatewayBot(bot);
  }
  void Spawn(std::vector<uint32_t> ids = {}) {
    const auto shards = director_->Spawn(ids, 0);
    ASSERT_TRUE(shards.ok()) << shards.status();
  }
  void Kill(std::vector<uint32_t> ids, bool keep_session = false) {
    const auto shards = director_->Kill(ids, 0, keep_session);
    ASSERT_TRUE(shards.ok()) << shards.status();
  }
  // As a worker does it.
  void OpenSession(ShardId shard, uint32_t session, uint64_t intents = 513,
                   std::string_view id = "abc") {
    events::Round round;
    round.Add(events::SessionOpened{.shard = shard,
                                    .session = session,
                                    .id = std::string(id),
                                    .resume_url = kGateway,
                                    .intents = intents});
    round.Add({.shard = shard, .session = session, .sequence = 41, .type = "READY", .data = "{}"});
    log_->Append(round);
  }
  std::vector<ShardState> States() const {
    std::vector<ShardState> states;
    const auto shards = director_->Describe({}, 0);
    for (const auto& shard : *shards) states.push_back(shard.state);
    return states;
  }
  std::vector<v1::Event> Events(std::string_view type) const {
    std::vector<v1::Event> found;
    for (uint64_t at = log_->oldest(); at < log_->end();) {
      const events::Run run = log_->Read(at, {});
      v1::EventBatch batch;
      EXPECT_TRUE(batch.ParseFromString(std::string(run.bytes())));
      for (const auto& event : batch.events()) {
        if (event.type() == type) found.push_back(event);
      }
      at = run.next;
    }
    return found;
  }

  const test::TempDir dir_;
  ShardDirectorOptions options_{.shard_count = std::nullopt,
                                .shard_ids = {},
                                .guilds_per_shard = 0,
                                .api_url = kApi,
                                .intents = 513};
  ShardBoard board_;
  std::unique_ptr<events::Log> log_;
  std::unique_ptr<Overlap> overlap_;
  std::unique_ptr<gateway::ShardPool> pool_;
  std::unique_ptr<ShardDirector> director_;
};

TEST_F(ShardDirectorTest, TheFirstSpawnBeginsAGeneration) {
  EXPECT_EQ(director_->Resume(), Resumed::kNothing);
  TellGateway();
  Spawn();
  const events::State state = log_->state();
  EXPECT_EQ(state.generation, 1u);
  EXPECT_EQ(state.shard_count, 2u);
  EXPECT_EQ(state.api_url, kApi);
  EXPECT_EQ(state.gateway_url, kGateway);
  EXPECT_THAT(state.shards, ElementsAre(std::pair(ShardId{0, 2}, ShardRecord{}),
                                        std::pair(ShardId{1, 2}, ShardRecord{})));
}

TEST_F(ShardDirectorTest, ASpawnThatIsRefusedBeginsNone) {
  director_->Resume();
  TellGateway(/*remaining=*/1);
  EXPECT_TRUE(absl::IsResourceExhausted(director_->Spawn({}, 0).status()));
  EXPECT_EQ(director_->overview().generation, 0u);
  EXPECT_EQ(log_->state().generation, 0u);
  EXPECT_EQ(log_->state().shard_count, 0u);
  EXPECT_THAT(log_->state().shards, IsEmpty());
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kNothing);
}

TEST_F(ShardDirectorTest, TheGatewaysAddressIsWrittenWhenItChanges) {
  TellGateway();
  const uint64_t bytes = log_->GetStats().bytes;
  TellGateway();
  TellGateway();
  EXPECT_EQ(log_->GetStats().bytes, bytes);
  EXPECT_EQ(log_->state().gateway_url, kGateway);
}

TEST_F(ShardDirectorTest, WhatIsWantedIsWrittenBeforeItIsAnswered) {
  TellGateway();
  Spawn();
  Kill({1});
  EXPECT_FALSE(log_->state().shards.at({1, 2}).wanted);
  EXPECT_TRUE(log_->state().shards.at({0, 2}).wanted);
  Spawn({1});
  EXPECT_TRUE(log_->state().shards.at({1, 2}).wanted);
}

TEST_F(ShardDirectorTest, GoesOnWithWhatWasWanted) {
  options_.shard_count = 4;
  NextProcess();
  TellGateway();
  Spawn();
  OpenSession({0, 4}, 1);
  OpenSession({2, 4}, 5);
  Kill({2}, /*keep_session=*/true);
  Kill({3});
  NextProcess();
  ASSERT_EQ(director_->Resume(), Resumed::kSome);
  EXPECT_EQ(director_->overview().generation, 1u);
  EXPECT_EQ(director_->overview().shard_count, 4u);
  const auto states = States();
  ASSERT_EQ(states.size(), 4u);
  EXPECT_NE(states[0], ShardState::kIdle);
  EXPECT_EQ(states[1], ShardState::kIdle);
  EXPECT_EQ(states[2], ShardState::kStopped);
  EXPECT_EQ(states[3], ShardState::kStopped);
  EXPECT_EQ((*director_->Describe({}, 0))[2].session, 5u);
  EXPECT_EQ((*director_->Describe({}, 0))[2].sequence, 41u);

  EXPECT_TRUE(absl::IsUnavailable(director_->StartWanted().status()));
  TellGateway();
  const auto started = director_->StartWanted();
  ASSERT_TRUE(started.ok()) << started.status();
  ASSERT_EQ(started->size(), 1u);
  EXPECT_EQ(started->front().shard.id, 1u);
  EXPECT_NE(States()[1], ShardState::kIdle);
  EXPECT_EQ(States()[2], ShardState::kStopped);
  EXPECT_EQ(director_->overview().generation, 1u);
}

TEST_F(ShardDirectorTest, AShardThatIsStoppedBeforeItCouldStartStaysStopped) {
  TellGateway();
  Spawn();
  NextProcess();
  ASSERT_EQ(director_->Resume(), Resumed::kSome);
  Kill({0, 1});
  TellGateway();
  const auto started = director_->StartWanted();
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_THAT(*started, IsEmpty());
  EXPECT_THAT(States(), ElementsAre(ShardState::kStopped, ShardState::kStopped));
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kAll);
}

TEST_F(ShardDirectorTest, AStoppedShardWithASessionNeedsNoGateway) {
  TellGateway();
  Spawn();
  OpenSession({0, 2}, 1);
  Kill({0}, /*keep_session=*/true);
  NextProcess();
  director_->Resume();
  Spawn({0});
  EXPECT_NE(States()[0], ShardState::kStopped);
  EXPECT_TRUE(absl::IsUnavailable(director_->Spawn(std::vector<uint32_t>{1}, 0).status()));
}

TEST_F(ShardDirectorTest, SessionsThatDoNotFitAreToldAsLostAndEnd) {
  TellGateway();
  Spawn();
  OpenSession({0, 2}, 3, /*intents=*/1);
  OpenSession({1, 2}, 4);
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kSome);
  const auto losses = Events("SHARDD_SESSION_LOST");
  ASSERT_EQ(losses.size(), 1u);
  EXPECT_THAT(losses[0].data(), HasSubstr("\"session\":3,\"last_sequence\":41"));
  EXPECT_THAT(losses[0].data(), HasSubstr("it has the intents 1, and --intents wants 513"));
  EXPECT_EQ(log_->state().shards.at({0, 2}), (ShardRecord{.wanted = true, .last_session = 3}));
  EXPECT_TRUE(log_->state().shards.at({1, 2}).session.has_value());
  // Told once.
  NextProcess();
  director_->Resume();
  EXPECT_EQ(Events("SHARDD_SESSION_LOST").size(), 1u);

  options_.api_url = "http://127.0.0.1:2/api/v10";
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kSome);
  ASSERT_EQ(Events("SHARDD_SESSION_LOST").size(), 2u);
  EXPECT_THAT(Events("SHARDD_SESSION_LOST")[1].data(), HasSubstr("--api-url was"));
  EXPECT_FALSE(log_->state().shards.at({1, 2}).session.has_value());
}

TEST_F(ShardDirectorTest, ResetGenerationForgetsShardsAndSessionsButNoNumber) {
  TellGateway();
  Spawn();
  OpenSession({0, 2}, 3);
  Kill({1});
  options_.reset_generation = true;
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kNothing);
  EXPECT_EQ(Events("SHARDD_SESSION_LOST").size(), 1u);
  EXPECT_THAT(log_->state().shards, IsEmpty());
  EXPECT_EQ(log_->state().generation, 1u);
  EXPECT_EQ(director_->overview().shard_count, 0u);
  TellGateway();
  const auto started = director_->StartWanted();
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->size(), 2u);
  EXPECT_EQ(started->front().session, 3u);
  EXPECT_EQ(director_->overview().generation, 2u);
  EXPECT_EQ(log_->state().generation, 2u);
}

TEST_F(ShardDirectorTest, NoSessionNumberIsGivenTwiceWhateverGenerationsCome) {
  const auto numbered = [&](uint32_t at_least) {
    const events::State state = log_->state();
    for (const auto& [shard, record] : state.shards) {
      EXPECT_TRUE(record.last_session == 0 || record.last_session >= at_least);
    }
    EXPECT_GE(state.session_floor, at_least);
  };
  TellGateway();
  Spawn();
  OpenSession({0, 2}, 3);
  options_.reset_generation = true;
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kNothing);
  numbered(3);
  TellGateway();
  // Of these none has had a session.
  options_.shard_count = 4;
  NextProcess();
  director_->Resume();
  TellGateway();
  ASSERT_TRUE(director_->StartWanted().ok());
  OpenSession({3, 4}, 4);
  options_.reset_generation = false;
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kSome);
  EXPECT_EQ(log_->state().session_floor, 3u);
  options_.reset_generation = true;
  NextProcess();
  director_->Resume();
  numbered(4);
}

TEST_F(ShardDirectorTest, ShardsThatRanMayBeSpawnedWhateverTheFlagSaysNow) {
  TellGateway();
  Spawn();
  Kill({0, 1});
  options_.shard_ids = {1, 5};
  options_.shard_count = 8;
  NextProcess();
  EXPECT_EQ(director_->Resume(), Resumed::kAll);
  TellGateway();
  Spawn({0});
  Spawn();
  EXPECT_EQ(States().size(), 2u);
  EXPECT_EQ(director_->overview().shard_count, 2u);
}

// ---- A rescale ----

TEST_F(ShardDirectorTest, AGenerationMustBeWholeAndWantedToBeRescaled) {
  EXPECT_EQ(ReasonOf(director_->CheckRescalable()), reason::kNoGeneration);
  TellGateway();
  Spawn({0});
  EXPECT_EQ(ReasonOf(director_->CheckRescalable()), reason::kPartialPool);
  Spawn();
  EXPECT_TRUE(director_->CheckRescalable().ok());
  Kill({1});
  EXPECT_EQ(ReasonOf(director_->BeginRescale(4)), reason::kShardNotRunning);
  EXPECT_THAT(director_->CheckRescalable().message(), HasSubstr("shards 1 of 2"));
  Spawn({1});
  EXPECT_TRUE(director_->BeginRescale(4).ok());
}

TEST_F(ShardDirectorTest, ShardsOfBothGenerationsAreTheRescalesWhileItRuns) {
  TellGateway();
  Spawn();
  ASSERT_TRUE(director_->BeginRescale(4).ok());
  ASSERT_TRUE(director_->SpawnIncoming(4).ok());
  EXPECT_EQ(director_->Describe({}, 4)->size(), 4u);
  EXPECT_EQ(director_->Describe({}, 0)->size(), 2u);
  EXPECT_EQ(director_->shard_count(), 2u);
  for (const uint32_t count : {0u, 2u, 4u}) {
    EXPECT_EQ(ReasonOf(director_->Kill({}, count, true).status()), reason::kRescaleRunning);
  }
  EXPECT_EQ(ReasonOf(director_->Spawn({}, 4).status()), reason::kRescaleRunning);
  EXPECT_EQ(ReasonOf(director_->Spawn({}, 8).status()), reason::kShardCountMismatch);
  Spawn();
  director_->EndRescale();
  Kill({0});
}

TEST_F(ShardDirectorTest, AnIncomingGenerationThatTheBudgetDoesNotCoverIsNotStarted) {
  TellGateway();
  Spawn();
  TellGateway(/*remaining=*/2);
  ASSERT_TRUE(director_->BeginRescale(4).ok());
  const auto refused = director_->SpawnIncoming(4);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), reason::kSessionBudgetSpent);
  EXPECT_THAT(*director_->Describe({}, 4), IsEmpty());
}

TEST_F(ShardDirectorTest, TheNewGenerationIsInChargeFromTheSwitchOn) {
  options_.shard_ids = {0, 1};
  NextProcess();
  TellGateway();
  Spawn();
  ASSERT_TRUE(director_->BeginRescale(4).ok());
  ASSERT_TRUE(director_->SpawnIncoming(4).ok());
  const auto append = [this](std::vector<events::StateChange> changes, uint64_t generation) {
    EXPECT_EQ(generation, 2u);
    events::Round round;
    for (const auto& change : changes) round.Add(change);
    log_->Append(round);
    return true;
  };
  EXPECT_FALSE(director_->TakeOver(4, [](auto, auto) { return false; }));
  EXPECT_EQ(director_->Locate(uint64_t{3} << 22, 0)->id, 1u);
  ASSERT_TRUE(director_->TakeOver(4, append));
  EXPECT_EQ(director_->overview().shard_count, 4u);
  EXPECT_EQ(director_->overview().generation, 2u);
  EXPECT_EQ(director_->Locate(uint64_t{3} << 22, 0)->id, 3u);
  EXPECT_EQ(director_->Describe({}, 0)->size(), 4u);
  // The old ones drain.
  EXPECT_EQ(ReasonOf(director_->Spawn({}, 2).status()), reason::kRescaleRunning);
  EXPECT_EQ(ReasonOf(director_->Kill({}, 2, false).status()), reason::kRescaleRunning);
  director_->EndRescale();
  EXPECT_EQ(director_->Spawn({}, 0)->size(), 4u);

  EXPECT_EQ(log_->state().generation, 2u);
  EXPECT_EQ(log_->state().shard_count, 4u);
  EXPECT_EQ(log_->state().shards.size(), 4u);
  NextProcess();
  director_->Resume();
  EXPECT_EQ(director_->overview().shard_count, 4u);
  EXPECT_EQ(States().size(), 4u);
  EXPECT_TRUE(director_->CheckRescalable().ok());
}

TEST_F(ShardDirectorTest, WhatMakesNoSenseOnDiskIsIgnored) {
  {
    events::Round round;
    round.Add(events::GenerationBegun{.generation = 7, .shard_count = 2});
    round.Add(events::ShardWanted{.shard = {0, 2}, .wanted = true});
    round.Add(events::ShardWanted{.shard = {9, 2}, .wanted = true});
    round.Add(events::ShardWanted{.shard = {1, 8}, .wanted = true});
    log_->Append(round);
  }
  OpenSession({1, 2}, 1, 513, /*id=*/"");
  NextProcess();
  // The gateway was never told, so the session cannot be of this Discord.
  EXPECT_EQ(director_->Resume(), Resumed::kSome);
  EXPECT_THAT(States(), ElementsAre(ShardState::kIdle, ShardState::kIdle));
  EXPECT_EQ(director_->overview().generation, 7u);
}

}  // namespace
}  // namespace shardd::server
