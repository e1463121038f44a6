#include "server/send_reactor.h"

#include "server/convert.h"
#include "server/rpc_error.h"

namespace shardd::server {

SendReactor::SendReactor(grpc::CallbackServerContext& context, v1::SendResponse& response,
                         gateway::ShardPool& pool, ShardId shard, std::function<void()> on_done)
    : context_(context),
      response_(response),
      pool_(pool),
      shard_(shard),
      on_done_(std::move(on_done)) {}

void SendReactor::Start(gateway::Command command) {
  const auto deadline =
      ToSteadyDeadline(context_.deadline(), std::chrono::system_clock::now(), SteadyClock::now());
  // gRPC calls OnCancel and OnDone only after the service's method has returned this.
  send_ = pool_.Send(shard_, std::move(command), deadline,
                     [this](const gateway::SendResult& result) { FinishElsewhere(result); });
}

// Called by a worker, whose thread reads events: Finish writes to the caller's connection on the
// thread that calls it. An alarm that has long been due is run by a thread of gRPC's.
void SendReactor::FinishElsewhere(const gateway::SendResult& result) {
  result_ = result;
  alarm_.Set(WallTime(), [this](bool) { FinishHere(); });
}

void SendReactor::FinishHere() {
  const absl::Status status = StatusOf(result_, shard_);
  if (status.ok()) {
    response_.set_shard_id(shard_.id);
    *response_.mutable_held() = ToProto(result_.held);
  }
  Finish(ToGrpc(status, context_));
}

// Also when the call's deadline has passed.
void SendReactor::OnCancel() { pool_.CancelSend(shard_, send_); }

void SendReactor::OnDone() {
  const std::function<void()> on_done = on_done_;
  delete this;
  on_done();
}

}  // namespace shardd::server
