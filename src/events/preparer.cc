#include "events/preparer.h"

#include <pthread.h>
#include <sched.h>

namespace shardd::events {

Preparer::Preparer() : thread_([this] { Run(); }) {}

Preparer::~Preparer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Preparer::Signal(const std::shared_ptr<Segment>& segment) {
  {
    const std::lock_guard lock(mutex_);
    next_ = segment;
  }
  wake_.notify_one();
}

void Preparer::Run() {
  ::pthread_setname_np(::pthread_self(), "shardd-prepare");
  // Its work is a long run of page faults, and the writer that wakes it must not wait for its core.
  const sched_param no_priority{};
  ::pthread_setschedparam(::pthread_self(), SCHED_BATCH, &no_priority);
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || next_ != nullptr; });
    if (stopping_) return;
    const std::shared_ptr<Segment> segment = std::move(next_);
    next_ = nullptr;
    lock.unlock();
    segment->Populate(kAheadBytes);
    lock.lock();
  }
}

}  // namespace shardd::events
