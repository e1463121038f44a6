#include "events/snapshot_follower.h"

#include <algorithm>

namespace shardd::events {
namespace {

constexpr std::chrono::milliseconds kLongestNap{100};
constexpr std::chrono::milliseconds kShortestNap{1};
// Without a signal: what a full disk has refused is tried again, and what a reader has found
// damaged is left out.
constexpr std::chrono::seconds kLongestIdle{1};
// Of the kept events: when more have come during a nap, the next one is shorter.
constexpr uint64_t kMostOfLog = 16;

}  // namespace

SnapshotFollower::SnapshotFollower(Snapshots& snapshots, const Log& log)
    : snapshots_(snapshots), log_(log), thread_([this] { Run(); }) {}

SnapshotFollower::~SnapshotFollower() { Stop(); }

void SnapshotFollower::Signal() {
  if (signalled_.exchange(true, std::memory_order_acq_rel)) return;
  // The empty critical section keeps the signal from falling between the thread's check and its
  // wait.
  { const std::lock_guard lock(mutex_); }
  wake_.notify_one();
}

void SnapshotFollower::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (!thread_.joinable()) return;
  thread_.join();
  snapshots_.CatchUp();
}

void SnapshotFollower::Run() {
  std::chrono::milliseconds nap = kLongestNap;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_.wait_for(lock, kLongestIdle, [this] { return stopping_ || signalled_.load(); });
    if (stopping_) break;
    signalled_.exchange(false, std::memory_order_acq_rel);
    lock.unlock();
    const uint64_t before = snapshots_.position();
    snapshots_.CatchUp();
    // Counted: behind a lost tail the offsets jump.
    const uint64_t left = log_.CountFrom(snapshots_.position());
    const uint64_t behind = log_.CountFrom(before);
    const uint64_t passed = behind - std::min(left, behind);
    const uint64_t kept = log_.CountFrom(log_.oldest());
    nap = passed > kept / kMostOfLog ? std::max(nap / 2, kShortestNap)
                                     : std::min(nap * 2, kLongestNap);
    lock.lock();
    wake_.wait_for(lock, nap, [this] { return stopping_; });
  }
}

}  // namespace shardd::events
