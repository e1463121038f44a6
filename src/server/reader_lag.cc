#include "server/reader_lag.h"

#include <algorithm>

#include "common/clock.h"

namespace shardd::server {

ReaderLag LagBehind(const events::Log& log, uint64_t position) {
  ReaderLag lag = {.events = log.CountFrom(position)};
  if (lag.events == 0) return lag;
  // Not by Log::Look, which checks all of a segment that an earlier process left.
  const int64_t received = log.ReceivedUnixNanos(std::max(position, log.oldest()));
  if (received == 0) return lag;
  const int64_t age = UnixNanos(std::chrono::system_clock::now()) - received;
  lag.time = std::chrono::nanoseconds(std::max<int64_t>(age, 0));
  return lag;
}

}  // namespace shardd::server
