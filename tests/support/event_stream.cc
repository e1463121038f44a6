#include "support/event_stream.h"

#include <grpcpp/create_channel.h>

#include "support/shardd_process.h"

namespace shardd::test {

std::unique_ptr<v1::ShardControl::Stub> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  return v1::ShardControl::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

std::string ReasonOf(const grpc::ClientContext& context) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find("shardd-reason");
  return found == trailers.end() ? "" : std::string(found->second.data(), found->second.size());
}

EventStream::EventStream(v1::ShardControl::Stub& stub, const v1::EventsRequest& request)
    : reader_(stub.Events(&context_, request)), thread_([this] {
        v1::EventBatch batch;
        while (reader_->Read(&batch)) {
          const std::lock_guard lock(mutex_);
          batches_.push_back(std::move(batch));
        }
        status_ = reader_->Finish();
      }) {}

EventStream::~EventStream() {
  Cancel();
  if (thread_.joinable()) thread_.join();
}

bool EventStream::WaitFor(const std::function<bool(const Batches&)>& condition,
                          std::chrono::milliseconds timeout) {
  return Eventually(
      [&] {
        const std::lock_guard lock(mutex_);
        return condition(batches_);
      },
      timeout);
}

bool EventStream::WaitForEvents(size_t count) {
  return WaitFor([&](const Batches& batches) {
    size_t events = 0;
    for (const auto& batch : batches) events += static_cast<size_t>(batch.events_size());
    return events >= count;
  });
}

EventStream::Batches EventStream::batches() const {
  const std::lock_guard lock(mutex_);
  return batches_;
}

std::vector<v1::Event> EventStream::events() const {
  std::vector<v1::Event> events;
  for (const auto& batch : batches())
    events.insert(events.end(), batch.events().begin(), batch.events().end());
  return events;
}

std::string EventStream::cursor() const {
  const std::lock_guard lock(mutex_);
  return batches_.empty() ? "" : batches_.back().cursor();
}

void EventStream::Cancel() { context_.TryCancel(); }

grpc::Status EventStream::Finish() {
  if (thread_.joinable()) thread_.join();
  return status_;
}

v1::EventsRequest FromEarliest() {
  v1::EventsRequest request;
  request.set_from(v1::START_FROM_EARLIEST);
  return request;
}

}  // namespace shardd::test
