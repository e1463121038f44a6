#include "server/carry_over.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace shardd::server {
namespace {

using gateway::Command;
using gateway::SendOutcome;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Command Made(uint32_t op, const std::string& data) {
  Command command;
  EXPECT_EQ(gateway::MakeCommand(op, data, &command), gateway::CommandFault::kNone);
  return command;
}
// `channel` 0: none, which leaves the call.
Command Voice(uint64_t guild, uint64_t channel) {
  return Made(4, absl::StrCat("{\"guild_id\":\"", guild, "\",\"channel_id\":",
                              channel == 0 ? "null" : absl::StrCat("\"", channel, "\""),
                              ",\"self_mute\":false}"));
}
Command Presence(const std::string& status) {
  return Made(3, absl::StrCat("{\"status\":\"", status, "\",\"activities\":[]}"));
}
// A guild of shard `id` among up to 1024.
constexpr uint64_t Guild(uint64_t id) { return (id << 22) + 5; }

class CarryOverTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kOld = 2, kNew = 4;

  void Ask(const Command& command, ShardId shard = {.id = 0, .count = kOld}, uint32_t now = kOld) {
    carry_over_.OnAsked(shard, command);
    carry_over_.OnSent(shard, command, now);
  }
  bool Pump() {
    return carry_over_.Pump([this](ShardId shard, Command command, gateway::SendReply::Done done) {
      sent_.push_back(absl::StrCat(ToString(shard), " ", command.text));
      done_.push_back(std::move(done));
    });
  }
  void AnswerAll(SendOutcome outcome = SendOutcome::kSent) {
    for (auto& done : std::exchange(done_, {})) done({.outcome = outcome});
  }

  CarryOver carry_over_;
  std::vector<std::string> sent_;
  std::vector<gateway::SendReply::Done> done_;
};

TEST_F(CarryOverTest, KnowsTheCallsThatTheBotIsIn) {
  Ask(Voice(Guild(1), 7));
  Ask(Voice(Guild(2), 8));
  Ask(Voice(Guild(2), 9));
  EXPECT_EQ(carry_over_.voice_guilds(), 2u);
  Ask(Voice(Guild(1), 0));
  EXPECT_EQ(carry_over_.voice_guilds(), 1u);
  Ask(Made(8, R"({"guild_id":"1","query":"","limit":0})"));
  EXPECT_EQ(carry_over_.voice_guilds(), 1u);
}

TEST_F(CarryOverTest, JoinsEachCallAgainThroughTheGuildsNewShard) {
  Ask(Voice(Guild(1), 7));
  Ask(Voice(Guild(6), 8));
  Ask(Voice(Guild(6), 9));
  carry_over_.Begin(kNew, "");
  EXPECT_FALSE(Pump());
  ASSERT_THAT(sent_, SizeIs(2));
  EXPECT_THAT(sent_[0], HasSubstr("1/4 {\"op\":4"));
  EXPECT_THAT(sent_[1], HasSubstr("2/4 {\"op\":4"));
  EXPECT_THAT(sent_[1], HasSubstr("\"channel_id\":\"9\""));
  AnswerAll();
  EXPECT_TRUE(Pump());
  EXPECT_THAT(sent_, SizeIs(2));
}

TEST_F(CarryOverTest, LeavesRoomForOthersInAShardsQueue) {
  for (uint64_t i = 0; i < 100; ++i) Ask(Voice(Guild(kNew * i), 7));
  carry_over_.Begin(kNew, "");
  EXPECT_FALSE(Pump());
  EXPECT_THAT(sent_, SizeIs(CarryOver::kMostUnderWay));
  EXPECT_FALSE(Pump());
  EXPECT_THAT(sent_, SizeIs(CarryOver::kMostUnderWay));
  AnswerAll();
  while (!Pump()) AnswerAll();
  EXPECT_THAT(sent_, SizeIs(100));
}

TEST_F(CarryOverTest, AFailureIsNotWaitedFor) {
  Ask(Voice(Guild(1), 7));
  carry_over_.Begin(kNew, "");
  EXPECT_FALSE(Pump());
  AnswerAll(SendOutcome::kNotReady);
  EXPECT_TRUE(Pump());
}

TEST_F(CarryOverTest, ACallersNewerWishComesFirst) {
  for (uint64_t i = 0; i <= CarryOver::kMostUnderWay; ++i) Ask(Voice(Guild(kNew * i), 7));
  carry_over_.Begin(kNew, "");
  Pump();
  // The last one still waits here.
  Ask(Voice(Guild(kNew * CarryOver::kMostUnderWay), 0), {.id = 0, .count = kNew}, kNew);
  AnswerAll();
  EXPECT_TRUE(Pump());
  EXPECT_THAT(sent_, SizeIs(CarryOver::kMostUnderWay));
}

TEST_F(CarryOverTest, WhatWentThroughAnOldShardTooLateGoesThroughTheNewOneAsWell) {
  Ask(Voice(Guild(3), 7));
  carry_over_.Begin(kNew, "");
  Ask(Voice(Guild(3), 8), {.id = 1, .count = kOld}, kNew);
  EXPECT_FALSE(Pump());
  ASSERT_THAT(sent_, SizeIs(1));
  EXPECT_THAT(sent_[0], HasSubstr("3/4"));
  EXPECT_THAT(sent_[0], HasSubstr("\"channel_id\":\"8\""));
}

TEST_F(CarryOverTest, TheNewestPresenceIsWhatNewSessionsBeginWith) {
  EXPECT_EQ(carry_over_.presence(), "");
  Ask(Presence("idle"), {.id = 0, .count = kOld});
  Ask(Presence("dnd"), {.id = 1, .count = kOld});
  EXPECT_THAT(carry_over_.presence(), HasSubstr("dnd"));
  carry_over_.Begin(kNew, carry_over_.presence());
  EXPECT_TRUE(Pump());
  EXPECT_THAT(sent_, IsEmpty());
}

TEST_F(CarryOverTest, APresenceThatCameMeanwhileIsSentToEachNewShard) {
  Ask(Presence("idle"));
  const std::string begun_with = carry_over_.presence();
  Ask(Presence("dnd"));
  carry_over_.Begin(kNew, begun_with);
  // A caller was faster on one shard.
  Ask(Presence("online"), {.id = 2, .count = kNew}, kNew);
  EXPECT_FALSE(Pump());
  EXPECT_THAT(sent_, ElementsAre(HasSubstr("0/4 {\"op\":3"), HasSubstr("1/4 {\"op\":3"),
                                 HasSubstr("3/4 {\"op\":3")));
}

TEST_F(CarryOverTest, IsBounded) {
  for (uint64_t i = 1; i <= CarryOver::kMostVoiceGuilds + 10; ++i) Ask(Voice(i << 22, 7));
  EXPECT_EQ(carry_over_.voice_guilds(), CarryOver::kMostVoiceGuilds);
}

}  // namespace
}  // namespace shardd::server
