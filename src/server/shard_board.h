#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "common/clock.h"
#include "gateway/shard_info.h"

namespace shardd::server {

// The last state of each shard, as the pool's workers report it: tells watchers that something
// changed, and whether the server is ready. Thread-safe.
class ShardBoard {
 public:
  void Update(const gateway::ShardInfo& shard, SteadyTime now);

  // Grows with each change.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }

  // From now on only shards of this count count for readiness: those of the generation in charge,
  // while another one's run beside them.
  void SetInCharge(uint32_t shard_count);
  // Shards of this count have gone.
  void Forget(uint32_t shard_count);
  // Something else that watchers should see has changed.
  void Touch() { version_.fetch_add(1, std::memory_order_acq_rel); }

  // While shards are expected that the pool does not know yet: not ready.
  void SetStarting(bool starting);

  // From now on not ready, though no shard is wanted any more.
  void SetStopping();

  // Empty: every shard that should run is READY, or has been resuming for less than kResumeGrace.
  // Otherwise says which one is not.
  std::string WhyNotReady(SteadyTime now) const;

  static constexpr std::chrono::seconds kResumeGrace{30};

 private:
  struct Entry {
    gateway::ShardState state = gateway::ShardState::kIdle;
    // Since when it is not READY, if all it has done since is to resume.
    SteadyTime resuming_since = SteadyTime::min();
  };

  std::atomic<uint64_t> version_ = 0;
  mutable std::mutex mutex_;
  std::map<ShardId, Entry> shards_;
  uint32_t in_charge_ = 0;  // 0: all counts
  bool starting_ = true;
  bool stopping_ = false;
};

}  // namespace shardd::server
