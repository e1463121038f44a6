#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "gateway/session_start_ledger.h"

namespace shardd::gateway {

// How many session starts are kept back for shards that have lost their session:
// --identify-reserve.
struct IdentifyReserve {
  uint32_t starts = 0;
  double percent = 0;  // of the total; the larger of both counts

  uint32_t Of(uint32_t total) const;
};

// What Discord still grants, as far as is known.
struct SessionBudget {
  bool known = false;  // false: the rest says nothing
  uint32_t total = 0;  // 0: not known
  uint32_t remaining = 0;
  uint32_t reserve = 0;
  uint32_t max_concurrency = 1;
  std::optional<SteadyTime> renews_at;  // none: not known, or past
};

// Decides when a shard may send IDENTIFY:
// https://discord.com/developers/docs/events/gateway#rate-limiting. Discord admits one per bucket
// (shard id % max_concurrency) in five seconds and answers an early one by op 9; and it grants a
// number of session starts a day, one more than which resets the token. So all shards of a bot
// share one gate. RESUME does not pass here.
//
// A shard enters and waits until it is first in its bucket. It then connects, and asks again by
// Identify() at the moment of sending, which writes the start into the ledger before it grants it;
// or it says Leave(). Arrival order within a bucket is kept, except that who waits for the budget
// does not hold up who need not. Nobody is admitted while no session start is left.
//
// What is left is the least that can be true: what /gateway/bot said less the starts since it was
// asked, and the total less the starts of the day by the ledger. More than that is believed only
// once Discord's day has ended.
//
// Thread-safe. Time comes in as `now`; nothing here waits.
class IdentifyGate {
 public:
  struct Options {
    // One IDENTIFY per bucket in this time.
    std::chrono::milliseconds window{5100};
    IdentifyReserve reserve{};
    // A wave of shards that comes when the limits are older than this has them read again first.
    std::chrono::milliseconds fresh_for{30'000};
    // ... but goes on with what is known when there has been no answer for this long.
    std::chrono::milliseconds refresh_patience{30'000};
    SessionStartLedger* ledger = nullptr;  // none: nothing outlives the process
    const Clock* clock = nullptr;          // for the words; none: they name no time of day
  };
  enum class Purpose {
    kStart,     // an operator or the server's start wants the shard: the reserve is not for it
    kRecovery,  // a running shard has lost its session
  };
  // A place in a bucket. 0 is none.
  using Ticket = uint64_t;
  // Called once, without a lock held, on the thread whose call let the shard in: within Enter(), or
  // later within another's call. `not_before`: the earliest time for its IDENTIFY.
  using Admit = std::function<void(SteadyTime not_before)>;

  IdentifyGate(Options options, SteadyTime now);

  // Asks for SetLimits() or KeepLimits() to be called soon. Called without a lock held, on the
  // thread whose call found the limits too old. An empty one: they cannot be read again.
  void SetRefresh(std::function<void()> refresh);

  // What /gateway/bot says; the request was sent at `asked_at`, the answer came at `read_at`.
  // `reset_after` 0: nothing of the day's starts has been used.
  struct Reading {
    uint32_t max_concurrency = 1;
    uint32_t total = 0;
    uint32_t remaining = 0;
    std::chrono::milliseconds reset_after{0};
    SteadyTime asked_at;
    SteadyTime read_at;
  };
  void SetLimits(const Reading& reading, SteadyTime now);
  // The limits could not be read again: what is known stays.
  void KeepLimits(SteadyTime now);

  Ticket Enter(uint32_t shard_id, Purpose purpose, Admit admit, SteadyTime now);
  // Gives up a place, first in the bucket or not. A ticket that is no longer in the gate is
  // ignored.
  void Leave(Ticket ticket, SteadyTime now);

  struct Verdict {
    enum Kind {
      kGranted,  // written down; the IDENTIFY must follow at once. The ticket has left the gate
      kLater,    // ask again at `not_before`
      kRefused,  // the start is no longer to be had. The ticket has left the gate: enter again
    };
    Kind kind = kRefused;
    SteadyTime not_before;
  };
  // The holder of `ticket`, which was admitted, is about to send its IDENTIFY.
  Verdict Identify(Ticket ticket, SteadyTime now);

  // To be called now and then while shards wait: time alone ends some waits.
  void Tick(SteadyTime now);

  // Why this place waits, where that is not just for its turn; else empty.
  std::string WhyWaiting(Ticket ticket, SteadyTime now) const;

  SessionBudget budget(SteadyTime now) const;
  // Shards in the gate: each has an IDENTIFY still to send.
  size_t waiting() const;

 private:
  struct Place {
    Ticket ticket;
    uint32_t shard_id;
    Purpose purpose;
    Admit admit;
    bool admitted = false;
  };
  struct Bucket {
    std::deque<Place> places;
    std::optional<SteadyTime> last_identify;
  };
  // Callbacks that are due once the lock is released.
  struct Due {
    std::vector<std::pair<Admit, SteadyTime>> admitted;
    std::function<void()> refresh;
  };
  // Starts that must be left over.
  struct Kept {
    uint32_t for_start = 0;
    uint32_t for_recovery = 0;
  };

  void AdmitLocked(Bucket& bucket, Due* due, SteadyTime now);
  void AdmitAllLocked(Due* due, SteadyTime now);
  void AskLocked(Due* due, SteadyTime now);
  bool IsStaleLocked(SteadyTime now) const;
  bool MayAdmitLocked(SteadyTime now) const;
  void RegroupLocked(uint32_t max_concurrency);
  Bucket& BucketLocked(uint32_t shard_id);
  void WriteLimitsLocked(SteadyTime now);
  void WarnLocked(SteadyTime now);

  uint64_t StartsSinceLocked(SteadyTime time) const;
  uint32_t RemainingLocked(SteadyTime now) const;
  bool CoversLocked(Purpose purpose, uint32_t promised, SteadyTime now) const;
  Kept KeptLocked() const;
  bool MustHoldLocked(SteadyTime now) const;
  std::string SpentTextLocked(Purpose purpose, SteadyTime now) const;
  static void Call(Due due);

  const Options options_;
  mutable std::mutex mutex_;
  std::function<void()> refresh_;
  std::optional<SessionLimits> limits_;
  bool starts_are_missing_ = false;  // from the ledger, and Discord has not been read since
  std::optional<SteadyTime> fresh_since_;
  std::optional<SteadyTime> refresh_asked_;  // and not answered yet
  SteadyTime ledger_broken_until_ = SteadyTime::min();
  bool warned_of_reserve_ = false;
  bool warned_of_waiting_ = false;
  uint32_t admitted_ = 0;          // of the remaining starts, those that are promised
  std::deque<SteadyTime> starts_;  // of the last day, in order
  std::optional<SteadyTime> last_before_regroup_;
  Ticket last_ticket_ = 0;
  std::map<uint32_t, Bucket> buckets_;  // those that were ever entered
  std::map<Ticket, uint32_t> bucket_of_;
};

}  // namespace shardd::gateway
