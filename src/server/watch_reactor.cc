#include "server/watch_reactor.h"

#include "server/rpc_error.h"

namespace shardd::server {

WatchReactor::WatchReactor(grpc::CallbackServerContext& context, const StatsSource& stats,
                           const ShardBoard& board, FanOut& fan_out,
                           std::chrono::nanoseconds interval, std::vector<uint32_t> shard_ids,
                           uint32_t shard_count, std::function<void()> on_done)
    : context_(context),
      stats_(stats),
      board_(board),
      fan_out_(fan_out),
      interval_(interval),
      shard_ids_(std::move(shard_ids)),
      shard_count_(shard_count),
      on_done_(std::move(on_done)) {}

void WatchReactor::Start() {
  self_ = shared_from_this();
  StartSendInitialMetadata();
  {
    const std::lock_guard lock(mutex_);
    PumpLocked(SteadyClock::now());
  }
  fan_out_.Add(self_);
}

SteadyTime WatchReactor::OnWake(SteadyTime now) {
  const std::lock_guard lock(mutex_);
  return PumpLocked(now);
}

SteadyTime WatchReactor::PumpLocked(SteadyTime now) {
  if (finished_ || write_in_flight_) return SteadyTime::max();
  if (stopping_) {
    FinishLocked(Error(absl::StatusCode::kUnavailable, reason::kServerStopping,
                       "the server stops: call Watch again when it is back"));
    return SteadyTime::max();
  }
  // Before the statistics are read: a change in between is written once more.
  const uint64_t version = board_.version();
  if (last_written_.has_value()) {
    const auto pause = version != version_written_ ? kShortestInterval : interval_;
    const SteadyTime due = *last_written_ + pause;
    if (now < due) return due;
  }
  auto stats = stats_.Get(shard_ids_, shard_count_);
  if (!stats.ok()) {
    FinishLocked(stats.status());
    return SteadyTime::max();
  }
  last_written_ = now;
  version_written_ = version;
  message_ = *std::move(stats);
  write_in_flight_ = true;
  StartWrite(&message_);
  return SteadyTime::max();
}

void WatchReactor::FinishLocked(const absl::Status& status) {
  finished_ = true;
  Finish(ToGrpc(status, context_));
}

void WatchReactor::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    write_in_flight_ = false;
    if (finished_) return;
    if (!ok || cancelled_) {
      FinishLocked(absl::CancelledError("the client has gone"));
      return;
    }
  }
  // The fan-out thread looks again, and learns the next deadline.
  fan_out_.Signal();
}

void WatchReactor::BeginStop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  fan_out_.Signal();
}

void WatchReactor::OnCancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (!finished_ && !write_in_flight_) FinishLocked(absl::CancelledError("the client has gone"));
}

void WatchReactor::OnDone() {
  fan_out_.Remove(this);
  on_done_();
  const std::shared_ptr<WatchReactor> last = std::move(self_);
}

}  // namespace shardd::server
