#include "server/events_reactor.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "events/filtered_read.h"
#include "server/convert.h"
#include "server/reader_lag.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

// How long a stream waits for the snapshot to reach the end that the log had when it was asked for.
constexpr std::chrono::milliseconds kSnapshotPatience{1000};
// How long a stream waits for the snapshot to reach its cursor, which it does in a tenth of a
// second unless the server has just started or the disk refuses...
constexpr std::chrono::seconds kSnapshotWait{5};
// ...how often it looks...
constexpr std::chrono::milliseconds kSnapshotLook{20};
// ...and when a client does well to come back.
constexpr std::chrono::seconds kSnapshotRetryAfter{2};

void ReleasePin(void* pin) { delete static_cast<events::SegmentPin*>(pin); }

v1::GapReason ToProto(events::MissingReason reason) {
  switch (reason) {
    case events::MissingReason::kNotRetained:
      return v1::GAP_REASON_NOT_RETAINED;
    case events::MissingReason::kTruncated:
      return v1::GAP_REASON_LOG_TRUNCATED;
    case events::MissingReason::kDamaged:
      return v1::GAP_REASON_DAMAGED;
  }
  return v1::GAP_REASON_UNSPECIFIED;
}

// The run's bytes for gRPC: where they stand in the log, held there until gRPC has sent them; or a
// copy.
grpc::Slice ToSlice(events::Run run) {
  const std::string_view bytes = run.bytes();
  if (!run.pin) return grpc::Slice(bytes.data(), bytes.size());
  auto pin = std::make_unique<events::SegmentPin>(std::move(run.pin));
  return grpc::Slice(const_cast<char*>(bytes.data()), bytes.size(), &ReleasePin, pin.release());
}

// Clients that come back again and again with cursors of nowhere must not fill the server's log:
// one warning a second, whosever streams they are.
bool IsTimeToWarnOfGap() {
  static std::atomic<SteadyClock::rep> next{SteadyTime::min().time_since_epoch().count()};
  const SteadyTime now = SteadyClock::now();
  SteadyClock::rep due = next.load();
  return now.time_since_epoch().count() >= due &&
         next.compare_exchange_strong(due,
                                      (now + std::chrono::seconds(1)).time_since_epoch().count());
}

absl::Status ServerStops() {
  return Error(absl::StatusCode::kUnavailable, reason::kServerStopping,
               "the server stops: reconnect with the cursor of the last batch");
}

}  // namespace

EventsReactor::EventsReactor(grpc::CallbackServerContext& context, const events::Log& log,
                             FanOut& fan_out, EventsStart start, std::function<void()> on_done)
    : context_(context),
      log_(log),
      fan_out_(fan_out),
      limits_(start.limits),
      max_delay_(start.max_delay),
      filter_(std::move(start.filter)),
      described_filter_(std::move(start.described_filter)),
      consumer_(std::move(start.consumer)),
      consumer_stream_(start.consumer_stream),
      peer_(context.peer()),
      on_done_(std::move(on_done)),
      position_(start.position),
      gap_(std::move(start.gap)),
      snapshots_(start.snapshots),
      snapshot_(std::move(start.snapshot)),
      at_end_(start.at_end),
      snapshot_reach_(log.end()),
      snapshot_patience_(SteadyClock::now() + kSnapshotPatience),
      snapshot_deadline_(SteadyClock::now() + kSnapshotWait),
      collected_(events::BeginRun(position_)) {}

void EventsReactor::Start() {
  self_ = shared_from_this();
  // Explicitly, and before the first message: a client learns at once that the stream stands.
  StartSendInitialMetadata();
  {
    const std::lock_guard lock(mutex_);
    PumpLocked(SteadyClock::now());
  }
  fan_out_.Add(self_);
}

SteadyTime EventsReactor::OnWake(SteadyTime now) {
  const std::lock_guard lock(mutex_);
  return PumpLocked(now);
}

