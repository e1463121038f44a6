// A changed shard count under load: nothing lost, nothing doubled, nothing out of order, for one
// consumer that is connected throughout.

#include "support/rescale.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/shard_id.h"

namespace shardd {
namespace {

using simulator::Lag;
using std::chrono::milliseconds;
using test::Eventually;
using test::RescaleOptions;
using test::RescaleReport;
using test::RescaleRun;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// One side may be this much behind; guilds without events are waited for as long.
const std::vector<std::string> kFast = {"--rescale-lag", "1500ms", "--rescale-drain", "300ms"};

// Of guilds, until what is wanted has happened to one.
constexpr int kMostChanges = 20'000;

RescaleOptions Ordinary() {
  RescaleOptions options;
  options.flags = kFast;
  options.discord.guilds = 60;
  options.discord.equal_payloads = 0.03;
  return options;
}

class RescaleTest : public testing::Test {
 protected:
  void Begin(RescaleOptions options, uint32_t shards) {
    run_ = std::make_unique<RescaleRun>(std::move(options));
    ASSERT_TRUE(run_->Start(shards)) << run_->err();
    run_->SetLoad(true);
    std::this_thread::sleep_for(milliseconds(200));  // there is something before it
  }
  simulator::Simulator& discord() { return run_->discord(); }
  std::string State() { return v1::RescaleState_Name(run_->Stats().rescale().state()); }
  std::string Said() {
    return State() + ": " + run_->Stats().rescale().ShortDebugString() + "\n" + run_->err();
  }
  void WaitFor(v1::RescaleState state, milliseconds timeout = std::chrono::seconds(30)) {
    ASSERT_TRUE(run_->WaitFor(state, timeout)) << Said();
  }
  // To `shards` and a little beyond.
  void RescaleTo(uint32_t shards) {
    const auto answer = run_->Rescale(shards);
    ASSERT_EQ(answer.code, grpc::OK) << answer.message;
    ASSERT_NO_FATAL_FAILURE(WaitFor(v1::RESCALE_STATE_DONE));
  }
  // REQUIRES: sessions in charge can get everything.
  RescaleReport ExpectNothingMissing(const std::vector<uint32_t>& shard_counts = {}) {
    EXPECT_TRUE(run_->Settle()) << Said();
    RescaleReport report = run_->Compare(shard_counts);
    EXPECT_EQ(report.lost, 0u);
    EXPECT_EQ(report.doubled, 0u);
    EXPECT_EQ(report.unknown, 0u);
    EXPECT_EQ(report.altered, 0u);
    EXPECT_EQ(report.misplaced, 0u);
    EXPECT_EQ(report.gaps, 0u);
    EXPECT_EQ(report.offset_breaks, 0u);
    for (const std::string& problem : report.problems) ADD_FAILURE() << problem;
    if (HasFailure()) ADD_FAILURE() << Said();
    return report;
  }
  // The same, and the counters that say so.
  RescaleReport ExpectExact(const std::vector<uint32_t>& shard_counts = {}) {
    RescaleReport report = ExpectNothingMissing(shard_counts);
    EXPECT_EQ(report.reordered, 0u);
    for (const std::string& problem : report.reorderings) ADD_FAILURE() << problem;
    const v1::RescaleStatus status = run_->Stats().rescale();
    EXPECT_EQ(status.doubled(), 0u);
    EXPECT_EQ(status.lost(), 0u);
    EXPECT_EQ(status.reordered(), 0u);
    if (HasFailure()) ADD_FAILURE() << Said();
    return report;
  }
  std::vector<std::string> States() {
    std::vector<std::string> states;
    for (const auto& change : run_->changes()) states.push_back(change.state);
    return states;
  }
  // Shards of this count that Discord knows.
  size_t Connected(uint32_t shard_count) {
    const auto sessions = discord().Sessions();
    return static_cast<size_t>(std::count_if(sessions.begin(), sessions.end(), [&](const auto& s) {
      return s.connected && s.shard.count == shard_count;
    }));
  }

