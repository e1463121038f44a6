#include "server/shard_control_service.h"

#include <google/protobuf/util/time_util.h>

#include "absl/strings/str_cat.h"
#include "server/consumer_request.h"
#include "server/convert.h"
#include "server/events_request.h"
#include "server/rpc_error.h"
#include "server/send_reactor.h"
#include "server/send_request.h"
#include "server/watch_reactor.h"

namespace shardd::server {
namespace {

// A stream that ends before it begins.
template <typename Message>
class RefusedStream final : public grpc::ServerWriteReactor<Message> {
 public:
  RefusedStream(const absl::Status& status, grpc::CallbackServerContext& context) {
    this->Finish(ToGrpc(status, context));
  }
  void OnDone() override { delete this; }
};

absl::Status Stopping() {
  return Error(absl::StatusCode::kUnavailable, reason::kServerStopping,
               "the server stops: connect again when it is back");
}

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status, *context));
  return reactor;
}

std::span<const uint32_t> Ids(const google::protobuf::RepeatedField<uint32_t>& ids) {
  return {ids.data(), static_cast<size_t>(ids.size())};
}

template <typename Response>
absl::Status FillShards(const absl::StatusOr<ShardDirector::Shards>& shards, Response& response) {
  if (!shards.ok()) return shards.status();
  for (const auto& shard : *shards) *response.add_shards() = ToProto(shard);
  return absl::OkStatus();
}

absl::StatusOr<std::chrono::nanoseconds> ResolveInterval(const v1::WatchRequest& request) {
  if (!request.has_interval()) return WatchReactor::kDefaultInterval;
  using google::protobuf::util::TimeUtil;
  const auto& interval = request.interval();
  // Compared in milliseconds: a hostile Duration may hold seconds that overflow in nanoseconds.
  const bool valid =
      interval.seconds() >= 0 && interval.nanos() >= 0 &&
      interval.seconds() <= std::chrono::seconds(WatchReactor::kLongestInterval).count();
  const auto nanos = valid ? std::chrono::nanoseconds(TimeUtil::DurationToNanoseconds(interval))
                           : std::chrono::nanoseconds(-1);
  if (nanos < WatchReactor::kShortestInterval || nanos > WatchReactor::kLongestInterval) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kWatchIntervalInvalid,
                 "interval must lie between 100 ms and 24 h; leave it unset for 10 s");
  }
  return nanos;
}

}  // namespace

ShardControlService::ShardControlService(ShardDirector& director, gateway::ShardPool& pool,
                                         Rescaler& rescaler, CarryOver& carry_over,
                                         const events::Log& log, events::Snapshots* snapshots,
                                         events::Consumers& consumers, const StatsSource& stats,
                                         const ShardBoard& board, FanOut& fan_out,
                                         uint32_t max_streams)
    : director_(director),
      pool_(pool),
      rescaler_(rescaler),
      carry_over_(carry_over),
      log_(log),
      snapshots_(snapshots),
      consumers_(consumers),
      stats_(stats),
      board_(board),
      fan_out_(fan_out),
      max_streams_(max_streams) {}

absl::Status ShardControlService::Admit() {
  const std::lock_guard lock(streams_mutex_);
  if (stopping_) return Stopping();
  if (open_streams_ < max_streams_) {
    ++open_streams_;
    return absl::OkStatus();
  }
  return Error(
      absl::StatusCode::kResourceExhausted, reason::kTooManySubscribers,
      absl::StrCat(max_streams_, " streams are open: end one, or raise --max-subscribers"));
}

void ShardControlService::Leave() {
  const std::lock_guard lock(streams_mutex_);
  --open_streams_;
  // Under the lock: whoever waits may destroy this object as soon as it sees the last stream gone.
  stream_left_.notify_all();
}

absl::Status ShardControlService::AdmitSend() {
  const std::lock_guard lock(streams_mutex_);
  if (stopping_) return Stopping();
  ++open_sends_;
  return absl::OkStatus();
}

void ShardControlService::LeaveSend() {
  const std::lock_guard lock(streams_mutex_);
  --open_sends_;
  stream_left_.notify_all();
}

void ShardControlService::BeginStop() {
  const std::lock_guard lock(streams_mutex_);
  stopping_ = true;
}

