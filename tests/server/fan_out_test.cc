#include "server/fan_out.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>

namespace shardd::server {
namespace {

constexpr std::chrono::seconds kPatience{20};

// Counts its calls, and asks to be called again when a test says.
class CountingWaiter : public Waiter {
 public:
  explicit CountingWaiter(std::chrono::milliseconds again_after = std::chrono::hours(1))
      : again_after_(again_after) {}

  SteadyTime OnWake(SteadyTime now) override {
    if (on_wake) on_wake();
    const std::lock_guard lock(mutex_);
    ++calls_;
    called_.notify_all();
    return now + again_after_;
  }

  bool WaitForCalls(int calls) {
    std::unique_lock lock(mutex_);
    return called_.wait_for(lock, kPatience, [&] { return calls_ >= calls; });
  }
  int calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

  std::function<void()> on_wake;  // set before the waiter is added

 private:
  const std::chrono::milliseconds again_after_;
  std::mutex mutex_;
  std::condition_variable called_;
  int calls_ = 0;
};

TEST(FanOutTest, CallsAWaiterOnceItIsAdded) {
  FanOut fan_out;
  const auto waiter = std::make_shared<CountingWaiter>();
  fan_out.Add(waiter);
  EXPECT_TRUE(waiter->WaitForCalls(1));
}

TEST(FanOutTest, CallsEachWaiterAfterASignal) {
  FanOut fan_out;
  const auto one = std::make_shared<CountingWaiter>();
  const auto other = std::make_shared<CountingWaiter>();
  fan_out.Add(one);
  fan_out.Add(other);
  const int one_before = one->calls();
  const int other_before = other->calls();
  fan_out.Signal();
  EXPECT_TRUE(one->WaitForCalls(one_before + 1));
  EXPECT_TRUE(other->WaitForCalls(other_before + 1));
}

// A signal during the walk may come from news that the walk has passed already.
TEST(FanOutTest, WalksAgainForASignalDuringTheWalk) {
  FanOut fan_out;
  const auto waiter = std::make_shared<CountingWaiter>();
  waiter->on_wake = [&] { fan_out.Signal(); };
  fan_out.Add(waiter);
  // The longest nap alone would take 50 s for as many.
  EXPECT_TRUE(waiter->WaitForCalls(100));
}

TEST(FanOutTest, LosesNoSignalHoweverTheyFall) {
  FanOut fan_out;
  const auto waiter = std::make_shared<CountingWaiter>();
  std::atomic<int> news = 0;
  std::atomic<int> seen = 0;
  waiter->on_wake = [&] { seen = news.load(); };
  fan_out.Add(waiter);
  for (int i = 1; i <= 2000; ++i) {
    news = i;
    fan_out.Signal();
    const auto deadline = SteadyClock::now() + kPatience;
    while (seen < i && SteadyClock::now() < deadline) std::this_thread::yield();
    ASSERT_GE(seen, i);
  }
}

TEST(FanOutTest, CallsAWaiterAtTheTimeItAskedFor) {
  FanOut fan_out;
  const auto soon = std::make_shared<CountingWaiter>(std::chrono::milliseconds(1));
  const auto late = std::make_shared<CountingWaiter>();
  fan_out.Add(late);
  fan_out.Add(soon);
  // Far more often than the longest nap alone would give in the same time.
  EXPECT_TRUE(soon->WaitForCalls(100));
}

TEST(FanOutTest, CallsAWaiterAfterTheLongestNapThoughItAskedForLater) {
  FanOut fan_out;
  const auto waiter = std::make_shared<CountingWaiter>(std::chrono::hours(1));
  fan_out.Add(waiter);
  EXPECT_TRUE(waiter->WaitForCalls(3));
}

TEST(FanOutTest, ForgetsAWaiterThatWasRemoved) {
  FanOut fan_out;
  const auto stays = std::make_shared<CountingWaiter>();
  auto leaves = std::make_shared<CountingWaiter>();
  fan_out.Add(stays);
  fan_out.Add(leaves);
  ASSERT_TRUE(leaves->WaitForCalls(1));
  fan_out.Remove(leaves.get());
  EXPECT_EQ(fan_out.waiters().size(), 1u);

  // The walk that had begun may still call it; the ones after that do not.
  const int before = stays->calls();
  fan_out.Signal();
  ASSERT_TRUE(stays->WaitForCalls(before + 2));
  const int calls = leaves->calls();
  fan_out.Signal();
  ASSERT_TRUE(stays->WaitForCalls(before + 4));
  EXPECT_EQ(leaves->calls(), calls);

  const std::weak_ptr<CountingWaiter> gone = leaves;
  leaves.reset();
  EXPECT_TRUE(gone.expired());
}

TEST(FanOutTest, TakesAWaiterThatRemovesItselfWhileItIsCalled) {
  FanOut fan_out;
  const auto waiter = std::make_shared<CountingWaiter>();
  waiter->on_wake = [&] { fan_out.Remove(waiter.get()); };
  fan_out.Add(waiter);
  EXPECT_TRUE(waiter->WaitForCalls(1));
  EXPECT_TRUE(fan_out.waiters().empty());
}

TEST(FanOutTest, CallsNobodyAfterStop) {
  FanOut fan_out;
  const auto waiter = std::make_shared<CountingWaiter>(std::chrono::milliseconds(0));
  fan_out.Add(waiter);
  ASSERT_TRUE(waiter->WaitForCalls(1));
  fan_out.Stop();
  const int calls = waiter->calls();
  fan_out.Signal();
  fan_out.Stop();
  EXPECT_EQ(waiter->calls(), calls);
}

}  // namespace
}  // namespace shardd::server
