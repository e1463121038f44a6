#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/clock.h"

namespace shardd::server {

// Something that waits for news: an open stream, the health status.
class Waiter {
 public:
  virtual ~Waiter() = default;

  // News may be there, or the time that the last call asked for has come. Returns when to be called
  // at the latest. Called on the fan-out thread alone; may write to a stream, and must not block
  // otherwise.
  virtual SteadyTime OnWake(SteadyTime now) = 0;
};

// One thread that wakes all waiters. Whoever has news calls Signal, which costs one atomic exchange
// while a wake-up is already on its way; so a burst of appends becomes one walk over the streams,
// and no ingest thread ever writes to one. Thread-safe.
class FanOut {
 public:
  FanOut();
  ~FanOut();  // Stop()

  void Add(std::shared_ptr<Waiter> waiter);
  // The waiter may still be called once, by a walk that has begun.
  void Remove(const Waiter* waiter);
  std::vector<std::shared_ptr<Waiter>> waiters() const;

  void Signal();
  void Stop();

  // Nobody waits longer than this for a call, so a waiter may let a deadline slip by as much rather
  // than signal.
  static constexpr std::chrono::milliseconds kLongestNap{500};

 private:
  using Waiters = std::vector<std::shared_ptr<Waiter>>;

  void Run();

  std::atomic<bool> signalled_ = false;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Replaced, never changed, so that a walk goes on over the one it has begun with.
  std::shared_ptr<const Waiters> waiters_ = std::make_shared<Waiters>();
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shardd::server
