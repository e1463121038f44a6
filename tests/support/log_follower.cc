#include "support/log_follower.h"

#include <grpcpp/create_channel.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "simulator/simulator.h"
#include "support/canonical.h"
#include "support/event_stream.h"

namespace shardd::test {

int64_t UnixNanosNow() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

LogFollower::LogFollower(const std::string& address)
    : stub_([&] {
        grpc::ChannelArguments arguments;
        arguments.SetMaxReceiveMessageSize(64 << 20);
        // The server may be away; to ask often is what this is for.
        arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
        arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
        arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
        return v1::ShardControl::NewStub(
            grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
      }()),
      thread_([this] { Run(); }) {}

LogFollower::~LogFollower() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  stop_.notify_all();
  thread_.join();
}

void LogFollower::Run() {
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

void LogFollower::Take(const v1::EventBatch& batch) {
  const int64_t now = UnixNanosNow();
  std::vector<LogEntry> taken;
  for (const v1::Event& event : batch.events()) {
    LogEntry entry{
        .offset = event.offset(),
        .shard_id = event.shard_id(),
        .shard_count = event.shard_count(),
        .session = event.session(),
        .sequence = event.sequence(),
        .guild_id = event.guild_id(),
        .type = event.type(),
        .digest = simulator::DigestOf(event.type(), event.data()),
        .canonical = CanonicalDigest(event.type(), event.data()),
        .received_unix_nanos = event.received_unix_nanos(),
        .arrived_unix_nanos = now,
        .data = {},
    };
    if (entry.sequence == 0 || entry.type == "READY") entry.data = event.data();
    taken.push_back(std::move(entry));
  }
  const std::lock_guard lock(mutex_);
  cursor_ = batch.cursor();
  if (batch.has_gap()) ++totals_.gaps;
  for (LogEntry& entry : taken) {
    const uint64_t expected = entries_.empty() ? 0 : entries_.back().offset + 1;
    if (entry.offset != expected) ++totals_.offset_breaks;
    entries_.push_back(std::move(entry));
  }
}

LogFollower::Totals LogFollower::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

size_t LogFollower::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

std::vector<LogEntry> LogFollower::entries(size_t from) const {
  const std::lock_guard lock(mutex_);
  return {entries_.begin() + static_cast<std::ptrdiff_t>(std::min(from, entries_.size())),
          entries_.end()};
}

}  // namespace shardd::test
