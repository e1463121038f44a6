#include "gateway/reconnect_pace.h"

#include <utility>

namespace shardd::gateway {

using std::chrono::milliseconds;

ReconnectPace::ReconnectPace(const ShardTimings& timings, uint64_t seed)
    : timings_(timings),
      random_(seed),
      failed_(timings.retry, random_()),
      unstable_(timings.unstable, random_()) {}

milliseconds ReconnectPace::AfterReady(std::chrono::nanoseconds lasted) {
  const bool stable = lasted >= timings_.stable_after;
  if (stable) unstable_.Reset();
  const bool ended_soon_before = std::exchange(ended_soon_, !stable);
  return !stable && ended_soon_before ? unstable_.Next() : milliseconds(0);
}

milliseconds ReconnectPace::For(Pause pause) {
  switch (pause) {
    case Pause::kNone:
      break;
    case Pause::kInvalidSession: {
      std::uniform_int_distribution<int64_t> range(timings_.invalid_session_pause_min.count(),
                                                   timings_.invalid_session_pause_max.count());
      return milliseconds(range(random_));
    }
    case Pause::kSendWindow:
      return timings_.send_window;
  }
  return milliseconds(0);
}

void ReconnectPace::Reset() {
  failed_.Reset();
  unstable_.Reset();
  ended_soon_ = false;
}

}  // namespace shardd::gateway
