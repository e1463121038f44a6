#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "shardd/v1/shardd.grpc.pb.h"

namespace shardd::test {

// A client of the real server with the receive limit that the proto asks for.
std::unique_ptr<v1::ShardControl::Stub> Connect(const std::string& address);

// Trailing metadata of an RPC; "" where there is none.
std::string ReasonOf(const grpc::ClientContext& context);

// Reads a stream of Events on a thread of its own and keeps what comes.
class EventStream {
 public:
  EventStream(v1::ShardControl::Stub& stub, const v1::EventsRequest& request);
  ~EventStream();  // cancels

  // Waits until `condition` holds for the batches so far.
  using Batches = std::vector<v1::EventBatch>;
  bool WaitFor(const std::function<bool(const Batches&)>& condition,
               std::chrono::milliseconds timeout = std::chrono::seconds(20));
  // Waits until this many events have come.
  bool WaitForEvents(size_t count);

  Batches batches() const;
  std::vector<v1::Event> events() const;  // of all batches
  std::string cursor() const;             // of the last batch

  void Cancel();
  // Waits for the end of the stream.
  grpc::Status Finish();
  std::string reason() const { return ReasonOf(context_); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::EventBatch>> reader_;
  mutable std::mutex mutex_;
  Batches batches_;
  grpc::Status status_;
  std::thread thread_;
};

v1::EventsRequest FromEarliest();

}  // namespace shardd::test