  std::unique_ptr<RescaleRun> run_;
};

// ---- The comparison itself ----

TEST_F(RescaleTest, WithoutARescaleTheComparisonFindsNothing) {
  RescaleOptions options = Ordinary();
  options.rate = 3000;
  options.structure_rate = 300;
  options.discord.lags = {{3, Lag{milliseconds(0), milliseconds(100)}}};
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 3));
  discord().DropConnections(ShardId{1, 3});
  run_->Kill();
  ASSERT_TRUE(run_->Start(3)) << run_->err();
  EXPECT_GT(ExpectExact().events, 500u);
  EXPECT_EQ(run_->ReadLogAgain(), 0u);
}

TEST_F(RescaleTest, TheComparisonFindsWhatHasNotCome) {
  RescaleOptions options = Ordinary();
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  ASSERT_TRUE(run_->Settle());
  discord().SetLag(2, Lag{std::chrono::seconds(60), std::chrono::seconds(60)});
  discord().EmitTraffic(100);
  const RescaleReport report = run_->Compare();
  EXPECT_GT(report.lost, 90u);
  EXPECT_EQ(report.doubled + report.unknown + report.altered + report.reordered, 0u);
}

// ---- Any count to any other ----

struct Counts {
  uint32_t from;
  uint32_t to;
};

class RescaleCountsTest : public RescaleTest, public testing::WithParamInterface<Counts> {};

TEST_P(RescaleCountsTest, NothingIsLostDoubledOrReordered) {
  const auto [from, to] = GetParam();
  RescaleOptions options = Ordinary();
  options.rate = 5000;
  options.structure_rate = 20;
  options.discord.guilds = 120;
  options.discord.lags = {{from, Lag{milliseconds(0), milliseconds(200)}},
                          {to, Lag{milliseconds(50), milliseconds(500)}}};
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), from));
  const auto plan = run_->Rescale(to, true);
  ASSERT_EQ(plan.code, grpc::OK) << plan.message;
  discord().ResetPeakConnections();
  ASSERT_NO_FATAL_FAILURE(RescaleTo(to));
  const RescaleReport report = ExpectExact();
  EXPECT_GT(report.events, 3000u);
  EXPECT_EQ(discord().counters().peak_open_connections, plan.rescale.plan().peak_connections());
  EXPECT_EQ(discord().counters().identifies_by_shard_count.at(to),
            plan.rescale.plan().identifies());
  EXPECT_EQ(discord().session_starts_remaining(), plan.rescale.plan().budget_after());
  EXPECT_TRUE(Eventually([&] { return discord().counters().client_closes[1000] == from; }));
  EXPECT_TRUE(Eventually([&] { return Connected(from) == 0; }));
  EXPECT_EQ(Connected(to), to);
  EXPECT_THAT(States(), ElementsAre("IDENTIFYING", "ALIGNING", "SWITCHED", "DONE"));
  const v1::StatsResponse stats = run_->Stats();
  EXPECT_EQ(stats.shard_count(), to);
  EXPECT_EQ(stats.generation(), 2u);
  EXPECT_EQ(static_cast<uint32_t>(stats.shards_size()), to);
  EXPECT_EQ(run_->Locate(discord().guild_ids()[0]), to);
}

INSTANTIATE_TEST_SUITE_P(Counts, RescaleCountsTest,
                         testing::Values(Counts{1, 2}, Counts{2, 4}, Counts{4, 3}, Counts{16, 32},
                                         Counts{10, 15}, Counts{7, 1}),
                         [](const auto& test) {
                           return std::to_string(test.param.from) + "To" +
                                  std::to_string(test.param.to);
                         });

// ---- What goes wrong in between ----

TEST_F(RescaleTest, TheOldSideMayLagBehindTheNew) {
  RescaleOptions options = Ordinary();
  options.discord.lags = {{2, Lag{milliseconds(200), milliseconds(800)}}};
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  ASSERT_NO_FATAL_FAILURE(RescaleTo(3));
  ExpectExact();
}

// Runs into ALIGNING with the new side behind, so that it stays there for a while.
class OverlapTest : public RescaleTest {
 protected:
  void BeginOverlap(RescaleOptions options = Ordinary()) {
    options.discord.lags = {{2, Lag{milliseconds(0), milliseconds(100)}},
                            {3, Lag{milliseconds(300), milliseconds(600)}}};
    ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
    ASSERT_EQ(run_->Rescale(3).code, grpc::OK);
    ASSERT_NO_FATAL_FAILURE(WaitFor(v1::RESCALE_STATE_ALIGNING));
  }
  void Finish() { ASSERT_NO_FATAL_FAILURE(WaitFor(v1::RESCALE_STATE_DONE)); }
};

