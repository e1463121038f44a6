#include "common/backoff.h"

#include <gtest/gtest.h>

namespace shardd {
namespace {

using std::chrono::milliseconds;

TEST(BackoffTest, DoublesUpToTheLongestAndStaysInItsUpperHalf) {
  Backoff backoff({.first = milliseconds(100), .longest = milliseconds(1000)}, /*seed=*/1);
  for (const int ceiling : {100, 200, 400, 800, 1000, 1000}) {
    const milliseconds delay = backoff.Next();
    EXPECT_GE(delay, milliseconds(ceiling / 2));
    EXPECT_LE(delay, milliseconds(ceiling));
  }
}

TEST(BackoffTest, ResetStartsOver) {
  Backoff backoff({.first = milliseconds(100), .longest = milliseconds(1000)}, /*seed=*/1);
  for (int i = 0; i < 5; ++i) backoff.Next();
  backoff.Reset();
  EXPECT_EQ(backoff.attempts(), 0u);
  EXPECT_LE(backoff.Next(), milliseconds(100));
}

TEST(BackoffTest, NeverOverflows) {
  Backoff backoff({}, /*seed=*/1);
  for (int i = 0; i < 100; ++i) EXPECT_LE(backoff.Next(), BackoffOptions().longest);
}

}  // namespace
}  // namespace shardd
