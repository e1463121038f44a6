#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/shard_id.h"
#include "events/log.h"
#include "gateway/event_sink.h"

namespace shardd::server {

// A round that grows beyond this goes into the log before the worker's round ends, as in a storm of
// GUILD_CREATEs.
inline constexpr size_t kMaxRoundBytes = size_t{256} << 10;

struct OverlapOptions {
  // Of events that wait for the switch, in memory. When it is full the rescale fails, and what
  // waits is dropped: the old generation brings it.
  uint64_t max_held_bytes = uint64_t{64} << 20;
  // events::MaxExpectedCopies() and events::LargestTransaction() of the log. While the switch would
  // take more it is put off.
  size_t max_expected_copies = events::kMostExpectedCopies;
  uint64_t max_transaction_bytes = uint64_t{64} << 20;
  // How long one side may be behind the other without being believed to have lost an event.
  std::chrono::milliseconds lag{5000};
  // The same for interactions, which are void after 3 s.
  std::chrono::milliseconds interaction_lag{2200};
  // Share of events that may stay without a partner over the last minute.
  double max_unmatched_share = 0.001;
  // The generation that the log knows is discarded (--reset-generation): nothing that it was to
  // bring will come.
  bool forgets_copies = false;
  const Clock* clock = nullptr;  // outlives it; nullptr: the real one
};

// Two generations of shards at once: one is in charge, and its events go into the log as they come;
// the other's are held and matched with them, guild by guild (rescale/alignment.h). Until Begin()
// and after Finish() or Cancel() it does nothing, and sinks go past it; but for copies that the log
// says are still expected, which it drops as they come.
//
// Thread-safe; everything happens under one lock, in which it also appends to the log: the order in
// which sinks call it is the order of the log.
class Overlap {
 public:
  // Expects the copies that an earlier process has left, of the generation in charge.
  Overlap(events::Log& log, OverlapOptions options);
  ~Overlap();
  Overlap(const Overlap&) = delete;
  Overlap& operator=(const Overlap&) = delete;

  // ---- For the sinks, on their workers ----

  // Whether what the shards say goes through here.
  bool is_active() const { return active_.load(std::memory_order_acquire); }
  // As EventSink's. False: no longer active, nothing was done.
  bool OnSessionOpened(const events::SessionOpened& opened);
  bool OnSessionEnded(ShardId shard, uint32_t session);
  bool OnDispatch(const gateway::Dispatch& dispatch);
  bool OnSessionLost(const gateway::LostSession& lost, std::string_view event_data);
  bool OnSkippedEvent(const gateway::SkippedEvent& skipped, std::string_view event_data);
  bool OnStateChange(const gateway::ShardInfo& shard, std::string_view event_data);
  bool OnOwnEvent(ShardId shard, uint32_t session, std::string_view type,
                  std::string_view event_data);
  void OnHeartbeatAck(ShardId shard, SteadyTime sent);
  bool Flush();

  // ---- For the rescaler, on one thread ----

  // From here on both generations' events come here. REQUIRES: no overlap is under way.
  // `old_shards`: as they are.
  void Begin(uint32_t from_shard_count, uint32_t to_shard_count,
             std::span<const gateway::ShardInfo> old_shards);

  struct Progress {
    uint32_t guilds = 0;
    uint32_t guilds_aligned = 0;
    uint64_t held_events = 0;
    uint64_t held_bytes = 0;
    uint64_t matched = 0;        // events that came over both
    uint64_t unmatched = 0;      // that came over one alone, of guilds that were aligned
    double unmatched_share = 0;  // over the last minute
    // These stay 0 unless something is wrong.
    uint64_t expired = 0;    // held events that went in by themselves: the other side lacks them
    uint64_t reordered = 0;  // of these, behind a later event of their guild
    uint64_t doubled = 0;    // that the log has twice
    uint64_t lost = 0;       // that it does not have
    std::string waits_for;   // why it would not switch now, in words; empty: it would
    // The overlap cannot go on: a bound was hit. Cancel() it.
    std::optional<std::string> failure;
  };
  // Does what time demands, and says how things are. At least every 50 ms while active.
  Progress Tick(SteadyTime now);

  // The new generation takes over, in one append: these changes, the event that says so, all that
  // was held. False: it was not to be done at this moment; nothing has changed.
  bool Switch(SteadyTime now, std::span<const events::StateChange> changes,
              std::string_view event_data);

  // After Switch(): all that the old side may still have to bring has come or will not come.
  bool HasDrained() const;
  // Before Switch(): what was held is dropped, the old generation goes on alone, and what the new
  // one's shards still say is ignored.
  void Cancel();
  // After Switch() or Cancel(): the shards of the other generation have been stopped, and say
  // nothing any more.
  void Finish();

 private:
  class Core;
  template <class Work>
  bool Locked(Work work);

  std::atomic<bool> active_ = false;
  mutable std::mutex mutex_;
  const std::unique_ptr<Core> core_;
};

}  // namespace shardd::server