bool ShardControlService::WaitForStreams(SteadyTime deadline) {
  std::unique_lock lock(streams_mutex_);
  const auto none = [this] { return open_streams_ == 0 && open_sends_ == 0; };
  if (deadline == SteadyTime::max()) {
    stream_left_.wait(lock, none);
    return true;
  }
  return stream_left_.wait_until(lock, deadline, none);
}

grpc::ServerUnaryReactor* ShardControlService::Spawn(grpc::CallbackServerContext* context,
                                                     const v1::SpawnRequest* request,
                                                     v1::SpawnResponse* response) {
  return Reply(
      context,
      FillShards(director_.Spawn(Ids(request->shard_ids()), request->shard_count()), *response));
}

grpc::ServerUnaryReactor* ShardControlService::Kill(grpc::CallbackServerContext* context,
                                                    const v1::KillRequest* request,
                                                    v1::KillResponse* response) {
  return Reply(context, FillShards(director_.Kill(Ids(request->shard_ids()), request->shard_count(),
                                                  request->keep_session()),
                                   *response));
}

grpc::ServerUnaryReactor* ShardControlService::Rescale(grpc::CallbackServerContext* context,
                                                       const v1::RescaleRequest* request,
                                                       v1::RescaleResponse* response) {
  auto status = rescaler_.Rescale(*request);
  if (status.ok()) *response->mutable_rescale() = *std::move(status);
  return Reply(context, status.status());
}

grpc::ServerUnaryReactor* ShardControlService::CancelRescale(grpc::CallbackServerContext* context,
                                                             const v1::CancelRescaleRequest*,
                                                             v1::CancelRescaleResponse* response) {
  auto status = rescaler_.Cancel();
  if (status.ok()) *response->mutable_rescale() = *std::move(status);
  return Reply(context, status.status());
}

grpc::ServerUnaryReactor* ShardControlService::Stats(grpc::CallbackServerContext* context,
                                                     const v1::StatsRequest* request,
                                                     v1::StatsResponse* response) {
  auto stats = stats_.Get(Ids(request->shard_ids()), request->shard_count());
  if (stats.ok()) *response = *std::move(stats);
  return Reply(context, stats.status());
}

grpc::ServerUnaryReactor* ShardControlService::Ack(grpc::CallbackServerContext* context,
                                                   const v1::AckRequest* request,
                                                   v1::AckResponse*) {
  const auto ack = ResolveAckRequest(*request, log_);
  if (!ack.ok()) return Reply(context, ack.status());
  const absl::Status status = consumers_.Ack(ack->consumer, ack->cursor, log_.end());
  if (status.ok()) return Reply(context, status);
  return Reply(context, WithReason(status, absl::IsNotFound(status) ? reason::kConsumerNotFound
                                                                    : reason::kConsumersFailed));
}

grpc::ServerUnaryReactor* ShardControlService::Send(grpc::CallbackServerContext* context,
                                                    const v1::SendRequest* request,
                                                    v1::SendResponse* response) {
  auto checked = ResolveSendRequest(*request, director_);
  if (!checked.ok()) return Reply(context, checked.status());
  if (auto status = AdmitSend(); !status.ok()) return Reply(context, status);
  auto* reactor = new SendReactor(*context, *response, pool_, director_, carry_over_,
                                  *std::move(checked), [this] { LeaveSend(); });
  reactor->Start();
  return reactor;
}

grpc::ServerUnaryReactor* ShardControlService::Locate(grpc::CallbackServerContext* context,
                                                      const v1::LocateRequest* request,
                                                      v1::LocateResponse* response) {
  const auto shard = director_.Locate(request->guild_id(), request->shard_count());
  if (shard.ok()) {
    response->set_shard_id(shard->id);
    response->set_shard_count(shard->count);
  }
  return Reply(context, shard.status());
}