SteadyTime EventsReactor::PumpLocked(SteadyTime now) {
  if (finished_) return SteadyTime::max();
  if (write_in_flight_) {
    // Events wait from their arrival on, not from when the message before them is taken.
    if (!batch_deadline_.has_value() && log_.end() > position_) batch_deadline_ = now + max_delay_;
    return SteadyTime::max();
  }
  if (yields_) {
    FinishLocked(Error(absl::StatusCode::kAborted, reason::kConsumerTakenOver,
                       absl::StrCat("a newer stream of the consumer '", consumer_->name,
                                    "' has taken over: give each reader a name or a partition of "
                                    "its own")));
    return SteadyTime::max();
  }
  if (snapshot_ != nullptr) {
    if (!ReachesPositionLocked(now)) {
      return finished_ ? SteadyTime::max() : now + kSnapshotLook;
    }
    WriteSnapshotLocked(now);
    if (snapshot_ != nullptr && !write_in_flight_ && !finished_) return now + kSnapshotLook;
  }
  if (write_in_flight_ || finished_) return SteadyTime::max();
  events::Run run = ReadLocked();
  // The rest of a log that is walked in turns.
  const bool has_more = filter_.has_value() && !run.full && run.next < log_.end();
  if (stopping_ && run.count == 0 && !run.missing.has_value() && !has_more) {
    FinishLocked(ServerStops());
    return SteadyTime::max();
  }
  if (IsDueLocked(run, now)) {
    WriteLocked(std::move(run), now);
    return SteadyTime::max();
  }
  const SteadyTime deadline = run.count > 0 ? *batch_deadline_ : progress_deadline_;
  if (filter_.has_value()) collected_ = std::move(run);
  // Behind the other streams' turns.
  if (has_more) fan_out_.Signal();
  return deadline;
}

events::Run EventsReactor::ReadLocked() {
  if (!filter_.has_value()) return log_.Read(position_, limits_);
  events::Run run = std::move(collected_);
  for (;;) {
    if (!run.full) events::ReadFiltered(log_, *filter_, limits_, &run);
    if (run.count > 0 || run.missing.has_value()) return run;
    // Nobody waits for what does not match.
    skipped_ += run.next - position_;
    position_ = run.next;
    const bool was_full = run.full;
    run = events::BeginRun(position_);
    // What is missing comes next.
    if (!was_full) return run;
  }
}

bool EventsReactor::IsDueLocked(const events::Run& run, SteadyTime now) {
  if (first_message_ || gap_.has_value() || run.missing.has_value()) return true;
  if (run.count == 0) {
    // That other events came is no reason for a batch that holds none to be early.
    if (filter_.has_value()) batch_deadline_.reset();
    return now >= progress_deadline_ || skipped_ >= kMaxSkipped;
  }
  if (run.full || stopping_) return true;
  if (!batch_deadline_.has_value()) batch_deadline_ = now + max_delay_;
  return now >= *batch_deadline_;
}

void EventsReactor::WriteLocked(events::Run run, SteadyTime now) {
  // Everything of the batch but its events, which stand before it as one run: protobuf takes the
  // fields of a message in any number of pieces.
  v1::EventBatch rest;
  if (gap_.has_value()) {
    *rest.mutable_gap() = *std::move(gap_);
    gap_.reset();
    // Where it goes on now: the log may have moved since the request was looked at.
    rest.mutable_gap()->set_to(events::FormatCursor(log_.CursorAt(run.first)));
  } else if (run.missing.has_value()) {
    v1::Gap& gap = *rest.mutable_gap();
    gap.set_from(events::FormatCursor(log_.CursorAt(position_)));
    gap.set_to(events::FormatCursor(log_.CursorAt(run.first)));
    if (run.missing->events.has_value()) gap.set_lost_events(*run.missing->events);
    gap.set_reason(ToProto(run.missing->reason));
  }
  if (rest.has_gap()) WarnOfGap(rest.gap());
  rest.set_cursor(events::FormatCursor(log_.CursorAt(run.next)));

  position_ = run.next;
  collected_ = events::BeginRun(position_);
  skipped_ = 0;
  delivered_events_ += run.count;
  std::optional<grpc::Slice> events;
  if (run.count > 0) events = ToSlice(std::move(run));
  StartWriteLocked(std::move(events), rest, now);
}

bool EventsReactor::ReachesPositionLocked(SteadyTime now) {
  if (snapshot_->position() >= snapshot_reach_) return true;
  if (stopping_) {
    FinishLocked(ServerStops());
    return false;
  }
  if (snapshots_->has_caught_up()) {
    const uint64_t there = snapshots_->position();
    // While the file is written anew, what there is has to do: the live part begins where it ends.
    const bool does = now >= snapshot_patience_ && (at_end_ || there >= position_);
    if (there >= snapshot_reach_ || does) {
      snapshot_ = snapshots_->Begin(filter_);
      if (at_end_) {
        position_ = snapshot_->position();
        collected_ = events::BeginRun(position_);
      }
      return true;
    }
  }
  if (now >= snapshot_deadline_) {
    FinishLocked(Error(absl::StatusCode::kUnavailable, reason::kSnapshotBehind,
                       "the snapshot does not reach the cursor yet, since the server has just "
                       "started or the disk refuses to take it: ask again, and look at the "
                       "server's log",
                       kSnapshotRetryAfter));
  }
  return false;
}

