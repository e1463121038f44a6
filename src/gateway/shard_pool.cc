#include "gateway/shard_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/clock.h"
#include "common/log.h"
#include "gateway/gateway_url.h"
#include "gateway/identify_gate.h"
#include "gateway/send_member_limit.h"
#include "gateway/shard.h"
#include "gateway/tls_connect.h"
#include "gateway/websocket.h"

namespace shardd::gateway {
namespace {

namespace asio = boost::asio;

// Under load there is always something more to read; what has come must be published all the same.
constexpr size_t kMaxRoundDispatches = 1024;
// A server may keep a worker busy without a dispatch, too; those of others must not wait for that.
constexpr size_t kMaxRoundHandlers = 16 * kMaxRoundDispatches;

// One thread with its event loop, its sink and its shards. Shards are made, used and destroyed on
// the thread, or when it has ended.
class Worker {
 public:
  Worker(const ShardPoolOptions& options, std::unique_ptr<EventSink> sink, IdentifyGate* gate,
         SendMemberLimit* members, const Clock* clock, std::shared_ptr<asio::ssl::context> tls)
      : options_(options),
        sink_(std::move(sink)),
        work_(asio::make_work_guard(io_)),
        context_{
            .io = io_,
            .sink = *sink_,
            .gate = *gate,
            .members = *members,
            .clock = *clock,
            .make_transport = MakeWebSocketFactory(
                io_, std::move(tls), options.timings.connect_timeout, options.max_message_bytes),
            .max_message_bytes = options.max_message_bytes,
            .reader = {},
            .buffer = {},
            .changed = {}},
        stop_timer_(io_),
        thread_([this] { Loop(); }) {}

  // Runs `work` on the thread; the future is ready when it is done and its results are published.
  std::future<void> Run(std::function<void()> work) {
    std::packaged_task<void()> task([this, work = std::move(work)] {
      work();
      PublishAndFlush();
    });
    std::future<void> done = task.get_future();
    asio::post(io_, std::move(task));
    return done;
  }

  // The same without waiting. What was posted before BeginStop is run before it takes effect.
  template <class Work>
  void Post(Work work) {
    asio::post(io_, std::move(work));
  }

  // ---- On the thread ----

  // Null: never made, or forgotten.
  Shard* Find(ShardId id) {
    const auto found = shards_.find(id);
    if (found == shards_.end() || found->second->published == nullptr) return nullptr;
    return found->second.get();
  }

  // `presence` is that of a shard that was not there.
  Shard& FindOrMake(ShardId id, const std::string& gateway_url, const std::string& presence) {
    std::unique_ptr<Shard>& shard = shards_[id];
    if (shard == nullptr) {
      ProtocolOptions options;
      options.shard = id;
      options.token = options_.token;
      options.intents = options_.intents;
      options.compression = options_.compression;
      options.timings = options_.timings;
      options.crash_guard = options_.crash_guard;
      shard = std::make_unique<Shard>(std::move(options), &context_);
      shard->SetGatewayUrl(gateway_url);
    }
    if (shard->published == nullptr) {
      shard->SetPresence(presence);
      const std::lock_guard lock(published_mutex_);
      shard->published = &published_.emplace(id, shard->info()).first->second;
    }
    return *shard;
  }

  // The object stays: what it has started may still refer to it.
  void Forget(uint32_t shard_count) {
    for (auto& [id, shard] : shards_) {
      if (id.count != shard_count || shard->is_running() || shard->published == nullptr) continue;
      shard->Stop(/*keep_session=*/false);
      const std::lock_guard lock(published_mutex_);
      published_.erase(id);
      shard->published = nullptr;
    }
  }

  template <class Function>
  void ForEach(Function function) {
    for (auto& [id, shard] : shards_) function(*shard);
  }

  // ---- On any thread ----

  void CopyInfosTo(std::vector<ShardInfo>* infos) const {
    const std::lock_guard lock(published_mutex_);
    for (const auto& [id, info] : published_) infos->push_back(info);
  }

  // The loop ends when all connections have closed, or were dropped after `timeout`.
  void BeginStop(std::chrono::milliseconds timeout) {
    asio::post(io_, [this, timeout] {
      for (auto& [id, shard] : shards_) {
        shard->EndSends(SendOutcome::kStopping);
        shard->Stop(/*keep_session=*/true);
      }
      stopping_ = true;
      work_.reset();
      AbortAfter(timeout);
    });
  }

