#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/impl/codegen/server_callback.h>
#include <grpcpp/server_context.h>

#include <functional>
#include <mutex>

#include "gateway/shard_pool.h"
#include "server/carry_over.h"
#include "server/send_request.h"

namespace shardd::server {

// One call of Send: waits for the pool's answer without a thread. gRPC owns it from Start on, until
// OnDone deletes it. All that it is given, and what `on_done` refers to, outlives it.
//
// A command that waits for a guild's shard when a rescale closes that goes on through the guild's
// shard of the new generation.
class SendReactor final : public grpc::ServerUnaryReactor {
 public:
  SendReactor(grpc::CallbackServerContext& context, v1::SendResponse& response,
              gateway::ShardPool& pool, const ShardDirector& director, CarryOver& carry_over,
              CheckedSend checked, std::function<void()> on_done);

  void Start();

  void OnCancel() override;
  void OnDone() override;

 private:
  void Submit();
  void FinishElsewhere(const gateway::SendResult& result);
  void FinishHere();
  // Whether the command goes on through another shard.
  bool Follow();

  grpc::CallbackServerContext& context_;
  v1::SendResponse& response_;
  gateway::ShardPool& pool_;
  const ShardDirector& director_;
  CarryOver& carry_over_;
  const CheckedSend checked_;
  const std::function<void()> on_done_;

  // Of the present try; written before it is submitted.
  ShardId shard_;
  size_t try_ = 0;
  std::chrono::nanoseconds held_{0};  // by the tries before
  gateway::SendResult result_;
  grpc::Alarm alarms_[2];  // one a try

  std::mutex mutex_;  // of what OnCancel needs of the present try
  ShardId sent_to_;
  uint64_t send_ = 0;
  bool is_cancelled_ = false;
};

}  // namespace shardd::server