TEST_F(OverlapTest, EitherSidesConnectionsMayBeLost) {
  ASSERT_NO_FATAL_FAILURE(BeginOverlap());
  EXPECT_EQ(discord().DropConnections(ShardId{0, 2}), 1u);
  EXPECT_EQ(discord().DropConnections(ShardId{1, 3}), 1u);
  ASSERT_NO_FATAL_FAILURE(Finish());
  ExpectExact();
  EXPECT_GE(discord().counters().resumes, 2u);
}

TEST_F(OverlapTest, DiscordMayAskEitherSideToReconnect) {
  ASSERT_NO_FATAL_FAILURE(BeginOverlap());
  EXPECT_EQ(discord().SendReconnect(), 5u);
  ASSERT_NO_FATAL_FAILURE(Finish());
  ExpectExact();
  EXPECT_GE(discord().counters().resumes, 5u);
}

TEST_F(OverlapTest, ANewSessionMayBeLost) {
  ASSERT_NO_FATAL_FAILURE(BeginOverlap());
  EXPECT_EQ(discord().SendInvalidSession(ShardId{1, 3}, false), 1u);
  ASSERT_NO_FATAL_FAILURE(Finish());
  ExpectExact();
  EXPECT_EQ(discord().counters().identifies_by_shard_count.at(3), 4u);
}

TEST_F(OverlapTest, WhatALostOldSessionDidNotBringTheNewOneDoes) {
  ASSERT_NO_FATAL_FAILURE(BeginOverlap());
  EXPECT_EQ(discord().SendInvalidSession(ShardId{1, 2}, false), 1u);
  ASSERT_NO_FATAL_FAILURE(Finish());
  // What came through the old shard's next session may stand before what the new side brought
  // late.
  ExpectNothingMissing();
}

TEST_F(OverlapTest, GuildsComeAndGo) {
  RescaleOptions options = Ordinary();
  options.structure_rate = 1500;
  ASSERT_NO_FATAL_FAILURE(BeginOverlap(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(Finish());
  ExpectExact();
}

TEST_F(RescaleTest, AGuildMayBeInAnOutageThroughout) {
  RescaleOptions options = Ordinary();
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  // Some guild is away when the new shards come, and is back behind the switch.
  uint64_t away = 0;
  const auto find_away = [&] {
    for (const auto& guild : discord().GuildStates()) {
      if (!guild.available) away = guild.id;
    }
    return away != 0;
  };
  const auto is_back = [&] {
    for (const auto& guild : discord().GuildStates()) {
      if (guild.id == away && guild.available) return true;
    }
    return false;
  };
  for (int i = 0; i < kMostChanges && !find_away(); ++i) discord().EmitStructure(1);
  ASSERT_NE(away, 0u);
  ASSERT_NO_FATAL_FAILURE(RescaleTo(4));
  for (int i = 0; i < kMostChanges && !is_back(); ++i) discord().EmitStructure(1);
  ASSERT_TRUE(is_back());
  ExpectExact();
}

TEST_F(RescaleTest, TheIntentGuildsMayBeOff) {
  RescaleOptions options = Ordinary();
  options.intents = "guild_messages,guild_message_typing,guild_voice_states,direct_messages";
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  ASSERT_NO_FATAL_FAILURE(RescaleTo(3));
  ExpectExact();
}

TEST_F(RescaleTest, EventsOfNoGuildComeOnce) {
  RescaleOptions options = Ordinary();
  options.rate = 100;
  options.direct_rate = 500;
  options.discord.lags = {{2, Lag{milliseconds(0), milliseconds(300)}}};
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 1));
  ASSERT_NO_FATAL_FAILURE(RescaleTo(2));
  ExpectExact();
}

TEST_F(RescaleTest, WithoutAnyTrafficTheSilenceAligns) {
  RescaleOptions options = Ordinary();
  options.rate = 0;
  options.direct_rate = 0;
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  ASSERT_NO_FATAL_FAILURE(RescaleTo(4));
  ExpectExact();
}

TEST_F(RescaleTest, InteractionsMayHaveAnotherPlaceOnTheOtherSide) {
  RescaleOptions options = Ordinary();
  options.discord.skews[3].interactions = {milliseconds(0), milliseconds(150)};
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  ASSERT_NO_FATAL_FAILURE(RescaleTo(3));
  ExpectExact();
}