  void Join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  // A round: everything that is ready now, published once. Then nothing for a while, so that the
  // next round has more to do: waking up is what costs, not the events.
  void Loop() {
    ::pthread_setname_np(::pthread_self(), "shardd-gateway");
    while (Turn([this] { return io_.run_one(); }) > 0) {
      for (size_t handlers = 0;
           handlers < kMaxRoundHandlers && context_.dispatches < kMaxRoundDispatches; ++handlers) {
        if (Turn([this] { return io_.poll_one(); }) == 0) break;
      }
      const size_t dispatches = context_.dispatches;
      Turn([this] { return EndRound(), size_t{1}; });
      const bool drained = dispatches < kMaxRoundDispatches;
      if (dispatches > 0 && drained && !stopping_ && options_.batch_delay.count() > 0) {
        std::this_thread::sleep_for(options_.batch_delay);
      }
    }
    EndRound();
  }

  // Shards deal with their own exceptions; one that gets here must not end the process.
  template <class Function>
  static size_t Turn(Function run) {
    try {
      return run();
    } catch (const std::exception& e) {
      log::Error("an exception came out of a worker's event loop", {{"what", e.what()}});
      return 1;
    }
  }

  void EndRound() {
    PublishAndFlush();
    context_.dispatches = 0;
  }

  void PublishAndFlush() {
    Publish();
    if (!context_.sink_touched) return;
    sink_->Flush();
    context_.sink_touched = false;  // not if it has thrown: then it is tried again
  }

  void Publish() {
    if (context_.changed.empty()) return;
    const std::lock_guard lock(published_mutex_);
    for (Shard* shard : context_.changed) {
      if (shard->published != nullptr) *shard->published = shard->info();
      shard->in_changed = false;
    }
    context_.changed.clear();
  }

  // The timer is no reason for the loop to go on: it is looked at while connections are.
  void AbortAfter(std::chrono::milliseconds timeout) {
    stop_at_ = SteadyClock::now() + timeout;
    PollStop();
  }

  void PollStop() {
    const bool open = std::ranges::any_of(
        shards_, [](const auto& each) { return each.second->has_connections(); });
    if (!open) return;
    if (SteadyClock::now() >= stop_at_) {
      for (auto& [id, shard] : shards_) shard->AbortConnections();
      return;
    }
    stop_timer_.expires_after(std::chrono::milliseconds(5));
    stop_timer_.async_wait([this](const boost::system::error_code& ec) {
      if (!ec) PollStop();
    });
  }

  const ShardPoolOptions& options_;
  const std::unique_ptr<EventSink> sink_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  ShardContext context_;
  asio::steady_timer stop_timer_;
  SteadyTime stop_at_;
  bool stopping_ = false;
  std::map<ShardId, std::unique_ptr<Shard>> shards_;

  mutable std::mutex published_mutex_;
  std::map<ShardId, ShardInfo> published_;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

class ShardPool::Core {
 public:
  Core(ShardPoolOptions options, const SinkFactory& make_sink)
      : options_(std::move(options)),
        gate_({.window = options_.identify_window,
               .reserve = options_.identify_reserve,
               .ledger = options_.session_starts,
               .clock = &clock_},
              clock_.Steady()),
        presence_(options_.presence) {
    const uint32_t threads = std::max<uint32_t>(options_.threads, 1);
    for (uint32_t i = 0; i < threads; ++i) {
      // A TLS context each: its store of certificates is locked at every handshake.
      workers_.push_back(std::make_unique<Worker>(options_, make_sink(), &gate_, &members_, &clock_,
                                                  MakeTlsContext()));
    }
  }

  void SetGatewayBot(const GatewayBot& bot) {
    const std::lock_guard lock(control_);
    if (stopped_) return;
    gateway_url_ = bot.url;
    has_gateway_bot_ = true;
    RunOnAll([url = bot.url](Worker& worker) {
      worker.ForEach([&](Shard& shard) { shard.SetGatewayUrl(url); });
    });
    gate_.SetLimits({.max_concurrency = bot.max_concurrency,
                     .total = bot.session_starts_total,
                     .remaining = bot.session_starts_remaining,
                     .reset_after = bot.session_starts_reset_after,
                     .asked_at = bot.asked_at,
                     .read_at = bot.read_at},
                    clock_.Steady());
  }

  void Restore(std::vector<KeptShard> shards, const std::string& gateway_url) {
    const std::lock_guard lock(control_);
    const auto url = ParseUrl(gateway_url);
    if (url && gateway_url.starts_with("ws")) gateway_url_ = gateway_url;
    RunOnAll([&](Worker& worker) {
      for (KeptShard& kept : shards) {
        if (&WorkerOf(kept.shard.id) != &worker) continue;
        Shard& shard = worker.FindOrMake(kept.shard, gateway_url_, presence_);
        const bool is_stopped = kept.is_stopped;
        shard.Restore(std::move(kept));
        if (!is_stopped && shard.has_session()) shard.Start();
      }
    });
  }

