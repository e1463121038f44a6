#pragma once

#include <grpcpp/client_context.h>

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shardd/v1/shardd.grpc.pb.h"
#include "simulator/simulator.h"

namespace shardd::test {

// A consumer as the contract describes it: reads from the beginning of the log, and after each end
// of the stream goes on with the cursor of the last batch, for as long as it lives. Keeps a few
// bytes of each event. Thread-safe.
class TortureConsumer {
 public:
  explicit TortureConsumer(std::string address);
  ~TortureConsumer();
  TortureConsumer(const TortureConsumer&) = delete;
  TortureConsumer& operator=(const TortureConsumer&) = delete;

  // Of one of the server's sessions, in the order of the log.
  struct Received {
    std::string session_id;  // as its READY says; empty: none came
    std::vector<uint64_t> sequences;
    std::vector<simulator::SentDigest> digests;
  };
  using Sessions = std::map<std::pair<uint32_t, uint32_t>, Received>;  // by shard and session

  struct Totals {
    uint64_t events = 0;      // of all kinds
    uint64_t dispatches = 0;  // of Discord's
    uint64_t streams = 0;     // that delivered something
    uint64_t gaps = 0;
    uint64_t offset_breaks = 0;  // an event that is not the one behind the event before
    uint64_t guild_breaks = 0;   // an event of a guild that is older than the one before
    uint64_t sessions_lost = 0;  // SHARDD_SESSION_LOST
  };

  // How many dispatches came of each session, by its id.
  std::map<std::string, uint64_t> counts() const;
  Totals totals() const;

  // Ends the thread; for what is below.
  void Stop();
  const Sessions& sessions() const { return sessions_; }
  // Of each event of the log, by offset.
  const std::vector<uint64_t>& digests() const { return digests_; }

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
  Sessions sessions_;
  std::vector<uint64_t> digests_;
  // By guild: session and sequence of its newest event.
  std::map<uint64_t, std::pair<uint32_t, uint64_t>> newest_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace shardd::test
