#pragma once

#include <grpcpp/impl/codegen/byte_buffer.h>
#include <grpcpp/impl/codegen/server_callback.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "events/consumers.h"
#include "events/filter.h"
#include "events/log.h"
#include "events/snapshots.h"
#include "server/open_stream.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// What a stream of Events was asked for, checked.
struct EventsStart {
  uint64_t position = 0;
  bool at_end = false;  // `position` is the log's end, rather than what a cursor says
  // Set when the client's cursor cannot be continued from: a stream then starts with it.
  std::optional<v1::Gap> gap;
  // What a new consumer is to keep, so that its next stream starts with the same gap until it has
  // acknowledged something. Where it is not set: `position`.
  std::optional<events::Cursor> kept_with_gap;
  events::ReadLimits limits;
  std::chrono::milliseconds max_delay{0};
  std::optional<events::Filter> filter;  // none: everything
  // What comes first, once it reaches `position`; nullptr: nothing.
  events::Snapshots* snapshots = nullptr;
  std::unique_ptr<events::Snapshots::Reading> snapshot;
  v1::Filter described_filter;  // for Stats
  std::optional<events::ConsumerKey> consumer;
  bool is_explicit = false;      // the request says where; a consumer's kept cursor does not count
  uint64_t consumer_stream = 0;  // Consumers::Stream::number
};

// One stream of Events: a position in the log. Writes runs of the log as they stand, or copies of
// what its filter lets through, one message at a time; the next one is read when HTTP/2 has taken
// the last, so a reader that does not keep up holds nothing but its position and one message.
//
// Woken by the fan-out thread, and by gRPC when a message is taken; mutex_ keeps the two apart.
// Owned by gRPC until OnDone, and by the fan-out.
class EventsReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                            public OpenStream,
                            public std::enable_shared_from_this<EventsReactor> {
 public:
  EventsReactor(grpc::CallbackServerContext& context, const events::Log& log, FanOut& fan_out,
                EventsStart start, std::function<void()> on_done);

  // Begins to stream; gRPC owns a share from here on.
  void Start();

  SteadyTime OnWake(SteadyTime now) override;
  void BeginStop() override;
  bool Describe(v1::Subscriber& subscriber) const override;

  // Another stream of this consumer has been opened since: deliver no more, and end with ABORTED,
  // as soon as the client has taken the message under way. Nothing happens where that is not so.
  // Thread-safe.
  void YieldTo(const events::ConsumerKey& consumer, uint64_t newest_stream);

  const std::optional<events::ConsumerKey>& consumer() const { return consumer_; }
  const std::string& peer() const { return peer_; }
  // Offset of the first event that it has neither sent nor found not to match. Thread-safe.
  uint64_t position() const;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // A stream with nothing to deliver still says where it stands, within 5 s (FanOut::kLongestNap
  // included).
  static constexpr std::chrono::milliseconds kProgressInterval{4000};
  // So does one that has so many events behind it that do not match.
  static constexpr uint64_t kMaxSkipped = 64 << 10;

 private:
  // Writes the next message if there is one to write; else returns when to look again.
  SteadyTime PumpLocked(SteadyTime now);
  // What there is to send of what the log holds at the position; moves the position past what does
  // not match.
  events::Run ReadLocked();
  void WriteLocked(events::Run run, SteadyTime now);
  // Whether the snapshot reaches the position that the stream goes on at behind it. The follower
  // brings it there soon; where it does not, the stream ends.
  bool ReachesPositionLocked(SteadyTime now);
  void WarnOfGap(const v1::Gap& gap) const;
  // Writes the next message of the snapshot, or ends that.
  void WriteSnapshotLocked(SteadyTime now);
  // The message is `events` and `rest`, all of the batch but these.
  void StartWriteLocked(std::optional<grpc::Slice> events, const v1::EventBatch& rest,
                        SteadyTime now);
  // False: nothing goes out now, and the run is kept for the next time.
  bool IsDueLocked(const events::Run& run, SteadyTime now);
  void FinishLocked(const absl::Status& status);

  grpc::CallbackServerContext& context_;
  const events::Log& log_;
  FanOut& fan_out_;
  const events::ReadLimits limits_;
  const std::chrono::milliseconds max_delay_;
  const std::optional<events::Filter> filter_;
  const v1::Filter described_filter_;
  const std::optional<events::ConsumerKey> consumer_;
  const uint64_t consumer_stream_;
  const std::string peer_;
  const std::function<void()> on_done_;
  std::shared_ptr<EventsReactor> self_;  // held from Start to OnDone

  mutable std::mutex mutex_;
  uint64_t position_;
  std::optional<v1::Gap> gap_;
  events::Snapshots* const snapshots_;                    // nullptr: the stream has no snapshot
  std::unique_ptr<events::Snapshots::Reading> snapshot_;  // nullptr: there is none, or no more
  const bool at_end_;
  const uint64_t snapshot_reach_;  // what the snapshot should hold all before
  const SteadyTime snapshot_patience_;
  const SteadyTime snapshot_deadline_;
  // With a filter: what matches from position_ on and waits for company.
  events::Run collected_;
  uint64_t skipped_ = 0;  // events that did not match, since the last message
  bool first_message_ = true;
  std::optional<SteadyTime> batch_deadline_;  // of events that wait for company
  SteadyTime progress_deadline_;
  uint64_t delivered_events_ = 0;
  bool write_in_flight_ = false;
  bool cancelled_ = false;  // a write in flight may still succeed, so OnWriteDone needs to know
  bool stopping_ = false;
  bool yields_ = false;  // another stream has taken over
  bool finished_ = false;
  grpc::ByteBuffer message_;  // in flight
};

}  // namespace shardd::server
