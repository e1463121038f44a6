#include "gateway/silence_detector.h"

#include <gtest/gtest.h>

#include <random>

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;

class SilenceDetectorTest : public ::testing::Test {
 protected:
  // Lets time pass up to `until`, looking when it is due; counts silences.
  void Run(std::chrono::nanoseconds time) {
    const SteadyTime until = now_ + time;
    while (detector_.next_look() <= until) {
      now_ = detector_.next_look();
      if (const auto silence = detector_.Look(now_)) {
        ++silences_;
        last_ = *silence;
      }
    }
    now_ = until;
  }
  // Events at random with this mean distance, as independent senders make them.
  void Events(std::chrono::nanoseconds time, std::chrono::milliseconds mean) {
    std::exponential_distribution<double> gap(1.0 / static_cast<double>(mean.count()));
    const SteadyTime until = now_ + time;
    for (;;) {
      const auto next = std::chrono::microseconds(static_cast<int64_t>(gap(random_) * 1000));
      if (now_ + next > until) break;
      Run(next);
      detector_.OnEvent(now_);
    }
    Run(until - now_);
  }

  // What it expects of a silence of this length.
  double ExpectedAfter(std::chrono::minutes time) {
    Run(time + 75s);
    return last_.expected_events;
  }

  SteadyTime now_{1h};
  std::mt19937_64 random_{4};
  SilenceDetector detector_{5min};
  int silences_ = 0;
  SilenceDetector::Silence last_{};
};

TEST_F(SilenceDetectorTest, ABusyShardIsSilentAfterTheShortestTime) {
  detector_.Begin(true, now_);
  Events(1h, 100ms);
  EXPECT_EQ(silences_, 0);
  Run(5min + 75s);
  EXPECT_EQ(silences_, 1);
  EXPECT_GE(last_.lasted, 5min);
  EXPECT_GT(last_.expected_events, 2000);
}

TEST_F(SilenceDetectorTest, ASilenceIsToldOnceAlsoAcrossConnections) {
  detector_.Begin(true, now_);
  Events(1h, 1s);
  Run(1h);
  detector_.End();
  detector_.Begin(false, now_);
  Run(24h);
  EXPECT_EQ(silences_, 1);
  Events(1h, 1s);
  Run(1h);
  EXPECT_EQ(silences_, 2);
}

TEST_F(SilenceDetectorTest, AQuietShardIsNotAccusedForItsNature) {
  detector_.Begin(true, now_);
  Events(1000h, 10min);
  EXPECT_EQ(silences_, 0);
}

TEST_F(SilenceDetectorTest, TrafficThatFallsAsleepGraduallyIsNoSilence) {
  detector_.Begin(true, now_);
  for (auto mean = 100ms; mean < 1h; mean *= 2) Events(1h, mean);
  EXPECT_EQ(silences_, 0);
}

TEST_F(SilenceDetectorTest, AnIdleShardIsNeverAccused) {
  detector_.Begin(true, now_);
  Run(1000h);
  EXPECT_EQ(silences_, 0);
}

TEST_F(SilenceDetectorTest, TheBurstOfANewSessionIsNoRate) {
  detector_.Begin(true, now_);
  Events(10s, 1ms);
  Events(240h, 6s);
  EXPECT_EQ(silences_, 0);
  EXPECT_LT(ExpectedAfter(5min), 100);
}

TEST_F(SilenceDetectorTest, TimeWithoutConnectionIsNoSilence) {
  detector_.Begin(true, now_);
  Events(1h, 1s);
  detector_.End();
  EXPECT_EQ(detector_.next_look(), SteadyTime::max());
  now_ += 1h;
  detector_.Begin(false, now_);
  Run(4min);
  EXPECT_EQ(silences_, 0);
}

TEST_F(SilenceDetectorTest, ZeroSwitchesItOff) {
  SilenceDetector off{0ms};
  off.Begin(true, now_);
  EXPECT_EQ(off.next_look(), SteadyTime::max());
  EXPECT_FALSE(off.Look(now_ + 1000h));
}

}  // namespace
}  // namespace shardd::gateway
