#include "server/send_reactor.h"

#include "server/convert.h"
#include "server/rpc_error.h"

namespace shardd::server {

SendReactor::SendReactor(grpc::CallbackServerContext& context, v1::SendResponse& response,
                         gateway::ShardPool& pool, const ShardDirector& director,
                         CarryOver& carry_over, CheckedSend checked, std::function<void()> on_done)
    : context_(context),
      response_(response),
      pool_(pool),
      director_(director),
      carry_over_(carry_over),
      checked_(std::move(checked)),
      on_done_(std::move(on_done)),
      shard_(checked_.shard) {}

void SendReactor::Start() {
  carry_over_.OnAsked(shard_, checked_.command);
  Submit();
}

void SendReactor::Submit() {
  const auto deadline =
      ToSteadyDeadline(context_.deadline(), std::chrono::system_clock::now(), SteadyClock::now());
  // Held so that either OnCancel sees this try, or this sees that it was called.
  const std::lock_guard lock(mutex_);
  sent_to_ = shard_;
  send_ = pool_.Send(shard_, checked_.command, deadline,
                     [this](const gateway::SendResult& result) { FinishElsewhere(result); });
  if (is_cancelled_) pool_.CancelSend(sent_to_, send_);
}

// Called by a worker, whose thread reads events: Finish writes to the caller's connection on the
// thread that calls it. An alarm that has long been due is run by a thread of gRPC's.
void SendReactor::FinishElsewhere(const gateway::SendResult& result) {
  result_ = result;
  alarms_[try_].Set(WallTime(), [this](bool) { FinishHere(); });
}

bool SendReactor::Follow() {
  const bool has_gone = result_.outcome == gateway::SendOutcome::kNotRunning ||
                        result_.outcome == gateway::SendOutcome::kNoSuchShard;
  if (!has_gone || !checked_.guild_id.has_value() || try_ + 1 == std::size(alarms_)) return false;
  const auto located = director_.Locate(*checked_.guild_id, 0);
  if (!located.ok() || located->count == shard_.count) return false;
  shard_ = *located;
  held_ += result_.held;
  ++try_;
  Submit();
  return true;
}

void SendReactor::FinishHere() {
  // Finish() lets gRPC delete this: not before Submit() has left.
  { const std::lock_guard lock(mutex_); }
  if (Follow()) return;
  const absl::Status status = StatusOf(result_, shard_);
  if (status.ok()) {
    carry_over_.OnSent(shard_, checked_.command, director_.shard_count());
    response_.set_shard_id(shard_.id);
    *response_.mutable_held() = ToProto(held_ + result_.held);
  }
  Finish(ToGrpc(status, context_));
}

// Also when the call's deadline has passed.
void SendReactor::OnCancel() {
  const std::lock_guard lock(mutex_);
  is_cancelled_ = true;
  pool_.CancelSend(sent_to_, send_);
}

void SendReactor::OnDone() {
  const std::function<void()> on_done = on_done_;
  delete this;
  on_done();
}

}  // namespace shardd::server
