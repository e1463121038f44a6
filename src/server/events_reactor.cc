#include "server/events_reactor.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>

#include "server/convert.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

void ReleasePin(void* pin) { delete static_cast<events::SegmentPin*>(pin); }

// The run's bytes for gRPC: where they stand in the log, held there until gRPC has sent them; or a
// copy.
grpc::Slice ToSlice(events::Run run) {
  const std::string_view bytes = run.bytes();
  if (!run.pin || run.ageing) return grpc::Slice(bytes.data(), bytes.size());
  auto pin = std::make_unique<events::SegmentPin>(std::move(run.pin));
  return grpc::Slice(const_cast<char*>(bytes.data()), bytes.size(), &ReleasePin, pin.release());
}

}  // namespace

EventsReactor::EventsReactor(grpc::CallbackServerContext& context, const events::Log& log,
                             FanOut& fan_out, EventsStart start, std::function<void()> on_done)
    : context_(context),
      log_(log),
      fan_out_(fan_out),
      limits_(start.limits),
      max_delay_(start.max_delay),
      peer_(context.peer()),
      on_done_(std::move(on_done)),
      position_(start.position),
      gap_(std::move(start.gap)) {}

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
  events::Run run = log_.Read(position_, limits_);
  const bool gap = gap_.has_value() || run.first > position_;
  if (run.empty() && stopping_) {
    FinishLocked(Error(absl::StatusCode::kUnavailable, reason::kServerStopping,
                       "the server stops: reconnect with the cursor of the last batch"));
    return SteadyTime::max();
  }
  if (!first_message_ && !gap) {
    if (run.empty()) {
      if (now < progress_deadline_) return progress_deadline_;
    } else if (!run.full && !stopping_) {
      if (!batch_deadline_.has_value()) batch_deadline_ = now + max_delay_;
      if (now < *batch_deadline_) return *batch_deadline_;
    }
  }
  WriteLocked(std::move(run), now);
  return SteadyTime::max();
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
  } else if (run.first > position_) {
    v1::Gap& gap = *rest.mutable_gap();
    gap.set_from(events::FormatCursor(log_.CursorAt(position_)));
    gap.set_to(events::FormatCursor(log_.CursorAt(run.first)));
    gap.set_lost_events(run.first - position_);
    gap.set_reason(v1::GAP_REASON_NOT_RETAINED);
  }
  rest.set_cursor(events::FormatCursor(log_.CursorAt(run.next)));

  position_ = run.next;
  delivered_events_ += run.events();
  first_message_ = false;
  batch_deadline_.reset();
  progress_deadline_ = now + kProgressInterval;

  grpc::Slice slices[2];
  size_t count = 0;
  if (!run.empty()) slices[count++] = ToSlice(std::move(run));
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
  const std::lock_guard lock(mutex_);
  subscriber.set_connected(!finished_);
  subscriber.set_delivered_events(delivered_events_);
  subscriber.set_peer(peer_);
  const uint64_t end = log_.end();
  const uint64_t next = std::max(position_, log_.oldest());
  subscriber.set_lag_events(end > position_ ? end - position_ : 0);
  const int64_t received = log_.ReceivedUnixNanos(next);
  const int64_t age = received > 0 ? UnixNanos(std::chrono::system_clock::now()) - received : 0;
  *subscriber.mutable_lag() = ToProto(std::chrono::nanoseconds(std::max<int64_t>(age, 0)));
  return true;
}

}  // namespace shardd::server
