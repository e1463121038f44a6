#pragma once

#include <grpcpp/impl/codegen/byte_buffer.h>
#include <grpcpp/impl/codegen/server_callback.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "events/log.h"
#include "server/open_stream.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// What a stream of Events was asked for, checked.
struct EventsStart {
  uint64_t position = 0;
  // Set when the client's cursor cannot be continued from: a stream then starts with it.
  std::optional<v1::Gap> gap;
  events::ReadLimits limits;
  std::chrono::milliseconds max_delay{0};
};

// One stream of Events: a position in the log. Writes runs of the log as they stand, one message at
// a time; the next one is read when HTTP/2 has taken the last, so a reader that does not keep up
// holds nothing but its position and one message.
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

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // A stream with nothing to deliver still says where it stands, within 5 s (FanOut::kLongestNap
  // included).
  static constexpr std::chrono::milliseconds kProgressInterval{4000};

 private:
  // Writes the next message if there is one to write; else returns when to look again.
  SteadyTime PumpLocked(SteadyTime now);
  void WriteLocked(events::Run run, SteadyTime now);
  void FinishLocked(const absl::Status& status);

  grpc::CallbackServerContext& context_;
  const events::Log& log_;
  FanOut& fan_out_;
  const events::ReadLimits limits_;
  const std::chrono::milliseconds max_delay_;
  const std::string peer_;
  const std::function<void()> on_done_;
  std::shared_ptr<EventsReactor> self_;  // held from Start to OnDone

  mutable std::mutex mutex_;
  uint64_t position_;
  std::optional<v1::Gap> gap_;
  bool first_message_ = true;
  std::optional<SteadyTime> batch_deadline_;  // of events that wait for company
  SteadyTime progress_deadline_;
  uint64_t delivered_events_ = 0;
  bool write_in_flight_ = false;
  bool cancelled_ = false;  // a write in flight may still succeed, so OnWriteDone needs to know
  bool stopping_ = false;
  bool finished_ = false;
  grpc::ByteBuffer message_;  // in flight
};

}  // namespace shardd::server
