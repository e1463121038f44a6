#include "simulator/limits.h"

#include <gtest/gtest.h>

namespace shardd::simulator {
namespace {

using std::chrono::hours, std::chrono::milliseconds, std::chrono::seconds;
using Verdict = IdentifyLimits::Verdict;

const SteadyTime kStart{hours(1)};

TEST(IdentifyLimitsTest, OneIdentifyPerBucketAndWindow) {
  IdentifyLimits limits({.max_concurrency = 2});
  EXPECT_EQ(limits.Admit(0, kStart), Verdict::kAdmitted);
  EXPECT_EQ(limits.Admit(1, kStart), Verdict::kAdmitted);
  EXPECT_EQ(limits.Admit(2, kStart + milliseconds(4999)), Verdict::kTooEarly);
  // The refused one has not lengthened the wait.
  EXPECT_EQ(limits.Admit(2, kStart + seconds(5)), Verdict::kAdmitted);
  EXPECT_EQ(limits.Admit(0, kStart + seconds(5)), Verdict::kTooEarly);
}

TEST(IdentifyLimitsTest, TheBudgetCountsAdmittedOnesAndComesBackAfterADay) {
  IdentifyLimits limits({.window = seconds(0), .total = 2});
  EXPECT_EQ(limits.ResetAfter(kStart), milliseconds(0));
  EXPECT_EQ(limits.Admit(0, kStart), Verdict::kAdmitted);
  EXPECT_EQ(limits.Remaining(kStart), 1u);
  EXPECT_EQ(limits.ResetAfter(kStart + hours(1)), hours(23));
  EXPECT_EQ(limits.Admit(0, kStart + hours(1)), Verdict::kAdmitted);
  EXPECT_EQ(limits.Admit(0, kStart + hours(2)), Verdict::kBudgetSpent);
  EXPECT_EQ(limits.Remaining(kStart + hours(24)), 2u);
  EXPECT_EQ(limits.Admit(0, kStart + hours(24)), Verdict::kAdmitted);
}

TEST(SendWindowTest, AdmitsTheLimitInAnySixtySeconds) {
  SendWindow window(3);
  EXPECT_TRUE(window.Admit(kStart));
  EXPECT_TRUE(window.Admit(kStart + seconds(30)));
  EXPECT_TRUE(window.Admit(kStart + seconds(59)));
  EXPECT_FALSE(window.Admit(kStart + milliseconds(59'999)));
  EXPECT_TRUE(window.Admit(kStart + seconds(60)));
  EXPECT_FALSE(window.Admit(kStart + seconds(61)));
}

}  // namespace
}  // namespace shardd::simulator
