#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/impl/codegen/server_callback.h>
#include <grpcpp/server_context.h>

#include <functional>

#include "gateway/shard_pool.h"
#include "server/send_request.h"

namespace shardd::server {

// One call of Send: waits for the pool's answer without a thread. gRPC owns it from Start on, until
// OnDone deletes it. The pool and what `on_done` refers to outlive it.
class SendReactor final : public grpc::ServerUnaryReactor {
 public:
  SendReactor(grpc::CallbackServerContext& context, v1::SendResponse& response,
              gateway::ShardPool& pool, ShardId shard, std::function<void()> on_done);

  void Start(gateway::Command command);

  void OnCancel() override;
  void OnDone() override;

 private:
  void FinishElsewhere(const gateway::SendResult& result);
  void FinishHere();

  grpc::CallbackServerContext& context_;
  v1::SendResponse& response_;
  gateway::ShardPool& pool_;
  const ShardId shard_;
  const std::function<void()> on_done_;
  uint64_t send_ = 0;
  gateway::SendResult result_;
  grpc::Alarm alarm_;
};

}  // namespace shardd::server
