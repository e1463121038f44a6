#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "events/consumers.h"
#include "events/log.h"
#include "server/fan_out.h"

namespace shardd::server {

// Watches how fast the log grows and who is about to be overtaken by its oldest end: such a reader
// is warned about in the server's log before it loses anything, once until it has caught up, and
// again when it has lost something. Streams without a name are watched by their position, named
// consumers by their kept cursor, connected or not.
//
// OnWake on the fan-out thread; the rest is thread-safe.
class RetentionWatch final : public Waiter {
 public:
  RetentionWatch(const events::Log& log, events::Consumers& consumers, const FanOut& fan_out);

  SteadyTime OnWake(SteadyTime now) override;

  // How long an event is kept at the rate of the last kWindow; none while nothing comes.
  std::optional<std::chrono::nanoseconds> RetentionAtPresentRate() const;

  static constexpr std::chrono::seconds kInterval{1};
  static constexpr std::chrono::seconds kWindow{60};
  // A reader is near the end of what is kept when no more than this share of it is left to it...
  static constexpr uint64_t kNearShare = 8;
  // ...or this time, and it is behind by more than half of what is kept.
  static constexpr std::chrono::seconds kNearTime{30};

 private:
  struct Reader {
    uint64_t room = UINT64_MAX;  // when it was last looked at
    bool warned = false;
    bool lost = false;
    uint64_t look = 0;  // the last one that has met it
  };

  void Measure(SteadyTime now);
  // `consumer`: empty for a stream without a name.
  void Check(const std::string& key, const std::string& consumer, const std::string& peer,
             uint64_t position);
  double BytesPerSecond() const;

  const events::Log& log_;
  events::Consumers& consumers_;
  const FanOut& fan_out_;

  SteadyTime next_look_ = SteadyTime::min();
  // By consumer or stream. As many as there are streams and consumers.
  std::map<std::string, Reader> readers_;
  uint64_t looks_ = 0;

  struct Sample {
    SteadyTime at;
    uint64_t appended_bytes;
  };
  mutable std::mutex mutex_;
  std::deque<Sample> samples_;  // one an interval, over kWindow
};

}  // namespace shardd::server
