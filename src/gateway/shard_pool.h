#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gateway/compression.h"
#include "gateway/crash_guard.h"
#include "gateway/event_sink.h"
#include "gateway/gateway_bot.h"
#include "gateway/identify_gate.h"
#include "gateway/inflater.h"
#include "gateway/kept_shard.h"
#include "gateway/send_command.h"
#include "gateway/shard_info.h"
#include "gateway/shard_timings.h"

namespace shardd::gateway {

struct ShardPoolOptions {
  std::string token;     // without the "Bot " prefix
  uint64_t intents = 0;  // Discord's bit field
  Compression compression = Compression::kZstdStream;
  // Of one payload, inflated or not; the connection that brings a larger one ends.
  size_t max_message_bytes = kDefaultMaxMessageBytes;
  uint32_t threads = 1;
  // How long a worker holds off its next wait after a round that brought events, so that events
  // come in batches.
  std::chrono::microseconds batch_delay{1000};
  // One IDENTIFY per bucket (shard_id % max_concurrency) in this time: Discord's identify rate
  // limit, and a little more since clocks differ. Tests shorten it.
  std::chrono::milliseconds identify_window{5100};
  IdentifyReserve identify_reserve{};
  // Where session starts are written down; outlives the pool. None: they end with the process.
  SessionStartLedger* session_starts = nullptr;
  ShardTimings timings;
  CrashGuardOptions crash_guard{};
  std::string presence{};  // of new sessions: `d` of an op 3, JSON; empty: none
};

// All shards of this server: owns the worker threads, the shards and the identify gate. A shard
// lives on worker shard_id % threads for life. Thread-safe, but no method may be called by a sink,
// whose worker would wait for itself.
class ShardPool {
 public:
  // Called once for each worker, on the constructing thread.
  using SinkFactory = std::function<std::unique_ptr<EventSink>()>;

  ShardPool(ShardPoolOptions options, SinkFactory make_sink);
  // Stop(kDefaultStopTimeout), if it has not been called.
  ~ShardPool();

  ShardPool(const ShardPool&) = delete;
  ShardPool& operator=(const ShardPool&) = delete;

  // The gateway's address and limits. From the first call on shards that have to IDENTIFY can be
  // spawned.
  void SetGatewayBot(const GatewayBot& bot);

  // Makes the shards of an earlier process. Those that have a session and are not stopped resume,
  // without waiting for SetGatewayBot; the others wait for Spawn. Sessions that are not to be
  // resumed have been told as lost when this returns. `gateway_url` is the gateway's address as it
  // was known then; empty: not known. REQUIRES: before Spawn and SetGatewayBot, no shard twice.
  void Restore(std::vector<KeptShard> shards, const std::string& gateway_url);

  // Starts shards that are not running, in the order given; one that runs stays as it is, but for
  // the pause of a crash loop, which ends. A shard that was killed with `keep_session` resumes.
  // Returns when accepted.
  //   UNAVAILABLE          no SetGatewayBot yet, and one of the shards has no session to resume
  //   RESOURCE_EXHAUSTED   more IDENTIFYs than the session start limit has left; nothing was
  //   started
  // REQUIRES: each id < shard_count, no id twice.
  absl::Status Spawn(std::span<const uint32_t> shard_ids, uint32_t shard_count);

  // Stops shards: with close code 1000, which ends the session, or with one that keeps it. Their
  // state is kStopped when this returns; the connection closes behind it. A stopped shard stays as
  // it is, except that a kept session is given up when `keep_session` is false. REQUIRES: each (id,
  // shard_count) was spawned before.
  void Kill(std::span<const uint32_t> shard_ids, uint32_t shard_count, bool keep_session);

  // Sends a command through a shard as soon as it is ready and Discord's limits let it: see
  // SendQueue. `done` is called exactly once, perhaps within this call, by any thread; it must not
  // block and must not call the pool. At most once: what was handed to a connection is never
  // repeated. Returns what CancelSend takes. Does not wait.
  uint64_t Send(ShardId shard, Command command, std::optional<SteadyTime> deadline,
                SendReply::Done done);
  // The command is not sent any more, unless it is on its way already; `done` is called all the
  // same.
  void CancelSend(ShardId shard, uint64_t send);

  // Sessions that shards open which are spawned from now on (or again) have numbers above this; see
  // ShardInfo::session.
  void SetSessionFloor(uint32_t floor);
  // Shards that are made from now on, or were forgotten and are spawned again, begin with this
  // presence (`d` of an op 3, JSON; empty: none) instead of the options'.
  void SetPresence(const std::string& json);
  // READY shards of this count send a heartbeat now, beside those of the schedule, if Discord's
  // limits leave room and the last one of this kind has been acknowledged: its ACK tells
  // EventSink::OnHeartbeatAck how fresh the session is. Each takes one of the 120 payloads a minute
  // that Send() shares. Does not wait.
  void Beat(uint32_t shard_count);
  // Shards of this count that are not running leave Snapshot(), until they are spawned again; their
  // kept sessions are given up.
  void Forget(uint32_t shard_count);

  // Every shard that was ever spawned and not forgotten, by shard_count and id.
  std::vector<ShardInfo> Snapshot() const;

  // `refresh` asks for /gateway/bot to be read again, upon which SetGatewayBot or KeepGatewayBot
  // must be called; it is called by workers and must not block. Empty: nobody can read it.
  void SetRefresh(std::function<void()> refresh);
  // It could not be read: shards that wait for it go on with what is known.
  void KeepGatewayBot();

  // IDENTIFYs that Discord still grants, as far as is known.
  SessionBudget session_budget() const;
  // IDENTIFYs that shards which run have still to send; the budget has not been charged with them.
  uint32_t session_starts_due() const;

  // Closes all connections so that their sessions stay resumable, flushes the sinks and joins the
  // workers. Connections that have not closed by `timeout` are dropped. Afterwards Spawn returns
  // UNAVAILABLE. Idempotent.
  void Stop(std::chrono::milliseconds timeout);
  static constexpr std::chrono::milliseconds kDefaultStopTimeout{5000};

 private:
  class Core;
  std::unique_ptr<Core> core_;
};

}  // namespace shardd::gateway
