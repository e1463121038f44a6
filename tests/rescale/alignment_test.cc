#include "rescale/alignment.h"

#include <gtest/gtest.h>

#include <string>

#include "rescale/alignment_model.h"

namespace shardd::rescale::test {
namespace {

using std::chrono::milliseconds;

struct Scenario {
  const char* name;
  ModelOptions options;
  // Whether the guild's order can be kept at all: what one side alone has brought may come when the
  // other one has gone on.
  bool keeps_order = true;
  // Runs, of kRuns, in which events of equal content are taken for one another. Where this is not
  // 0, nobody could tell them apart: they come close together while a session begins or is lost.
  uint64_t mistaken_runs = 0;
};

constexpr uint64_t kRuns = 3000;

class AlignmentModelTest : public ::testing::TestWithParam<Scenario> {};

TEST_P(AlignmentModelTest, LosesNothingDoublesNothingReordersNothing) {
  const Scenario& scenario = GetParam();
  std::string told;
  uint64_t mistaken = 0, switched = 0;
  for (uint64_t seed = 1; seed <= kRuns; ++seed) {
    ModelOptions options = scenario.options;
    options.seed = seed;
    const ModelResult result = RunModel(options);
    switched += result.switched ? 1 : 0;
    const bool is_wrong = result.lost > 0 || result.doubled > 0 || result.counts.lost > 0 ||
                          (scenario.keeps_order && result.reordered > 0);
    if (!is_wrong) continue;
    ++mistaken;
    if (told.size() < 500) told += "seed " + std::to_string(seed) + ": " + result.told + "\n";
  }
  EXPECT_LE(mistaken, scenario.mistaken_runs) << told;
  EXPECT_EQ(switched, scenario.options.cancels ? 0 : kRuns);
}

INSTANTIATE_TEST_SUITE_P(
    Model, AlignmentModelTest,
    ::testing::Values(
        Scenario{"LagsAndEqualPayloads", {}},
        Scenario{"ShortLags", {.largest_lag = milliseconds(200)}},
        Scenario{"BusyGuild", {.guilds = 1, .events = 400, .equal_share = 0.1}},
        Scenario{"ManyShards", {.old_count = 4, .new_count = 3, .guilds = 12, .events = 300}},
        Scenario{"Drops", {.drops = 3}}, Scenario{"LateGuilds", {.joins = 3}},
        Scenario{"Outages", {.outages = 3}},
        Scenario{"LostNewSession", {.loses_new_session = true}},
        Scenario{"Cancel", {.cancels = true}},
        Scenario{
            .name = "OneSidedEvents", .options = {.one_sided_share = 0.05}, .keeps_order = false},
        Scenario{.name = "LostOldSession",
                 .options = {.equal_share = 0, .loses_old_session = true},
                 .keeps_order = false},
        // Far more equal payloads than there are.
        Scenario{.name = "HalfOfThemEqual",
                 .options = {.equal_share = 0.5, .plain_share = 0.8},
                 .mistaken_runs = 3},
        Scenario{.name = "EverySecondIsTheSame",
                 .options = {.events = 400, .plain_share = 0.5, .all_equal = true},
                 .mistaken_runs = 5},
        Scenario{.name = "EverySecondIsTheSameAndALostSession",
                 .options = {.events = 400,
                             .plain_share = 0.5,
                             .all_equal = true,
                             .loses_new_session = true},
                 .mistaken_runs = 15},
        Scenario{.name = "DropsAndManyEqualPayloads",
                 .options = {.equal_share = 0.2, .drops = 3},
                 .mistaken_runs = 5},
        Scenario{.name = "SwappedNeighbours",
                 .options = {.swap_share = 0.1},
                 .keeps_order = false,
                 .mistaken_runs = 2},
        Scenario{.name = "LostOldSessionAndEqualPayloads",
                 .options = {.loses_old_session = true},
                 .keeps_order = false,
                 .mistaken_runs = 12}),
    [](const auto& each) { return each.param.name; });

// ---- Rules that are easier to see alone ----

class AlignmentTest : public ::testing::Test {
 protected:
  using State = Alignment::SourceState;
  using Verdict = Alignment::Verdict;

  AlignmentTest() : alignment_({.max_unmatched_share = 0.001}, 1, 1) {
    SetState(Side::kOld, State::kReady);
    now_ += std::chrono::minutes(1);
  }

  void SetState(Side side, State state) {
    alignment_.SetState(side, 0, state, now_, &released_, &settled_);
  }
  void OpenNew() {
    SetState(Side::kNew, State::kOpening);
    SetState(Side::kNew, State::kReady);
    now_ += std::chrono::seconds(6);
    alignment_.SetFresh(Side::kOld, 0, now_);
    alignment_.SetFresh(Side::kNew, 0, now_);
  }
  Verdict Bring(Side side, uint64_t key, Matching matching = Matching::kUnique) {
    released_.clear();
    return alignment_
        .OnEvent({.side = side,
                  .guild_id = uint64_t{1} << 22,
                  .identity = {matching, Producer::kGuild, {.high = 0, .low = key}},
                  .at = now_},
                 &released_, &settled_)
        .verdict;
  }
  void Wait(milliseconds time) {
    now_ += time;
    released_.clear();
    alignment_.Tick(now_, &released_, &settled_);
  }

