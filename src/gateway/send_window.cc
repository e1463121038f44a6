#include "gateway/send_window.h"

#include <algorithm>

namespace shardd::gateway {

void SendWindow::Record(SteadyTime now) {
  times_.push_back(now);
  if (times_.size() > capacity_) times_.pop_front();
}

SteadyTime SendWindow::FreeAt(size_t limit, SteadyTime now, size_t ahead) const {
  // It takes the place of the one that went out `limit` before it: one of times_, or one of those
  // ahead, whose own time is found in the same way.
  std::chrono::milliseconds later{0};
  while (ahead >= limit) {
    ahead -= limit;
    later += period_;
  }
  const size_t back = limit - ahead;  // of the newest
  if (back > times_.size()) return now + later;
  return std::max(now, times_[times_.size() - back] + period_) + later;
}

}  // namespace shardd::gateway
