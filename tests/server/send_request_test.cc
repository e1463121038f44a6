#include "server/send_request.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "server/rpc_error.h"

namespace shardd::server {
namespace {

using namespace std::chrono_literals;
using gateway::SendOutcome;

constexpr ShardId kShard{3, 16};
const WallTime kWall{std::chrono::hours(500'000)};
constexpr SteadyTime kSteady{1000h};

TEST(SendRequestTest, ADeadlineIsTakenOverToTheOtherClock) {
  EXPECT_EQ(ToSteadyDeadline(kWall + 5s, kWall, kSteady), kSteady + 5s);
  EXPECT_EQ(ToSteadyDeadline(kWall - 5s, kWall, kSteady), kSteady);
  EXPECT_EQ(ToSteadyDeadline(WallTime::min(), kWall, kSteady), kSteady);
  EXPECT_EQ(ToSteadyDeadline(kWall + 24h, kWall, kSteady), kSteady + 24h);
  EXPECT_EQ(ToSteadyDeadline(WallTime::max(), kWall, kSteady), std::nullopt);
  EXPECT_EQ(ToSteadyDeadline(WallTime::max() - 1s, kWall, kSteady), std::nullopt);
}

TEST(SendRequestTest, EveryOutcomeHasAStatusOfItsOwn) {
  EXPECT_TRUE(StatusOf({.outcome = SendOutcome::kSent}, kShard).ok());
  std::set<std::string> reasons;
  for (const SendOutcome outcome :
       {SendOutcome::kNoSuchShard, SendOutcome::kNotRunning, SendOutcome::kNotReady,
        SendOutcome::kRateLimited, SendOutcome::kQueueFull, SendOutcome::kInterrupted,
        SendOutcome::kStopping}) {
    const absl::Status status = StatusOf({.outcome = outcome}, kShard);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(ReasonOf(status), "");
    EXPECT_TRUE(reasons.insert(ReasonOf(status)).second) << status;
  }
  EXPECT_TRUE(absl::IsCancelled(StatusOf({.outcome = SendOutcome::kCancelled}, kShard)));
}

TEST(SendRequestTest, AStatusSaysHowLongToWait) {
  const auto retry_after = [](const absl::Status& status) {
    const auto payload = status.GetPayload("shardd-retry-after-ms");
    return payload.has_value() ? std::string(*payload) : "";
  };
  for (const SendOutcome outcome :
       {SendOutcome::kNotReady, SendOutcome::kRateLimited, SendOutcome::kQueueFull}) {
    EXPECT_EQ(retry_after(StatusOf({.outcome = outcome, .retry_after = 1500ms}, kShard)), "1500");
  }
}

}  // namespace
}  // namespace shardd::server
