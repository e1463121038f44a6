#include "gateway/send_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInterval = 41'250ms;

// A queue and a clock. Commands are named by the number that Add returns, and in their `d`.
class SendQueueTest : public ::testing::Test {
 protected:
  uint64_t Add(CommandOp op, std::string data, std::optional<std::chrono::milliseconds> within) {
    Command command;
    EXPECT_EQ(MakeCommand(static_cast<uint32_t>(op), data, &command), CommandFault::kNone);
    const uint64_t id = ++last_id_;
    SendRequest request{.id = id,
                        .command = std::move(command),
                        .deadline = std::nullopt,
                        .reply = SendReply([this, id](const SendResult& result) {
                          EXPECT_FALSE(results_.contains(id)) << "said twice";
                          results_[id] = result;
                        })};
    if (within) request.deadline = now_ + *within;
    queue_->Add(std::move(request), now_);
    return id;
  }
  uint64_t AddVoice(std::optional<std::chrono::milliseconds> within = std::nullopt) {
    return Add(CommandOp::kVoiceStateUpdate, "{\"n\":" + std::to_string(last_id_ + 1) + "}",
               within);
  }
  uint64_t AddPresence(std::string status,
                       std::optional<std::chrono::milliseconds> within = std::nullopt) {
    return Add(CommandOp::kPresenceUpdate, "{\"status\":\"" + status + "\"}", within);
  }
  uint64_t AddMembers(uint64_t guild,
                      std::optional<std::chrono::milliseconds> within = std::nullopt) {
    return Add(CommandOp::kRequestGuildMembers,
               "{\"guild_id\":\"" + std::to_string(guild) + R"(","query":"","limit":0})", within);
  }

  // Writes what may go now; the texts.
  std::vector<std::string> Pump() {
    std::vector<std::string> sent;
    while (auto next = queue_->Take(now_)) {
      sent.push_back(next->text);
      queue_->Written(now_);
      next->Say(SendOutcome::kSent, now_);
    }
    EXPECT_GT(queue_->NextTake(now_), now_) << "or its owner never rests";
    return sent;
  }
  void BecomeReady() { queue_->BecomeReady(kInterval, now_); }
  void Advance(std::chrono::milliseconds by) {
    now_ += by;
    queue_->Review(now_);
  }
  bool Waits(uint64_t id) const { return !results_.contains(id); }
  SendOutcome OutcomeOf(uint64_t id) const { return results_.at(id).outcome; }

  std::map<uint64_t, SendResult> results_;
  uint64_t last_id_ = 0;
  SteadyTime now_{1000h};
  SendMemberLimit members_;
  std::unique_ptr<SendQueue> queue_ = std::make_unique<SendQueue>(&members_);
};

TEST_F(SendQueueTest, NothingGoesBeforeReady) {
  const uint64_t id = AddVoice();
  EXPECT_THAT(Pump(), IsEmpty());
  EXPECT_EQ(queue_->NextTake(now_), SteadyTime::max());
  Advance(3s);
  BecomeReady();
  EXPECT_THAT(Pump(), ElementsAre(R"({"op":4,"d":{"n":1}})"));
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kSent);
  EXPECT_EQ(results_[id].held, 3s);
}

TEST_F(SendQueueTest, CommandsKeepTheirOrder) {
  for (int i = 0; i < 3; ++i) AddVoice();
  BecomeReady();
  EXPECT_THAT(Pump(), ElementsAre(HasSubstr("1"), HasSubstr("2"), HasSubstr("3")));
}

TEST_F(SendQueueTest, WhatHasNotGoneWaitsForTheNextConnection) {
  BecomeReady();
  queue_->ConnectionChanged();
  const uint64_t id = AddVoice();
  EXPECT_THAT(Pump(), IsEmpty());
  queue_->ConnectionChanged();
  EXPECT_THAT(Pump(), IsEmpty());
  BecomeReady();
  Pump();
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kSent);
}

