#include "support/torture_consumer.h"

#include <grpcpp/create_channel.h>

#include <boost/json.hpp>
#include <chrono>

#include "support/event_stream.h"

namespace shardd::test {

TortureConsumer::TortureConsumer(std::string address)
    : stub_([&] {
        grpc::ChannelArguments arguments;
        arguments.SetMaxReceiveMessageSize(64 << 20);
        // The server is away most of the time; to ask often is what this is for.
        arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
        arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
        arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
        return v1::ShardControl::NewStub(
            grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
      }()),
      thread_([this] { Run(); }) {}

TortureConsumer::~TortureConsumer() { Stop(); }

void TortureConsumer::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  stop_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void TortureConsumer::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    v1::EventsRequest request = FromEarliest();
    if (!cursor_.empty()) request.set_cursor(cursor_);
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context_ = &context;
    lock.unlock();
    v1::EventBatch batch;
    const auto reader = stub_->Events(&context, request);
    bool delivered = false;
    while (reader->Read(&batch)) {
      Take(batch);
      delivered = true;
    }
    reader->Finish().IgnoreError();
    lock.lock();
    context_ = nullptr;
    if (delivered) ++totals_.streams;
    stop_.wait_for(lock, std::chrono::milliseconds(5), [this] { return stopping_; });
  }
}

void TortureConsumer::Take(const v1::EventBatch& batch) {
  const std::lock_guard lock(mutex_);
  cursor_ = batch.cursor();
  if (batch.has_gap()) ++totals_.gaps;
  for (const v1::Event& event : batch.events()) {
    if (event.offset() != digests_.size()) ++totals_.offset_breaks;
    const uint64_t digest = simulator::DigestOf(event.type(), event.data());
    digests_.push_back(digest);
    ++totals_.events;
    if (event.type() == "SHARDD_SESSION_LOST") ++totals_.sessions_lost;
    if (event.sequence() == 0) continue;
    ++totals_.dispatches;
    Received& session = sessions_[{event.shard_id(), event.session()}];
    if (event.type() == "READY") {
      session.session_id = boost::json::parse(event.data()).at("session_id").as_string();
    }
    session.sequences.push_back(event.sequence());
    session.digests.push_back({.guild_id = event.guild_id(), .digest = digest});
    if (event.guild_id() == 0) continue;
    const std::pair position(event.session(), event.sequence());
    auto& newest = newest_[event.guild_id()];
    if (position <= newest) ++totals_.guild_breaks;
    newest = std::max(newest, position);
  }
}

std::map<std::string, uint64_t> TortureConsumer::counts() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, uint64_t> counts;
  for (const auto& [key, session] : sessions_)
    counts[session.session_id] += session.sequences.size();
  return counts;
}

TortureConsumer::Totals TortureConsumer::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

}  // namespace shardd::test
