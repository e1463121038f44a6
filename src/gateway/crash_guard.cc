#include "gateway/crash_guard.h"

namespace shardd::gateway {

bool CrashGuard::Die(SteadyTime now) {
  deaths_.push_back(now);
  while (now - deaths_.front() >= options_.window && deaths_.size() > 1) deaths_.pop_front();
  const bool too_many = deaths_.size() >= options_.deaths;
  while (deaths_.size() > options_.deaths) deaths_.pop_front();
  return too_many;
}

}  // namespace shardd::gateway
