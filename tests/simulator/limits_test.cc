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

TEST(IdentifyLimitsTest, ADayMayBeShorterAndMayHaveBegunBefore) {
  IdentifyLimits limits({.window = seconds(0),
                         .total = 10,
                         .remaining = 4,
                         .day = seconds(60),
                         .day_ends = kStart + seconds(20)});
  EXPECT_EQ(limits.Remaining(kStart), 4u);
  EXPECT_EQ(limits.ResetAfter(kStart), seconds(20));
  EXPECT_EQ(limits.Admit(0, kStart + seconds(19)), Verdict::kAdmitted);
  // Whichever is asked first, both belong to one day.
  EXPECT_EQ(limits.ResetAfter(kStart + seconds(25)), milliseconds(0));
  EXPECT_EQ(limits.Remaining(kStart + seconds(25)), 10u);
  EXPECT_EQ(limits.Admit(0, kStart + seconds(30)), Verdict::kAdmitted);
  EXPECT_EQ(limits.ResetAfter(kStart + seconds(40)), seconds(50));
}

TEST(IdentifyLimitsTest, OthersMaySpendTheBudget) {
  IdentifyLimits limits({.window = seconds(0), .total = 10});
  limits.Set(1, kStart + seconds(5));
  EXPECT_EQ(limits.ResetAfter(kStart), seconds(5));
  EXPECT_EQ(limits.Admit(0, kStart), Verdict::kAdmitted);
  EXPECT_EQ(limits.Admit(0, kStart), Verdict::kBudgetSpent);
  limits.Set(1, std::nullopt);
  EXPECT_EQ(limits.ResetAfter(kStart), seconds(5));
  EXPECT_EQ(limits.Admit(0, kStart), Verdict::kAdmitted);
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

TEST(SendWindowTest, MayBeShorter) {
  SendWindow window(1, seconds(20));
  EXPECT_TRUE(window.Admit(kStart));
  EXPECT_FALSE(window.Admit(kStart + milliseconds(19'999)));
  EXPECT_TRUE(window.Admit(kStart + seconds(20)));
}

}  // namespace
}  // namespace shardd::simulator
