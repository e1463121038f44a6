#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "shardd/v1/shardd.grpc.pb.h"
#include "simulator/simulator.h"
#include "support/log_follower.h"
#include "support/shardd_process.h"
#include "support/temp_dir.h"

namespace shardd::test {

struct RescaleOptions {
  // The traffic, while it flows; each a second.
  double rate = 1000;         // events of guilds
  double structure_rate = 0;  // changes of guilds, those that come and go among them
  double direct_rate = 20;    // events of no guild
  std::string intents = "all";
  std::vector<std::string> flags{};  // of the server, beside those that every run has
  // Keys are permuted, and many shards may IDENTIFY at once.
  simulator::SimulatorOptions discord{};
};

// One event that Discord made and the consumer got.
struct Delivery {
  int64_t emitted_unix_nanos = 0;
  int64_t received_unix_nanos = 0;  // by the server
  int64_t arrived_unix_nanos = 0;   // at the consumer
};

struct RescaleReport {
  uint64_t events = 0;  // compared

  // ---- What must be 0 ----
  uint64_t lost = 0;
  uint64_t doubled = 0;
  uint64_t reordered = 0;  // within a guild, interactions and the rest each for itself
  uint64_t unknown = 0;    // that Discord did not make, or not for the log
  uint64_t altered = 0;    // not byte for byte what the session that it names was sent
  uint64_t misplaced = 0;  // of a shard that does not own the guild
  uint64_t gaps = 0;
  uint64_t offset_breaks = 0;

  // ---- What tells how it went ----
  uint64_t early = 0;  // through a session of the new shard count, before the switch
  uint64_t late = 0;   // through one of the old, behind it
  std::vector<Delivery> deliveries;
  // The first of what is wrong, in words.
  std::vector<std::string> problems;
  std::vector<std::string> reorderings;
};

// The real server with a simulated Discord, load, and one consumer that is connected throughout;
// compares what it got with what Discord made. The test says what happens between.
class RescaleRun {
 public:
  explicit RescaleRun(RescaleOptions options);
  ~RescaleRun();
  RescaleRun(const RescaleRun&) = delete;
  RescaleRun& operator=(const RescaleRun&) = delete;

  simulator::Simulator& discord() { return *discord_; }
  LogFollower& consumer() { return consumer_; }

  // Starts the server, `shard_count` unless the data directory knows better, of which it is to hold
  // `held` (0: all). Whether so many shards came up.
  bool Start(uint32_t shard_count, uint32_t held = 0);
  void Kill();  // SIGKILL
  void Stop();  // SIGTERM
  std::string err() { return server_->err(); }
  bool running() { return !server_->WaitForExit(std::chrono::milliseconds(0)).has_value(); }
  // Lets traffic flow, or stops it.
  void SetLoad(bool on);

  struct Answer {
    grpc::StatusCode code = grpc::OK;
    std::string reason;   // shardd-reason
    std::string message;  // of the error
    v1::RescaleStatus rescale;
  };
  Answer Rescale(uint32_t shard_count, bool dry_run = false);
  Answer Rescale(const v1::RescaleRequest& request);
  Answer CancelRescale();
  v1::StatsResponse Stats(uint32_t shard_count = 0);
  uint32_t Locate(uint64_t guild_id);  // the shard count that it names
  // A gateway command through the shard of the guild.
  grpc::StatusCode Send(uint64_t guild_id, uint32_t op, const std::string& data);

  // Waits until the rescale is in this state or beyond it; false when it ends otherwise, or does
  // not come so far.
  bool WaitFor(v1::RescaleState state,
               std::chrono::milliseconds timeout = std::chrono::seconds(30));
  // As SHARDD_RESCALE events say, in order.
  struct Change {
    std::string state;
    uint64_t offset = 0;
    int64_t unix_nanos = 0;
    uint32_t from = 0;
    uint32_t to = 0;
  };
  std::vector<Change> changes();

  // Stops the traffic and waits until the consumer has the last event of every guild. REQUIRES: the
  // sessions in charge can get it.
  bool Settle();
  // Of the events that sessions of one of these shard counts were given; of all, without any.
  // REQUIRES: Settle().
  RescaleReport Compare(const std::vector<uint32_t>& shard_counts = {});
  // How many events read otherwise from the log than the consumer got them.
  uint64_t ReadLogAgain();

  // Of the process, all threads: user and system time so far, and the events that the consumer had.
  struct Sample {
    int64_t unix_nanos = 0;
    double cpu_seconds = 0;
    size_t events = 0;
  };
  std::vector<Sample> samples();

 private:
  struct Made {
    std::string type;
    uint64_t guild_id = 0;
    uint64_t canonical = 0;
    int64_t unix_nanos = 0;
    std::vector<uint32_t> shard_counts;
  };
  void Pump();
  void Collect();

  RescaleOptions options_;
  const TempDir dir_;
  const std::string socket_;
  std::unique_ptr<simulator::Simulator> discord_;
  LogFollower consumer_;
  std::unique_ptr<ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
  std::mutex mutex_;
  bool stopping_ = false;
  bool load_ = false;
  bool pumping_ = false;  // some of the load, outside the lock
  std::condition_variable pumped_;
  pid_t pid_ = 0;  // 0: the server does not run
  std::vector<Made> made_;
  std::vector<Sample> samples_;
  uint32_t markers_ = 0;
  std::thread pump_;  // last: it uses all of the above
};

}  // namespace shardd::test