TEST_F(SendQueueTest, WaitingForReadyEndsAtTheDeadline) {
  const uint64_t with = AddVoice(5s);
  const uint64_t without = AddVoice();
  EXPECT_EQ(queue_->NextEnd(), now_ + 5s);
  Advance(4'999ms);
  EXPECT_TRUE(Waits(with));
  Advance(1ms);
  EXPECT_EQ(OutcomeOf(with), SendOutcome::kNotReady);
  EXPECT_EQ(queue_->NextEnd(), now_ + SendQueue::kLongestWait - 5s);
  Advance(SendQueue::kLongestWait - 5s - 1ms);
  EXPECT_TRUE(Waits(without));
  Advance(1ms);
  EXPECT_EQ(OutcomeOf(without), SendOutcome::kNotReady);
  EXPECT_TRUE(results_[without].retry_after.has_value());
  BecomeReady();
  EXPECT_THAT(Pump(), IsEmpty());
}

TEST_F(SendQueueTest, ADeadlineThatHasPassedSendsNothing) {
  BecomeReady();
  const uint64_t id = AddVoice(0s);
  EXPECT_THAT(Pump(), IsEmpty());
  EXPECT_NE(OutcomeOf(id), SendOutcome::kSent);
  AddVoice(1s);
  now_ += 1s;  // and nobody has looked meanwhile
  EXPECT_THAT(Pump(), IsEmpty());
}

TEST_F(SendQueueTest, ACancelledCommandIsNotSent) {
  const uint64_t first = AddVoice();
  const uint64_t second = AddVoice();
  queue_->Cancel(first, now_);
  queue_->Cancel(first, now_);
  queue_->Cancel(99, now_);
  EXPECT_EQ(OutcomeOf(first), SendOutcome::kCancelled);
  BecomeReady();
  EXPECT_THAT(Pump(), ElementsAre(HasSubstr("2")));
  queue_->Cancel(second, now_);
  EXPECT_EQ(OutcomeOf(second), SendOutcome::kSent);
}

TEST_F(SendQueueTest, TheQueueHasABound) {
  for (size_t i = 0; i < SendQueue::kMostWaiting; ++i) ASSERT_TRUE(Waits(AddVoice()));
  const uint64_t id = AddVoice();
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kQueueFull);
  EXPECT_TRUE(results_[id].retry_after.has_value());
  queue_->Cancel(1, now_);
  EXPECT_TRUE(Waits(AddVoice()));
}

TEST_F(SendQueueTest, EveryCallerHearsWhatEndedItsCommand) {
  const uint64_t first = AddVoice();
  queue_->EndAll(SendOutcome::kNotRunning, now_);
  EXPECT_EQ(OutcomeOf(first), SendOutcome::kNotRunning);
  const uint64_t second = AddVoice();
  queue_.reset();
  EXPECT_EQ(OutcomeOf(second), SendOutcome::kStopping);
}

// ---- 120 payloads in 60 s ----

