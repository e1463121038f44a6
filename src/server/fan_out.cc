#include "server/fan_out.h"

#include <algorithm>

namespace shardd::server {

FanOut::FanOut() : thread_([this] { Run(); }) {}

FanOut::~FanOut() { Stop(); }

void FanOut::Add(std::shared_ptr<Waiter> waiter) {
  {
    const std::lock_guard lock(mutex_);
    auto waiters = std::make_shared<Waiters>(*waiters_);
    waiters->push_back(std::move(waiter));
    waiters_ = std::move(waiters);
  }
  Signal();
}

void FanOut::Remove(const Waiter* waiter) {
  const std::lock_guard lock(mutex_);
  auto waiters = std::make_shared<Waiters>(*waiters_);
  std::erase_if(*waiters, [&](const auto& held) { return held.get() == waiter; });
  waiters_ = std::move(waiters);
}

std::vector<std::shared_ptr<Waiter>> FanOut::waiters() const {
  const std::lock_guard lock(mutex_);
  return *waiters_;
}

void FanOut::Signal() {
  if (signalled_.exchange(true, std::memory_order_acq_rel)) return;
  // The empty critical section keeps the signal from falling between the thread's check and its
  // wait.
  { const std::lock_guard lock(mutex_); }
  wake_.notify_one();
}

void FanOut::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void FanOut::Run() {
  SteadyTime deadline = SteadyTime::max();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const SteadyTime until = std::min(deadline, SteadyClock::now() + kLongestNap);
    wake_.wait_until(lock, until, [this] { return stopping_ || signalled_.load(); });
    // Before the walk: what is signalled during it is walked for again. An exchange, not a store:
    // whoever has found the flag set goes away, so the walk must see what was there before.
    signalled_.exchange(false, std::memory_order_acq_rel);
    const std::shared_ptr<const Waiters> waiters = waiters_;
    lock.unlock();
    deadline = SteadyTime::max();
    const SteadyTime now = SteadyClock::now();
    for (const auto& waiter : *waiters) deadline = std::min(deadline, waiter->OnWake(now));
    lock.lock();
  }
}

}  // namespace shardd::server