  absl::Status Spawn(std::span<const uint32_t> shard_ids, uint32_t shard_count) {
    const std::lock_guard lock(control_);
    if (stopped_) return absl::UnavailableError("the shards are being stopped");
    const StartsNeeded starts = CountStartsNeeded(shard_ids, shard_count);
    if (starts.now > 0 && !has_gateway_bot_) {
      return absl::UnavailableError(
          "the gateway's address is not known yet: Discord has not answered /gateway/bot");
    }
    const uint32_t needed = starts.now + starts.before;
    const SessionBudget budget = gate_.budget(clock_.Steady());
    // What only resumes costs nothing, whoever else waits.
    if (starts.now > 0 && uint64_t{needed} + budget.reserve > budget.remaining) {
      return absl::ResourceExhaustedError(
          "with these shards " + std::to_string(needed) + " IDENTIFYs would be due, but of " +
          std::to_string(budget.total) + " a day Discord grants " +
          std::to_string(budget.remaining) + " more, of which " + std::to_string(budget.reserve) +
          " are kept for shards that lose their session (--identify-reserve)");
    }
    // One after the other, so that they enter the gate in the order given; runs of shards on one
    // worker go together.
    for (size_t begin = 0; begin < shard_ids.size();) {
      size_t end = begin + 1;
      Worker& worker = WorkerOf(shard_ids[begin]);
      while (end < shard_ids.size() && &WorkerOf(shard_ids[end]) == &worker) ++end;
      const auto run = shard_ids.subspan(begin, end - begin);
      worker
          .Run([&] {
            for (const uint32_t id : run) {
              Shard& shard = worker.FindOrMake({id, shard_count}, gateway_url_, presence_);
              if (!shard.is_running()) shard.SetSessionFloor(session_floor_);
              shard.Start();
            }
          })
          .wait();
      begin = end;
    }
    return absl::OkStatus();
  }

  void Kill(std::span<const uint32_t> shard_ids, uint32_t shard_count, bool keep_session) {
    const std::lock_guard lock(control_);
    if (stopped_) return;
    RunOnAll([&](Worker& worker) {
      for (const uint32_t id : shard_ids) {
        if (&WorkerOf(id) != &worker) continue;
        if (Shard* shard = worker.Find({id, shard_count})) shard->Stop(keep_session);
      }
    });
  }

  uint64_t Send(ShardId shard, Command command, std::optional<SteadyTime> deadline,
                SendReply::Done done) {
    SendRequest request{.id = 0,
                        .command = std::move(command),
                        .deadline = deadline,
                        .reply = SendReply(std::move(done))};
    const std::lock_guard lock(sends_mutex_);
    request.id = ++last_send_;
    const uint64_t id = request.id;
    if (sends_stopped_) return id;  // the reply says so as it goes
    Worker& worker = WorkerOf(shard.id);
    worker.Post([&worker, shard, request = std::move(request)]() mutable {
      if (Shard* found = worker.Find(shard)) {
        found->Send(std::move(request));
      } else {
        request.reply.Say({.outcome = SendOutcome::kNoSuchShard});
      }
    });
    return id;
  }

  void CancelSend(ShardId shard, uint64_t send) {
    const std::lock_guard lock(sends_mutex_);
    if (sends_stopped_) return;
    Worker& worker = WorkerOf(shard.id);
    worker.Post([&worker, shard, send] {
      if (Shard* found = worker.Find(shard)) found->CancelSend(send);
    });
  }

  void SetSessionFloor(uint32_t floor) {
    const std::lock_guard lock(control_);
    session_floor_ = floor;
  }

  void SetPresence(const std::string& json) {
    const std::lock_guard lock(control_);
    presence_ = json;
  }

  void Beat(uint32_t shard_count) {
    for (const auto& each : workers_) {
      each->Post([worker = each.get(), shard_count] {
        worker->ForEach([&](Shard& shard) {
          if (shard.info().shard.count == shard_count) shard.Beat();
        });
      });
    }
  }

  void Forget(uint32_t shard_count) {
    const std::lock_guard lock(control_);
    if (stopped_) return;
    RunOnAll([&](Worker& worker) { worker.Forget(shard_count); });
  }

  std::vector<ShardInfo> Snapshot() const {
    std::vector<ShardInfo> infos;
    for (const auto& worker : workers_) worker->CopyInfosTo(&infos);
    std::ranges::sort(infos, [](const ShardInfo& a, const ShardInfo& b) {
      return std::pair(a.shard.count, a.shard.id) < std::pair(b.shard.count, b.shard.id);
    });
    return infos;
  }

  void SetRefresh(std::function<void()> refresh) { gate_.SetRefresh(std::move(refresh)); }
  void KeepGatewayBot() { gate_.KeepLimits(clock_.Steady()); }
  SessionBudget session_budget() const { return gate_.budget(clock_.Steady()); }

