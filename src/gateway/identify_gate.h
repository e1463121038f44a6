#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "common/clock.h"

namespace shardd::gateway {

// Decides when a shard may send IDENTIFY:
// https://discord.com/developers/docs/events/gateway#rate-limiting. Discord admits one per bucket
// (shard id % max_concurrency) in five seconds and answers an early one by op 9; and it grants a
// number of session starts a day, one more than which resets the token. So all shards of a bot
// share one gate. RESUME does not pass here.
//
// A shard enters and waits until it is first in its bucket. It then connects, sends IDENTIFY no
// earlier than it was told, and says Identified(), which lets the next one in; or it says Leave().
// Arrival order within a bucket is kept. Nobody is admitted while no session start is left.
//
// Thread-safe. Time comes in as `now`; nothing here waits.
class IdentifyGate {
 public:
  // A place in a bucket. 0 is none.
  using Ticket = uint64_t;
  // Called once, without a lock held, on the thread whose call let the shard in: within Enter(), or
  // later within another's call. `not_before`: the earliest time for its IDENTIFY.
  using Admit = std::function<void(SteadyTime not_before)>;

  explicit IdentifyGate(std::chrono::milliseconds window);

  // What /gateway/bot says, read at `read_at`; starts that were spent after that are taken off.
  void SetLimits(uint32_t max_concurrency, uint32_t total, uint32_t remaining,
                 std::chrono::milliseconds reset_after, SteadyTime read_at, SteadyTime now);

  Ticket Enter(uint32_t shard_id, Admit admit, SteadyTime now);
  // Gives up a place, first in the bucket or not. A ticket that is no longer in the gate is
  // ignored.
  void Leave(Ticket ticket, SteadyTime now);
  // The holder of `ticket`, which was admitted, sends its IDENTIFY now.
  void Identified(Ticket ticket, SteadyTime now);

  // Discord grants all starts anew at the time that /gateway/bot named. To be called now and then
  // while shards wait.
  void Tick(SteadyTime now);

  // Starts that Discord still grants.
  uint32_t remaining(SteadyTime now) const;
  // Shards in the gate: each has an IDENTIFY still to send.
  size_t waiting() const;

 private:
  struct Place {
    Ticket ticket;
    uint32_t shard_id;
    Admit admit;
    bool admitted = false;
  };
  struct Bucket {
    std::deque<Place> places;
    std::optional<SteadyTime> last_identify;
  };
  // Callbacks that are due once the lock is released.
  using Due = std::vector<std::pair<Admit, SteadyTime>>;

  void AdmitLocked(Bucket& bucket, Due* due, SteadyTime now);
  void AdmitAllLocked(Due* due, SteadyTime now);
  void RefillLocked(SteadyTime now);
  void RegroupLocked(uint32_t max_concurrency);
  Bucket& BucketLocked(uint32_t shard_id);
  static void Call(Due due);

  const std::chrono::milliseconds window_;
  mutable std::mutex mutex_;
  uint32_t max_concurrency_ = 1;
  uint32_t total_ = 0;
  uint32_t remaining_ = 0;
  uint32_t admitted_ = 0;  // of the remaining starts, those that admitted shards will spend
  std::optional<SteadyTime> resets_at_;
  std::optional<SteadyTime> last_before_regroup_;
  Ticket last_ticket_ = 0;
  std::map<uint32_t, Bucket> buckets_;  // those that were ever entered
  std::map<Ticket, uint32_t> bucket_of_;
  std::deque<SteadyTime> spent_;
};

}  // namespace shardd::gateway
