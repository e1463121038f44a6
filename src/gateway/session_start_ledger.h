#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"

namespace shardd::gateway {

// What /gateway/bot said of Discord's session start limit, and how much of it is believed.
struct SessionLimits {
  uint32_t total = 0;            // starts a day; 0: not known
  uint32_t remaining = 0;        // that were left when Discord was asked
  uint32_t max_concurrency = 1;  // never 0
  SteadyTime asked_at;           // when the request was sent
  SteadyTime renews_at;          // when Discord grants `total` anew
  // False: nothing of the day had been used, so that it had not begun, and renews_at is when all
  // that was said is past.
  bool day_had_begun = true;
  // Until `rise_from`, when the day of an earlier answer ends, no more than this is believed to
  // have been left: what that answer left.
  uint32_t believed = 0;
  SteadyTime rise_from;
};

// What must outlive the process so that no sequence of crashes overspends the session start limit.
// The identify gate calls it under its lock, from any thread. Times are the steady clock's; what an
// earlier process wrote comes back as it would stand on this one's clock, and rather too young than
// too old.
class SessionStartLedger {
 public:
  struct Contents {
    // False: starts may be missing, so that only Discord knows what is left.
    bool complete = true;
    std::optional<SessionLimits> limits;
    // Starts of the last day and a little more, oldest first. Those that were written after the
    // limits were asked for are no older than these.
    std::vector<SteadyTime> starts;
  };

  virtual ~SessionStartLedger() = default;

  virtual Contents Load(SteadyTime now) = 0;
  // What is written when this returns survives the process.
  virtual absl::Status WriteStart(uint32_t shard_id, SteadyTime now) = 0;
  // `starts_since`: of the starts written so far, the newest that count against `limits`.
  virtual absl::Status WriteLimits(const SessionLimits& limits, uint64_t starts_since,
                                   SteadyTime now) = 0;
};

}  // namespace shardd::gateway