TEST_F(SendQueueTest, HeartbeatsHaveTheirRoom) {
  EXPECT_EQ(SendQueue::CommandsPerWindow(41'250ms), 113u);
  EXPECT_EQ(SendQueue::CommandsPerWindow(60'000ms), 115u);
  EXPECT_EQ(SendQueue::CommandsPerWindow(59'999ms), 113u);
  EXPECT_EQ(SendQueue::CommandsPerWindow(3'600'000ms), 115u);
  EXPECT_EQ(SendQueue::CommandsPerWindow(1'000ms), 47u);
  EXPECT_EQ(SendQueue::CommandsPerWindow(1ms), 10u);
  EXPECT_EQ(SendQueue::CommandsPerWindow(0ms), 10u);
}

TEST_F(SendQueueTest, EverythingThatGoesOutCounts) {
  queue_->ConnectionChanged();
  queue_->Written(now_);  // IDENTIFY
  for (int i = 0; i < 12; ++i) queue_->Written(now_);
  BecomeReady();
  for (int i = 0; i < 120; ++i) AddVoice(10min);
  EXPECT_EQ(Pump().size(), 100u);
  EXPECT_EQ(queue_->NextTake(now_), now_ + SendQueue::kPayloadWindow);
  Advance(SendQueue::kPayloadWindow - 1ms);
  EXPECT_THAT(Pump(), IsEmpty());
  Advance(1ms);
  EXPECT_EQ(Pump().size(), 20u);
}

TEST_F(SendQueueTest, ANewConnectionCountsAnew) {
  BecomeReady();
  for (int i = 0; i < 113; ++i) AddVoice(1s);
  EXPECT_EQ(Pump().size(), 113u);
  for (int i = 0; i < 113; ++i) queue_->Written(now_);
  queue_->ConnectionChanged();
  BecomeReady();
  for (int i = 0; i < 113; ++i) AddVoice(1s);
  EXPECT_EQ(Pump().size(), 113u);
}

TEST_F(SendQueueTest, NoMinuteHoldsMoreThan120PayloadsHoweverManyAreWanted) {
  queue_->ConnectionChanged();
  BecomeReady();
  std::vector<SteadyTime> written{now_};
  queue_->Written(now_);
  SteadyTime next_beat = now_ + 20s;
  for (int step = 0; step < 6'000; ++step) {
    if (now_ >= next_beat) {
      // Twice, as a server that asks has it.
      for (int i = 0; i < 2; ++i) written.push_back(now_), queue_->Written(now_);
      next_beat += kInterval;
    }
    AddVoice(30s);
    for (size_t sent = Pump().size(); sent > 0; --sent) written.push_back(now_);
    Advance(100ms);
  }
  EXPECT_GT(written.size(), 1000u);
  for (size_t i = 120; i < written.size(); ++i) ASSERT_GE(written[i] - written[i - 120], 60s) << i;
}

TEST_F(SendQueueTest, WhatCannotGoBeforeItsDeadlineIsRefusedAtOnce) {
  BecomeReady();
  for (int i = 0; i < 113; ++i) AddVoice();
  Pump();
  Advance(10s);
  const auto left = SendQueue::kPayloadWindow - 10s;
  const uint64_t late = AddVoice(left);
  EXPECT_EQ(OutcomeOf(late), SendOutcome::kRateLimited);
  EXPECT_EQ(results_[late].retry_after, left);
  const uint64_t in_time = AddVoice(left + 1ms);
  EXPECT_TRUE(Waits(in_time));
  EXPECT_TRUE(Waits(AddVoice())) << "60 s are enough";
  Advance(left);
  EXPECT_EQ(Pump().size(), 2u);
  EXPECT_EQ(results_[in_time].held, left);
}

TEST_F(SendQueueTest, TheTurnOfThoseAheadCounts) {
  BecomeReady();
  for (int i = 0; i < 113; ++i) AddVoice();
  Pump();
  for (int i = 0; i < 113; ++i) ASSERT_TRUE(Waits(AddVoice(10min)));
  const uint64_t id = AddVoice(2 * SendQueue::kPayloadWindow);
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kRateLimited);
  EXPECT_EQ(results_[id].retry_after, 2 * SendQueue::kPayloadWindow);
  EXPECT_TRUE(Waits(AddVoice(2 * SendQueue::kPayloadWindow + 1ms)));
}

TEST_F(SendQueueTest, WhatWaitedForReadyIsRefusedOnceTheLimitsAreKnown) {
  std::vector<uint64_t> ids;
  for (int i = 0; i < 120; ++i) ids.push_back(AddVoice(20s));
  Advance(1s);
  BecomeReady();
  EXPECT_EQ(Pump().size(), 113u);
  EXPECT_EQ(OutcomeOf(ids[112]), SendOutcome::kSent);
  EXPECT_EQ(OutcomeOf(ids[113]), SendOutcome::kRateLimited);
}

// ---- Presences ----

TEST_F(SendQueueTest, FivePresencesIn20Seconds) {
  BecomeReady();
  for (int i = 0; i < 5; ++i) {
    AddPresence("online");
    EXPECT_EQ(Pump().size(), 1u);
  }
  const uint64_t sixth = AddPresence("idle");
  EXPECT_THAT(Pump(), IsEmpty());
  AddVoice();
  EXPECT_EQ(Pump().size(), 1u) << "others do not wait for it";
  EXPECT_EQ(queue_->NextTake(now_), now_ + SendQueue::kPresenceWindow);
  Advance(SendQueue::kPresenceWindow - 1ms);
  EXPECT_THAT(Pump(), IsEmpty());
  Advance(1ms);
  EXPECT_EQ(Pump().size(), 1u);
  EXPECT_EQ(OutcomeOf(sixth), SendOutcome::kSent);
  EXPECT_GE(SendQueue::kPresenceWindow, 20s);
}

TEST_F(SendQueueTest, TheNewestPresenceWinsAndAllItsCallersHear) {
  const uint64_t first = AddPresence("online");
  AddVoice();
  const uint64_t second = AddPresence("idle");
  const uint64_t third = AddPresence("dnd");
  BecomeReady();
  EXPECT_THAT(Pump(), ElementsAre(HasSubstr("dnd"), HasSubstr("\"op\":4")));
  for (const uint64_t id : {first, second, third}) EXPECT_EQ(OutcomeOf(id), SendOutcome::kSent);
  EXPECT_THAT(Pump(), IsEmpty());
}

TEST_F(SendQueueTest, ACancelledPresenceLeavesTheOneBeforeIt) {
  const uint64_t first = AddPresence("idle");
  const uint64_t second = AddPresence("dnd");
  EXPECT_EQ(queue_->presence(), R"({"status":"dnd"})");
  queue_->Cancel(second, now_);
  EXPECT_EQ(queue_->presence(), R"({"status":"idle"})");
  BecomeReady();
  EXPECT_THAT(Pump(), ElementsAre(HasSubstr("idle")));
  EXPECT_EQ(OutcomeOf(first), SendOutcome::kSent);
}

TEST_F(SendQueueTest, APresenceThatComesTooLateIsRefusedAtOnce) {
  BecomeReady();
  for (int i = 0; i < 5; ++i) AddPresence("online"), Pump();
  const uint64_t late = AddPresence("idle", SendQueue::kPresenceWindow);
  EXPECT_EQ(OutcomeOf(late), SendOutcome::kRateLimited);
  EXPECT_EQ(results_[late].retry_after, SendQueue::kPresenceWindow);
  queue_->ConnectionChanged();
  EXPECT_TRUE(Waits(AddPresence("idle", 5s))) << "the next connection counts anew";
}

TEST_F(SendQueueTest, TheNewestPresenceIsRemembered) {
  EXPECT_EQ(queue_->presence(), "");
  BecomeReady();
  AddPresence("idle");
  Pump();
  EXPECT_EQ(queue_->presence(), R"({"status":"idle"})");
  queue_->ConnectionChanged();
  AddPresence("dnd");
  EXPECT_EQ(queue_->presence(), R"({"status":"dnd"})");
  Add(CommandOp::kPresenceUpdate, "{}", std::nullopt);
  EXPECT_EQ(queue_->presence(), R"({"status":"dnd"})") << "an IDENTIFY cannot carry the other";
  queue_->EndAll(SendOutcome::kNotRunning, now_);
  EXPECT_EQ(queue_->presence(), R"({"status":"idle"})");
}

// ---- All members of a guild ----

TEST_F(SendQueueTest, AllMembersOfAGuildOncePer30Seconds) {
  BecomeReady();
  AddMembers(7);
  AddMembers(8);
  EXPECT_EQ(Pump().size(), 2u);
  const uint64_t again = AddMembers(7);
  AddVoice();
  AddMembers(9);
  EXPECT_THAT(Pump(), ElementsAre(HasSubstr("\"op\":4"), HasSubstr("\"9\"")))
      << "others do not wait for it";
  EXPECT_EQ(queue_->NextTake(now_), now_ + SendMemberLimit::kPeriod);
  Advance(SendMemberLimit::kPeriod);
  EXPECT_EQ(Pump().size(), 1u);
  EXPECT_EQ(OutcomeOf(again), SendOutcome::kSent);
}

TEST_F(SendQueueTest, TheMemberLimitIsTheBotsAndOutlivesConnections) {
  BecomeReady();
  AddMembers(7);
  Pump();
  queue_ = std::make_unique<SendQueue>(&members_);  // another shard's
  BecomeReady();
  const uint64_t late = AddMembers(7, 5s);
  EXPECT_EQ(OutcomeOf(late), SendOutcome::kRateLimited);
  EXPECT_EQ(results_[late].retry_after, SendMemberLimit::kPeriod);
  queue_->ConnectionChanged();
  EXPECT_EQ(OutcomeOf(AddMembers(7, 5s)), SendOutcome::kRateLimited);
}

TEST_F(SendQueueTest, SeveralRequestsForOneGuildWaitForEachOther) {
  BecomeReady();
  AddMembers(7);
  Pump();
  EXPECT_TRUE(Waits(AddMembers(7, SendMemberLimit::kPeriod + 1ms)));
  const uint64_t third = AddMembers(7, 2 * SendMemberLimit::kPeriod);
  EXPECT_EQ(OutcomeOf(third), SendOutcome::kRateLimited);
  EXPECT_EQ(results_[third].retry_after, 2 * SendMemberLimit::kPeriod);
}

TEST_F(SendQueueTest, ABlockOfDiscordsEndsWhatNoLongerGoesInTime) {
  const uint64_t id = AddMembers(7, 10s);
  const uint64_t other = AddMembers(8, 10s);
  members_.Block(7, 29'457ms, now_);
  queue_->Review(now_);
  EXPECT_EQ(OutcomeOf(id), SendOutcome::kRateLimited);
  EXPECT_EQ(results_[id].retry_after, 29'457ms);
  EXPECT_TRUE(Waits(other));
}

}  // namespace
}  // namespace shardd::gateway
