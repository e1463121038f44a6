#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/backoff.h"
#include "common/clock.h"
#include "events/state.h"
#include "gateway/shard_info.h"
#include "server/overlap.h"
#include "server/rescale_plan.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// What a rescale is done with: the real one (rescale_parts.h) has the shards, the overlap of their
// streams and the log behind it; tests have their own. Called by one thread at a time.
class RescaleParts {
 public:
  virtual ~RescaleParts() = default;

  virtual RescaleFacts Facts() const = 0;
  virtual uint64_t Generation() const = 0;  // the one in charge
  // Whether another count can take over at all.
  virtual absl::Status Check() const = 0;
  // Begins the overlap and starts all shards of the new generation. A failure leaves everything as
  // it was.
  virtual absl::Status Begin(uint32_t from, uint32_t to) = 0;
  virtual std::vector<gateway::ShardInfo> Shards(uint32_t shard_count) const = 0;
  // Asks the shards of both counts for a proof that they are fresh.
  virtual void Beat(uint32_t from, uint32_t to) = 0;
  virtual Overlap::Progress Tick(SteadyTime now) = 0;
  // The new generation takes over, and `change` and the event stand in the log with that. `data` is
  // told which generation it is. False: not at this moment.
  virtual bool Switch(SteadyTime now, const events::RescaleChanged& change,
                      const std::function<std::string(uint64_t generation)>& data) = 0;
  virtual bool HasDrained() const = 0;
  // Sends on what the old generation's sessions held. True: all of it has gone.
  virtual bool SendOn() = 0;
  // Before Switch(): the new generation's shards end, and the old one goes on as it was.
  virtual void RollBack(uint32_t to) = 0;
  // After Switch(): the old generation's shards end.
  virtual void Retire(uint32_t from) = 0;
  // Writes the change into the log, and behind it, unless `data` is empty, a SHARDD_RESCALE.
  virtual void Write(const events::RescaleChanged& change, const std::string& data) = 0;
};

struct RescalerOptions {
  uint32_t guilds_per_shard = 0;               // --guilds-per-shard; 0: as Discord recommends
  std::chrono::milliseconds drain{5'000};      // --rescale-drain
  std::chrono::milliseconds timeout{600'000};  // --rescale-timeout
  // Beyond `drain`, for what may still come over the old sessions.
  std::chrono::milliseconds longest_wait{30'000};
  std::chrono::milliseconds beat{2'000};
  // Before a target that has failed is tried again.
  BackoffOptions retry{.first = std::chrono::milliseconds(60'000),
                       .longest = std::chrono::milliseconds(3'600'000)};
  RescalePlanOptions plan{};
  const Clock* clock = nullptr;  // required; outlives the rescaler
  // Between two looks; 0: only Tick() has one, as in tests.
  std::chrono::milliseconds tick{20};
};

// Changes the shard count: one rescale at a time, from its acceptance to its end, on a thread of
// its own that looks every few milliseconds while one is under way. What an RPC asks for is decided
// within its call, which may wait for the pool's workers but never for the rescale itself.
// Thread-safe.
//
//   PLANNED ▶ IDENTIFYING ▶ ALIGNING ▶ SWITCHED ▶ DONE
//      └───────────┴───────────┴▶ CANCELLED or FAILED: the old generation goes on as it was
//
// The record of the switch in the log decides what the next process goes on with.
class Rescaler {
 public:
  // `on_change` is called after each change of the state; must not block. `parts` outlives it.
  Rescaler(RescalerOptions options, RescaleParts& parts, std::function<void()> on_change);
  ~Rescaler();  // Stop()

  // How the rescale of an earlier process has ended, if it was under way when that ended. REQUIRES:
  // before all else.
  void Resume(const std::optional<events::RescaleRecord>& left);

  // The RPCs of these names.
  absl::StatusOr<v1::RescaleStatus> Rescale(const v1::RescaleRequest& request);
  absl::StatusOr<v1::RescaleStatus> Cancel();
  // For Stats and Watch. Waits for nothing.
  v1::RescaleStatus status() const;

  // The server stops: what is under way ends, rolled back before the switch, done behind it.
  // Nothing begins any more. REQUIRES: the pool still runs. Idempotent.
  void Stop();

  // Does what is due.
  void Tick();

 private:
  bool is_under_way() const;  // REQUIRES work_mutex_
  bool is_before_switch() const;
  v1::RescaleStatus Planned(const RescaleFacts& facts, uint32_t to) const;
  absl::StatusOr<uint32_t> Target(const v1::RescaleRequest& request,
                                  const RescaleFacts& facts) const;
  bool AwaitsRetry(uint32_t to) const;
  void TickBeforeSwitch(SteadyTime now);
  void TickAfterSwitch(SteadyTime now);
  void Align(const Overlap::Progress& progress, SteadyTime now);
  std::optional<std::string> WhyFailed(const Overlap::Progress& progress) const;
  void End(v1::RescaleState state, const std::string& reason);
  void SetState(v1::RescaleState state, const std::string& reason);
  void Publish();
  events::RescaleChanged Change(v1::RescaleState state, const std::string& reason) const;
  std::string EventData(v1::RescaleState state, const std::string& reason,
                        uint64_t generation) const;
  void Loop(const std::stop_token& stop);

  const RescalerOptions options_;
  RescaleParts& parts_;
  const std::function<void()> on_change_;

  // Held by whoever moves the rescale on; taken before mutex_, and not by those who only ask.
  std::mutex work_mutex_;
  std::condition_variable_any work_;
  v1::RescaleStatus now_;     // the rescale under way, or the last one
  bool is_carrying_ = false;  // SendOn() has not said yet that all has gone
  bool is_stopped_ = false;
  std::vector<gateway::ShardInfo> incoming_;  // as the last look found them
  SteadyTime next_beat_;
  SteadyTime aligning_since_;
  SteadyTime switched_at_;
  Backoff retry_;
  uint32_t retry_target_ = 0;  // what has failed; 0: nothing that is waited for
  SteadyTime retry_at_;

  mutable std::mutex mutex_;
  v1::RescaleStatus published_;

  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace shardd::server
