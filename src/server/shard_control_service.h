#pragma once

#include <condition_variable>
#include <mutex>

#include "events/consumers.h"
#include "events/log.h"
#include "server/carry_over.h"
#include "server/events_reactor.h"
#include "server/fan_out.h"
#include "server/rescaler.h"
#include "server/shard_board.h"
#include "server/shard_director.h"
#include "server/stats_source.h"
#include "shardd/v1/shardd.grpc.pb.h"

namespace shardd::server {

// The contract's RPCs: each checks its request, calls the part that knows, and translates the
// result. What is not built yet is not here: the generated base answers UNIMPLEMENTED. Thread-safe.
class ShardControlService final
    : public v1::ShardControl::WithRawCallbackMethod_Events<v1::ShardControl::CallbackService> {
 public:
  ShardControlService(ShardDirector& director, gateway::ShardPool& pool, Rescaler& rescaler,
                      CarryOver& carry_over, const events::Log& log, events::Snapshots* snapshots,
                      events::Consumers& consumers, const StatsSource& stats,
                      const ShardBoard& board, FanOut& fan_out, uint32_t max_streams);

  grpc::ServerUnaryReactor* Spawn(grpc::CallbackServerContext* context,
                                  const v1::SpawnRequest* request,
                                  v1::SpawnResponse* response) override;
  grpc::ServerUnaryReactor* Kill(grpc::CallbackServerContext* context,
                                 const v1::KillRequest* request,
                                 v1::KillResponse* response) override;
  grpc::ServerUnaryReactor* Rescale(grpc::CallbackServerContext* context,
                                    const v1::RescaleRequest* request,
                                    v1::RescaleResponse* response) override;
  grpc::ServerUnaryReactor* CancelRescale(grpc::CallbackServerContext* context,
                                          const v1::CancelRescaleRequest* request,
                                          v1::CancelRescaleResponse* response) override;
  grpc::ServerUnaryReactor* Stats(grpc::CallbackServerContext* context,
                                  const v1::StatsRequest* request,
                                  v1::StatsResponse* response) override;
  grpc::ServerUnaryReactor* Ack(grpc::CallbackServerContext* context, const v1::AckRequest* request,
                                v1::AckResponse* response) override;
  grpc::ServerUnaryReactor* Send(grpc::CallbackServerContext* context,
                                 const v1::SendRequest* request,
                                 v1::SendResponse* response) override;
  grpc::ServerUnaryReactor* Locate(grpc::CallbackServerContext* context,
                                   const v1::LocateRequest* request,
                                   v1::LocateResponse* response) override;
  grpc::ServerWriteReactor<v1::StatsResponse>* Watch(grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest* request) override;
  // Raw: messages are slices of the log (events_reactor.h).
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Events(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request) override;

  // For shutdown: streams that are opened from here on end at once, and so do Sends.
  void BeginStop();
  // False: streams or Sends were still open at `deadline`.
  bool WaitForStreams(SteadyTime deadline);

 private:
  // Has the stream begin with the snapshot, and go on behind it where it was to start at the end.
  absl::Status BeginSnapshot(EventsStart& start);
  // Opens a stream of the consumer of `start`, where that has one, and has it start where that is
  // to go on.
  absl::Status OpenConsumer(EventsStart& start);
  void EndOlderStreams(const events::ConsumerKey& consumer);

  // Takes a place for a stream, or says that there is none.
  absl::Status Admit();
  void Leave();
  // The same for a Send; what bounds these are the shards' queues.
  absl::Status AdmitSend();
  void LeaveSend();

  ShardDirector& director_;
  gateway::ShardPool& pool_;
  Rescaler& rescaler_;
  CarryOver& carry_over_;
  const events::Log& log_;
  events::Snapshots* const snapshots_;  // nullptr: off
  events::Consumers& consumers_;
  const StatsSource& stats_;
  const ShardBoard& board_;
  FanOut& fan_out_;
  const uint32_t max_streams_;

  std::mutex streams_mutex_;
  std::condition_variable stream_left_;
  uint32_t open_streams_ = 0;
  uint64_t open_sends_ = 0;
  bool stopping_ = false;
};

}  // namespace shardd::server