grpc::ServerWriteReactor<v1::StatsResponse>* ShardControlService::Watch(
    grpc::CallbackServerContext* context, const v1::WatchRequest* request) {
  const auto refuse = [&](const absl::Status& status) {
    return new RefusedStream<v1::StatsResponse>(status, *context);
  };
  const auto interval = ResolveInterval(*request);
  if (!interval.ok()) return refuse(interval.status());
  const auto shards = director_.Describe(Ids(request->shard_ids()), request->shard_count());
  if (!shards.ok()) return refuse(shards.status());
  if (auto status = Admit(); !status.ok()) return refuse(status);

  const auto reactor = std::make_shared<WatchReactor>(
      *context, stats_, board_, fan_out_, *interval,
      std::vector<uint32_t>(request->shard_ids().begin(), request->shard_ids().end()),
      request->shard_count(), [this] { Leave(); });
  reactor->Start();
  return reactor.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ShardControlService::Events(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* raw_request) {
  const auto refuse = [&](const absl::Status& status) {
    return new RefusedStream<grpc::ByteBuffer>(status, *context);
  };
  // Deserialize takes the bytes out of the buffer that it is given; this copy shares them.
  grpc::ByteBuffer bytes(*raw_request);
  v1::EventsRequest request;
  if (!grpc::SerializationTraits<v1::EventsRequest>::Deserialize(&bytes, &request).ok()) {
    return refuse(Error(absl::StatusCode::kInvalidArgument, reason::kRequestMalformed,
                        "the request is not a shardd.v1.EventsRequest"));
  }
  auto start = ResolveEventsRequest(request, log_, director_.overview().shard_count);
  if (!start.ok()) return refuse(start.status());
  if (auto status = Admit(); !status.ok()) return refuse(status);
  if (request.snapshot()) {
    if (auto status = BeginSnapshot(*start); !status.ok()) {
      Leave();
      return refuse(status);
    }
  }
  if (auto status = OpenConsumer(*start); !status.ok()) {
    Leave();
    return refuse(status);
  }
  const auto consumer = start->consumer;
  const auto reactor = std::make_shared<EventsReactor>(*context, log_, fan_out_, *std::move(start),
                                                       [this, consumer] {
                                                         if (consumer.has_value())
                                                           consumers_.CloseStream(*consumer);
                                                         Leave();
                                                       });
  reactor->Start();
  if (consumer.has_value()) EndOlderStreams(*consumer);
  return reactor.get();
}

absl::Status ShardControlService::BeginSnapshot(EventsStart& start) {
  if (snapshots_ == nullptr) {
    return Error(absl::StatusCode::kFailedPrecondition, reason::kSnapshotOff,
                 "the server keeps no snapshot (--snapshot-bytes 0): leave `snapshot` unset");
  }
  start.snapshots = snapshots_;
  start.snapshot = snapshots_->Begin(start.filter);
  // Else the stream itself waits for what the log held when it was asked for.
  return absl::OkStatus();
}

absl::Status ShardControlService::OpenConsumer(EventsStart& start) {
  if (!start.consumer.has_value()) return absl::OkStatus();
  // An unknown name may be that of a consumer whose cursor was lost: to start at the end would skip
  // in silence what it had not read.
  const bool may_be_lost = !start.is_explicit && consumers_.has_lost_some();
  const events::Cursor from =
      may_be_lost ? kLostCursor : start.kept_with_gap.value_or(log_.CursorAt(start.position));
  const auto stream = consumers_.OpenStream(*start.consumer, from);
  if (absl::IsResourceExhausted(stream.status())) {
    return WithReason(stream.status(), reason::kTooManyConsumers);
  }
  if (!stream.ok()) return WithReason(stream.status(), reason::kConsumersFailed);
  start.consumer_stream = stream->number;
  if (!start.is_explicit && (!stream->is_new || may_be_lost)) {
    StartAt(stream->kept, events::FormatCursor(stream->kept), log_, start);
  }
  return absl::OkStatus();
}

// Called once the stream is among the waiters: of two that start at the same time, the later one to
// come here sees both, and ends the older one, be it itself.
void ShardControlService::EndOlderStreams(const events::ConsumerKey& consumer) {
  const uint64_t newest = consumers_.newest_stream(consumer);
  for (const auto& waiter : fan_out_.waiters()) {
    auto* stream = dynamic_cast<EventsReactor*>(waiter.get());
    if (stream != nullptr) stream->YieldTo(consumer, newest);
  }
}

}  // namespace shardd::server