TEST_F(OverlapTest, WhatOnlyTheNewSideGetsIsNotLost) {
  RescaleOptions options = Ordinary();
  options.flags.insert(options.flags.end(), {"--rescale-max-unmatched", "0.2"});
  options.discord.skews[3].one_sided = 0.01;
  ASSERT_NO_FATAL_FAILURE(BeginOverlap(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(Finish());
  ExpectNothingMissing();
}

TEST_F(OverlapTest, ItDoesNotSwitchOnSidesThatDoNotMatch) {
  RescaleOptions options = Ordinary();
  options.flags.insert(options.flags.end(), {"--rescale-timeout", "5s"});
  options.discord.skews[3].one_sided = 0.2;
  ASSERT_NO_FATAL_FAILURE(BeginOverlap(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(WaitFor(v1::RESCALE_STATE_FAILED));
  EXPECT_EQ(run_->Stats().shard_count(), 2u);
  EXPECT_TRUE(Eventually([&] { return Connected(3) == 0; }));
}

TEST_F(RescaleTest, VoiceAndPresenceGoOver) {
  ASSERT_NO_FATAL_FAILURE(Begin(Ordinary(), 2));
  const uint64_t guild = discord().guild_ids()[0];
  const std::string voice = R"({"guild_id":")" + std::to_string(guild) +
                            R"(","channel_id":"77","self_mute":false,"self_deaf":false})";
  const std::string presence = R"({"since":null,"activities":[],"status":"dnd","afk":false})";
  ASSERT_EQ(run_->Send(guild, 4, voice), grpc::OK);
  ASSERT_EQ(run_->Send(guild, 3, presence), grpc::OK);
  ASSERT_NO_FATAL_FAILURE(RescaleTo(3));
  const auto session = discord().Session({ShardForGuild(guild, 3), 3});
  ASSERT_TRUE(session.has_value());
  EXPECT_EQ(session->presence, presence);
  EXPECT_TRUE(Eventually([&] {
    for (const auto& command : discord().Commands(session->session_id)) {
      if (command.op == 4 && command.data == voice) return true;
    }
    return false;
  }));
  ExpectExact();
}

TEST_F(RescaleTest, ACountThatHasBecomeTooSmallIsMended) {
  ASSERT_NO_FATAL_FAILURE(Begin(Ordinary(), 2));
  discord().SetMaxGuildsPerShard(20);
  discord().SendInvalidSession(ShardId{0, 2}, false);
  const auto reason = [&] {
    const v1::StatsResponse stats = run_->Stats();
    for (const auto& shard : stats.shards()) {
      if (shard.state() == v1::SHARD_STATE_FAILED) return shard.reason();
    }
    return std::string();
  };
  ASSERT_TRUE(Eventually([&] { return !reason().empty(); })) << Said();
  EXPECT_THAT(reason(), HasSubstr("4011"));
  EXPECT_THAT(reason(), HasSubstr("Rescale"));
  ASSERT_NO_FATAL_FAILURE(RescaleTo(6));
  ExpectNothingMissing();
}

// ---- Going back ----

TEST_F(RescaleTest, CanBeCancelledWhileShardsIdentify) {
  RescaleOptions options = Ordinary();
  options.discord.lags = {{4, Lag{std::chrono::seconds(2), std::chrono::seconds(2)}}};
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  ASSERT_EQ(run_->Rescale(4).code, grpc::OK);
  ASSERT_TRUE(Eventually([&] { return Connected(4) > 0; }));
  EXPECT_EQ(run_->Stats().rescale().state(), v1::RESCALE_STATE_IDENTIFYING);
  ASSERT_EQ(run_->CancelRescale().code, grpc::OK);
  ASSERT_NO_FATAL_FAILURE(WaitFor(v1::RESCALE_STATE_CANCELLED));
  EXPECT_TRUE(Eventually([&] { return Connected(4) == 0; }));
  ExpectExact({2});
  EXPECT_EQ(run_->Stats().shard_count(), 2u);
  EXPECT_EQ(run_->Stats().shards_size(), 2);
  EXPECT_EQ(States().back(), "CANCELLED");
}

TEST_F(OverlapTest, CanBeCancelledWhileSidesAreAlignedAndDoneAgain) {
  ASSERT_NO_FATAL_FAILURE(BeginOverlap());
  ASSERT_EQ(run_->CancelRescale().code, grpc::OK);
  ASSERT_NO_FATAL_FAILURE(WaitFor(v1::RESCALE_STATE_CANCELLED));
  EXPECT_TRUE(Eventually([&] { return Connected(3) == 0; }));
  ASSERT_NO_FATAL_FAILURE(RescaleTo(3));
  ExpectExact();
}

TEST_F(RescaleTest, AShardThatDiscordRefusesForGoodLeavesAllAsItWas) {
  ASSERT_NO_FATAL_FAILURE(Begin(Ordinary(), 2));
  discord().SetDisallowedIntents(2);
  ASSERT_EQ(run_->Rescale(4).code, grpc::OK);
  ASSERT_NO_FATAL_FAILURE(WaitFor(v1::RESCALE_STATE_FAILED));
  EXPECT_THAT(run_->Stats().rescale().reason(), HasSubstr("4014"));
  discord().SetDisallowedIntents(0);
  discord().SetShardCountMultiple(2);
  ASSERT_EQ(run_->Rescale(3).code, grpc::OK);
  ASSERT_TRUE(Eventually([&] {
    const auto rescale = run_->Stats().rescale();
    return rescale.state() == v1::RESCALE_STATE_FAILED && rescale.to_shard_count() == 3;
  })) << Said();
  EXPECT_THAT(run_->Stats().rescale().reason(), HasSubstr("4010"));
  ExpectExact({2});
  EXPECT_EQ(run_->Stats().shard_count(), 2u);
  EXPECT_EQ(Connected(2), 2u);
  EXPECT_EQ(discord().counters().identifies_by_shard_count.at(2), 2u);
}

// ---- What is asked for ----

TEST_F(RescaleTest, ABudgetThatDoesNotSufficeIsRefusedBeforeAnythingStarts) {
  RescaleOptions options = Ordinary();
  options.discord.session_starts_total = 100;
  options.discord.session_starts_remaining = 40;
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  const auto answer = run_->Rescale(60);
  EXPECT_EQ(answer.code, grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(answer.reason, "SESSION_BUDGET_SPENT");
  EXPECT_THAT(answer.message, HasSubstr("60"));
  EXPECT_THAT(answer.message, HasSubstr("38"));
  EXPECT_EQ(discord().counters().identifies, 2u);
  EXPECT_THAT(States(), IsEmpty());
  ExpectExact();
}

TEST_F(RescaleTest, ADryRunSpendsNothing) {
  ASSERT_NO_FATAL_FAILURE(Begin(Ordinary(), 2));
  discord().ResetPeakConnections();
  const auto answer = run_->Rescale(5, true);
  ASSERT_EQ(answer.code, grpc::OK) << answer.message;
  EXPECT_EQ(answer.rescale.state(), v1::RESCALE_STATE_PLANNED);
  EXPECT_EQ(answer.rescale.from_shard_count(), 2u);
  EXPECT_EQ(answer.rescale.to_shard_count(), 5u);
  EXPECT_EQ(answer.rescale.plan().identifies(), 5u);
  EXPECT_EQ(answer.rescale.plan().peak_connections(), 7u);
  EXPECT_EQ(answer.rescale.plan().budget_after(), discord().session_starts_remaining() - 5);
  EXPECT_GT(answer.rescale.plan().memory_bytes(), 0u);
  std::this_thread::sleep_for(milliseconds(200));  // nothing is to come
  EXPECT_EQ(discord().counters().peak_open_connections, 2u);
  EXPECT_EQ(discord().counters().identifies, 2u);
  EXPECT_EQ(run_->Stats().rescale().state(), v1::RESCALE_STATE_NONE);
  EXPECT_THAT(States(), IsEmpty());
}

TEST_F(OverlapTest, AskingAgainDoesNoHarmAndAnotherTargetIsRefused) {
  ASSERT_NO_FATAL_FAILURE(BeginOverlap());
  const auto again = run_->Rescale(3);
  EXPECT_EQ(again.code, grpc::OK);
  EXPECT_EQ(again.rescale.state(), v1::RESCALE_STATE_ALIGNING);
  const auto other = run_->Rescale(4);
  EXPECT_EQ(other.code, grpc::FAILED_PRECONDITION);
  EXPECT_EQ(other.reason, "RESCALE_RUNNING");
  // The old generation is in charge until the switch.
  EXPECT_EQ(run_->Locate(discord().guild_ids()[0]), 2u);
  EXPECT_EQ(run_->Stats().shard_count(), 2u);
  ASSERT_NO_FATAL_FAILURE(Finish());
  const auto done = run_->Rescale(3);
  EXPECT_EQ(done.code, grpc::OK);
  EXPECT_EQ(done.rescale.state(), v1::RESCALE_STATE_DONE);
  EXPECT_EQ(discord().counters().identifies_by_shard_count.at(3), 3u);
  ExpectExact();
}

TEST_F(RescaleTest, NoCountMeansGuildsPerShardOrDiscordsRecommendation) {
  RescaleOptions options = Ordinary();
  options.discord.guilds = 50;
  options.discord.recommended_shards = 6;
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  v1::RescaleRequest request;
  request.set_dry_run(true);
  EXPECT_EQ(run_->Rescale(request).rescale.to_shard_count(), 6u);
  request.set_guilds_per_shard(10);
  EXPECT_EQ(run_->Rescale(request).rescale.to_shard_count(), 5u);
}

TEST_F(RescaleTest, AServerThatHoldsAPartOfTheShardsCannot) {
  RescaleOptions options = Ordinary();
  options.flags.insert(options.flags.end(), {"--shard-ids", "0"});
  run_ = std::make_unique<RescaleRun>(std::move(options));
  ASSERT_TRUE(run_->Start(2, 1)) << run_->err();
  const auto answer = run_->Rescale(4);
  EXPECT_EQ(answer.code, grpc::FAILED_PRECONDITION);
  EXPECT_EQ(answer.reason, "PARTIAL_POOL");
}

// ---- kill -9 ----

class KillTest : public RescaleTest, public testing::WithParamInterface<v1::RescaleState> {
 protected:
  bool IsSwitched() const { return GetParam() >= v1::RESCALE_STATE_SWITCHED; }
};

TEST_P(KillTest, TheLogIsExactWhereverTheServerDies) {
  RescaleOptions options = Ordinary();
  options.flags = {"--rescale-lag", "1500ms", "--rescale-drain", "1500ms"};
  // READY comes late, too, so each state lasts.
  options.discord.lags = {{2, Lag{milliseconds(0), milliseconds(100)}},
                          {4, Lag{milliseconds(300), milliseconds(600)}}};
  ASSERT_NO_FATAL_FAILURE(Begin(std::move(options), 2));
  ASSERT_EQ(run_->Rescale(4).code, grpc::OK);
  if (GetParam() != v1::RESCALE_STATE_PLANNED) {
    ASSERT_NO_FATAL_FAILURE(WaitFor(GetParam()));
  }
  if (GetParam() == v1::RESCALE_STATE_IDENTIFYING) {
    ASSERT_TRUE(Eventually([&] { return Connected(4) > 0; }));
  }
  run_->Kill();
  std::this_thread::sleep_for(milliseconds(100));  // Discord goes on
  ASSERT_TRUE(run_->Start(IsSwitched() ? 4 : 2)) << run_->err();
  const auto state = run_->Stats().rescale().state();
  EXPECT_EQ(state, IsSwitched() ? v1::RESCALE_STATE_DONE : v1::RESCALE_STATE_FAILED);
  std::this_thread::sleep_for(milliseconds(300));  // what comes after it
  ASSERT_NO_FATAL_FAILURE(RescaleTo(4));
  ExpectExact();
  EXPECT_EQ(run_->ReadLogAgain(), 0u);
  // None for the old shards beyond the first.
  EXPECT_EQ(discord().counters().identifies_by_shard_count.at(2), 2u);
  if (IsSwitched()) {
    EXPECT_EQ(discord().counters().identifies_by_shard_count.at(4), 4u);
  }
}

INSTANTIATE_TEST_SUITE_P(States, KillTest,
                         testing::Values(v1::RESCALE_STATE_PLANNED, v1::RESCALE_STATE_IDENTIFYING,
                                         v1::RESCALE_STATE_ALIGNING, v1::RESCALE_STATE_SWITCHED,
                                         v1::RESCALE_STATE_DONE),
                         [](const auto& test) {
                           return v1::RescaleState_Name(test.param).substr(14);
                         });

}  // namespace
}  // namespace shardd
