#include "gateway/crash_guard.h"

#include <gtest/gtest.h>

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;

constexpr SteadyTime kStart{1h};

TEST(CrashGuardTest, CountsDeathsWithinTheWindowAlone) {
  CrashGuard guard({.deaths = 3, .window = 300s, .pause = 120s});
  EXPECT_FALSE(guard.Die(kStart));
  EXPECT_FALSE(guard.Die(kStart + 100s));
  EXPECT_FALSE(guard.Die(kStart + 300s));  // the first is just out of it
  EXPECT_EQ(guard.deaths(), 2u);
  EXPECT_TRUE(guard.Die(kStart + 399s));
  EXPECT_EQ(guard.deaths(), 3u);
}

TEST(CrashGuardTest, APauseDoesNotClearTheWindow) {
  CrashGuard guard({.deaths = 3, .window = 300s, .pause = 120s});
  guard.Die(kStart);
  guard.Die(kStart + 1s);
  EXPECT_TRUE(guard.Die(kStart + 2s));
  EXPECT_TRUE(guard.Die(kStart + 122s));
  EXPECT_FALSE(guard.Die(kStart + 600s));
}

TEST(CrashGuardTest, OneDeathCanBeEnough) {
  CrashGuard guard({.deaths = 1, .window = 300s, .pause = 120s});
  EXPECT_TRUE(guard.Die(kStart));
  EXPECT_TRUE(guard.Die(kStart + 1h));
}

}  // namespace
}  // namespace shardd::gateway