  SteadyTime now_ = SteadyTime(std::chrono::hours(1));
  Alignment alignment_;
  std::vector<uint32_t> released_, settled_;
};

TEST_F(AlignmentTest, WhatTheFollowerBringsFirstWaitsForTheLeader) {
  OpenNew();
  EXPECT_EQ(Bring(Side::kNew, 1), Verdict::kHold);
  EXPECT_EQ(Bring(Side::kOld, 1), Verdict::kAppend);
  EXPECT_EQ(settled_.size(), 1);
  EXPECT_EQ(alignment_.counts().held, 0);
}

TEST_F(AlignmentTest, WhatTheLeaderDoesNotBringGoesInAfterTheLagAndItsLateCopyIsDropped) {
  OpenNew();
  EXPECT_EQ(Bring(Side::kNew, 1), Verdict::kHold);
  Wait(milliseconds(4999));
  EXPECT_TRUE(released_.empty());
  Wait(milliseconds(1));
  EXPECT_EQ(released_.size(), 1);
  EXPECT_EQ(Bring(Side::kOld, 1), Verdict::kDropCopy);
}

TEST_F(AlignmentTest, NothingExpiresWhileTheLeaderIsAwayAndWillResume) {
  OpenNew();
  EXPECT_EQ(Bring(Side::kNew, 1), Verdict::kHold);
  SetState(Side::kOld, State::kAway);
  Wait(std::chrono::minutes(3));
  EXPECT_TRUE(released_.empty());
  EXPECT_EQ(Bring(Side::kOld, 1), Verdict::kAppend);
}

TEST_F(AlignmentTest, WhatIsHeldGoesInWhenTheLeadersSessionIsLost) {
  OpenNew();
  EXPECT_EQ(Bring(Side::kNew, 1), Verdict::kHold);
  released_.clear();
  SetState(Side::kOld, State::kAbsent);
  EXPECT_EQ(released_.size(), 1);
  EXPECT_EQ(Bring(Side::kNew, 2), Verdict::kAppendEarly);
}

TEST_F(AlignmentTest, DoesNotSwitchWhileTooManyEventsComeOverOneSideAlone) {
  OpenNew();
  EXPECT_EQ(alignment_.WhyNotSwitch(now_), "");
  for (uint64_t key = 1; key <= 100; ++key) {
    EXPECT_EQ(Bring(Side::kOld, key), Verdict::kAppend);
    if (key % 10 != 0) {
      EXPECT_EQ(Bring(Side::kNew, key), Verdict::kDropCopy);
    }
  }
  now_ += std::chrono::seconds(6);
  alignment_.SetFresh(Side::kNew, 0, now_);
  alignment_.SetFresh(Side::kOld, 0, now_);
  Wait(milliseconds(1));
  EXPECT_EQ(alignment_.counts().unmatched, 10);
  EXPECT_NE(alignment_.WhyNotSwitch(now_).find("came through one generation alone"),
            std::string::npos);
  now_ += std::chrono::minutes(1);
  EXPECT_EQ(alignment_.WhyNotSwitch(now_), "");
}

TEST_F(AlignmentTest, WaitsForTheGuildsThatReadyHasNamed) {
  SetState(Side::kNew, State::kOpening);
  SetState(Side::kNew, State::kReady);
  const uint64_t guild = uint64_t{1} << 22;
  alignment_.SetGuilds(Side::kNew, 0, std::vector<uint64_t>{guild});
  now_ += std::chrono::seconds(6);
  EXPECT_NE(alignment_.WhyNotSwitch(now_).find("have not come yet"), std::string::npos);
  // It tells the new session how the guild is, and nobody else.
  EXPECT_EQ(alignment_
                .OnEvent({.side = Side::kNew,
                          .guild_id = guild,
                          .identity = {Matching::kByContent, Producer::kGuild, {.low = 9}},
                          .is_guild = true,
                          .at = now_},
                         &released_, &settled_)
                .verdict,
            Verdict::kDrop);
  alignment_.SetFresh(Side::kOld, 0, now_ + milliseconds(1));
  EXPECT_EQ(alignment_.WhyNotSwitch(now_ + milliseconds(1)), "");
}

TEST_F(AlignmentTest, AfterTheEndTheLeadersCopiesOfWhatWentInEarlyAreStillDropped) {
  OpenNew();
  EXPECT_EQ(Bring(Side::kNew, 1), Verdict::kHold);
  Wait(std::chrono::seconds(5));
  alignment_.End(&released_, &settled_);
  EXPECT_TRUE(alignment_.expects_copies());
  EXPECT_EQ(Bring(Side::kNew, 2), Verdict::kDrop);
  EXPECT_EQ(Bring(Side::kOld, 1), Verdict::kDropCopy);
  EXPECT_EQ(Bring(Side::kOld, 2), Verdict::kAppend);
  EXPECT_FALSE(alignment_.expects_copies());
}

}  // namespace
}  // namespace shardd::rescale::test
