#pragma once

#include <grpcpp/client_context.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "shardd/v1/shardd.grpc.pb.h"

namespace shardd::test {

// An event of the log, in short.
struct LogEntry {
  uint64_t offset = 0;
  uint32_t shard_id = 0;
  uint32_t shard_count = 0;
  uint32_t session = 0;
  uint64_t sequence = 0;
  uint64_t guild_id = 0;
  std::string type;
  uint64_t digest = 0;     // simulator::DigestOf
  uint64_t canonical = 0;  // CanonicalDigest
  int64_t received_unix_nanos = 0;
  int64_t arrived_unix_nanos = 0;  // here
  std::string data;                // of READY and of shardd's own events alone
};

// A consumer as the contract describes it: reads the log from the beginning, and after each end of
// the stream goes on with the cursor of the last batch, for as long as it lives. Thread-safe.
class LogFollower {
 public:
  explicit LogFollower(const std::string& address);
  ~LogFollower();
  LogFollower(const LogFollower&) = delete;
  LogFollower& operator=(const LogFollower&) = delete;

  struct Totals {
    uint64_t streams = 0;  // that delivered something
    uint64_t gaps = 0;
    uint64_t offset_breaks = 0;  // an event that is not the one behind the event before
  };
  Totals totals() const;
  size_t size() const;
  // From this entry on.
  std::vector<LogEntry> entries(size_t from = 0) const;

 private:
  void Run();
  void Take(const v1::EventBatch& batch);

  const std::unique_ptr<v1::ShardControl::Stub> stub_;
  mutable std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  grpc::ClientContext* context_ = nullptr;  // of the open stream
  std::string cursor_;
  Totals totals_;
  std::vector<LogEntry> entries_;
  std::thread thread_;  // last: it uses all of the above
};

// Nanoseconds since 1970.
int64_t UnixNanosNow();

}  // namespace shardd::test