  uint32_t session_starts_due() const {
    const std::lock_guard lock(control_);
    return stopped_ ? 0 : CountStartsNeeded({}, 0).before;
  }

  void Stop(std::chrono::milliseconds timeout) {
    const std::lock_guard lock(control_);
    if (std::exchange(stopped_, true)) return;
    {
      const std::lock_guard sends_lock(sends_mutex_);
      sends_stopped_ = true;
    }
    for (const auto& worker : workers_) worker->BeginStop(timeout);
    for (const auto& worker : workers_) worker->Join();
  }

 private:
  Worker& WorkerOf(uint32_t shard_id) const { return *workers_[shard_id % workers_.size()]; }

  // Runs `work` on every worker, at the same time, and waits.
  template <class Work>
  void RunOnAll(Work work) const {
    std::vector<std::future<void>> done;
    for (const auto& worker : workers_) {
      done.push_back(worker->Run([&work, &worker] { work(*worker); }));
    }
    for (auto& each : done) each.wait();
  }

  // IDENTIFYs that are still to be sent if these shards are started.
  struct StartsNeeded {
    uint32_t now = 0;     // for them
    uint32_t before = 0;  // for those that wait already
  };
  StartsNeeded CountStartsNeeded(std::span<const uint32_t> shard_ids, uint32_t shard_count) const {
    std::atomic<uint32_t> now = 0, before = 0;
    RunOnAll([&](Worker& worker) {
      worker.ForEach([&](Shard& shard) { before += shard.needs_session_start() ? 1 : 0; });
      for (const uint32_t id : shard_ids) {
        if (&WorkerOf(id) != &worker) continue;
        const Shard* shard = worker.Find({id, shard_count});
        if (shard == nullptr || (!shard->is_running() && !shard->has_session())) ++now;
      }
    });
    return {.now = now, .before = before};
  }

  const ShardPoolOptions options_;
  const RealClock clock_;
  IdentifyGate gate_;
  SendMemberLimit members_;
  std::vector<std::unique_ptr<Worker>> workers_;
  mutable std::mutex control_;  // one command at a time; workers never take it
  std::string gateway_url_;     // empty: not known
  std::string presence_;        // of shards that are made
  uint32_t session_floor_ = 0;
  bool has_gateway_bot_ = false;
  bool stopped_ = false;

  std::mutex sends_mutex_;  // never held while anything is waited for
  uint64_t last_send_ = 0;
  bool sends_stopped_ = false;
};

ShardPool::ShardPool(ShardPoolOptions options, SinkFactory make_sink)
    : core_(std::make_unique<Core>(std::move(options), make_sink)) {}
ShardPool::~ShardPool() { Stop(kDefaultStopTimeout); }
void ShardPool::Restore(std::vector<KeptShard> shards, const std::string& gateway_url) {
  core_->Restore(std::move(shards), gateway_url);
}
void ShardPool::SetGatewayBot(const GatewayBot& bot) { core_->SetGatewayBot(bot); }
absl::Status ShardPool::Spawn(std::span<const uint32_t> shard_ids, uint32_t shard_count) {
  return core_->Spawn(shard_ids, shard_count);
}
void ShardPool::Kill(std::span<const uint32_t> shard_ids, uint32_t shard_count, bool keep_session) {
  core_->Kill(shard_ids, shard_count, keep_session);
}
uint64_t ShardPool::Send(ShardId shard, Command command, std::optional<SteadyTime> deadline,
                         SendReply::Done done) {
  return core_->Send(shard, std::move(command), deadline, std::move(done));
}
void ShardPool::CancelSend(ShardId shard, uint64_t send) { core_->CancelSend(shard, send); }
std::vector<ShardInfo> ShardPool::Snapshot() const { return core_->Snapshot(); }
void ShardPool::SetSessionFloor(uint32_t floor) { core_->SetSessionFloor(floor); }
void ShardPool::SetPresence(const std::string& json) { core_->SetPresence(json); }
void ShardPool::Beat(uint32_t shard_count) { core_->Beat(shard_count); }
void ShardPool::Forget(uint32_t shard_count) { core_->Forget(shard_count); }
void ShardPool::SetRefresh(std::function<void()> refresh) { core_->SetRefresh(std::move(refresh)); }
void ShardPool::KeepGatewayBot() { core_->KeepGatewayBot(); }
SessionBudget ShardPool::session_budget() const { return core_->session_budget(); }
uint32_t ShardPool::session_starts_due() const { return core_->session_starts_due(); }
void ShardPool::Stop(std::chrono::milliseconds timeout) { core_->Stop(timeout); }

}  // namespace shardd::gateway