void EventsReactor::WarnOfGap(const v1::Gap& gap) const {
  if (!IsTimeToWarnOfGap()) return;
  log::Warn("a stream of Events does not get all that it stood before",
            {{"peer", peer_},
             {"consumer", consumer_.has_value() ? consumer_->name : std::string()},
             {"reason", v1::GapReason_Name(gap.reason())},
             {"lost_events",
              gap.has_lost_events() ? std::to_string(gap.lost_events()) : std::string("unknown")}});
}

void EventsReactor::WriteSnapshotLocked(SteadyTime now) {
  if (stopping_) {
    // A client that comes back wants all of it again, so the rest would be of no use.
    FinishLocked(ServerStops());
    return;
  }
  while (true) {
    auto batch = snapshot_->Next(limits_);
    if (!batch.ok()) {
      FinishLocked(Error(absl::StatusCode::kDataLoss, reason::kSnapshotDamaged,
                         "the snapshot was changed on disk: ask for it again, and what was damaged "
                         "is left out"));
      return;
    }
    if (batch->end) snapshot_.reset();
    if (batch->count > 0) {
      delivered_events_ += batch->count;
      v1::EventBatch rest;
      rest.set_cursor(events::FormatCursor(log_.CursorAt(position_)));
      // With the first message that has a cursor of this log: a client that comes back with that
      // one must have heard of the gap.
      if (gap_.has_value()) {
        *rest.mutable_gap() = *std::move(gap_);
        gap_.reset();
        WarnOfGap(rest.gap());
      }
      StartWriteLocked(grpc::Slice(batch->bytes), rest, now);
      // The first message behind the snapshot comes at once, and so tells that this was all.
      first_message_ = true;
      return;
    }
    if (snapshot_ == nullptr || batch->wait) return;
  }
}

void EventsReactor::StartWriteLocked(std::optional<grpc::Slice> events, const v1::EventBatch& rest,
                                     SteadyTime now) {
  first_message_ = false;
  batch_deadline_.reset();
  progress_deadline_ = now + kProgressInterval;

  grpc::Slice slices[2];
  size_t count = 0;
  if (events.has_value()) slices[count++] = *std::move(events);
  slices[count++] = grpc::Slice(rest.SerializeAsString());
  message_ = grpc::ByteBuffer(slices, count);
  write_in_flight_ = true;
  StartWrite(&message_);
}

void EventsReactor::FinishLocked(const absl::Status& status) {
  finished_ = true;
  Finish(ToGrpc(status, context_));
}

void EventsReactor::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  write_in_flight_ = false;
  // An idle stream must not hold a segment of the log.
  message_.Clear();
  if (finished_) return;
  if (!ok || cancelled_) {
    FinishLocked(absl::CancelledError("the client has gone"));
    return;
  }
  PumpLocked(SteadyClock::now());
  // The fan-out thread does not know of a deadline that was set here. (The one for progress may
  // slip by its nap.)
  if (batch_deadline_.has_value()) fan_out_.Signal();
}

void EventsReactor::YieldTo(const events::ConsumerKey& consumer, uint64_t newest_stream) {
  if (consumer_ != consumer || consumer_stream_ >= newest_stream) return;
  {
    const std::lock_guard lock(mutex_);
    yields_ = true;
  }
  fan_out_.Signal();
}

uint64_t EventsReactor::position() const {
  const std::lock_guard lock(mutex_);
  return position_;
}

void EventsReactor::BeginStop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  fan_out_.Signal();
}

void EventsReactor::OnCancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (!finished_ && !write_in_flight_) FinishLocked(absl::CancelledError("the client has gone"));
}

void EventsReactor::OnDone() {
  fan_out_.Remove(this);
  on_done_();
  const std::shared_ptr<EventsReactor> last = std::move(self_);
}

bool EventsReactor::Describe(v1::Subscriber& subscriber) const {
  uint64_t position = 0;
  {
    const std::lock_guard lock(mutex_);
    if (yields_) return false;
    subscriber.set_connected(!finished_);
    subscriber.set_delivered_events(delivered_events_);
    position = position_;
  }
  // The fan-out thread need not wait for what follows.
  subscriber.set_peer(peer_);
  if (consumer_.has_value()) subscriber.set_consumer(consumer_->name);
  *subscriber.mutable_filter() = described_filter_;
  const ReaderLag lag = LagBehind(log_, position);
  subscriber.set_lag_events(lag.events);
  *subscriber.mutable_lag() = ToProto(lag.time);
  return true;
}

}  // namespace shardd::server
