#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "events/snapshots.h"

namespace shardd::events {

// The thread that keeps the snapshots near the log's end: while events come, ten times a second,
// and more often when that lets too much of the log pass. Thread-safe.
class SnapshotFollower {
 public:
  // Both outlive this.
  SnapshotFollower(Snapshots& snapshots, const Log& log);
  ~SnapshotFollower();  // Stop()

  // The log has got events. Costs one atomic exchange while the thread has not caught up.
  void Signal();
  // Catches up a last time. Idempotent.
  void Stop();

 private:
  void Run();

  Snapshots& snapshots_;
  const Log& log_;
  std::atomic<bool> signalled_ = true;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shardd::events
