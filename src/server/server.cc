#include "server/server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "events/consumers.h"
#include "events/data_dir.h"
#include "events/owner.h"
#include "events/snapshot_follower.h"
#include "events/snapshots.h"
#include "server/admin_http.h"
#include "server/gateway_watch.h"
#include "server/log_sink.h"
#include "server/open_stream.h"
#include "server/overlap.h"
#include "server/rescale_parts.h"
#include "server/rescaler.h"
#include "server/retention_watch.h"
#include "server/session_starts.h"
#include "server/shard_board.h"
#include "server/shard_control_service.h"
#include "server/shard_size.h"
#include "server/stats_source.h"
#include "server/tls_files.h"

namespace shardd::server {
namespace {

// Clients may ping this often to notice a server that has gone; gRPC's default ends connections
// that ping more than every 5 minutes. The server itself pings nobody: with keepalive on, gRPC has
// Linux end the connection of a client that is merely stopped for a while (TCP_USER_TIMEOUT).
constexpr std::chrono::milliseconds kShortestClientPing{5'000};

// How long gRPC may take once our own streams have ended.
constexpr std::chrono::milliseconds kGrpcShutdownGrace{500};

// Keeps grpc.health.v1 true: readiness changes with shards' states, and with time alone.
class ReadinessReporter final : public Waiter {
 public:
  ReadinessReporter(const ShardBoard& board, grpc::HealthCheckServiceInterface& health)
      : board_(board), health_(health) {
    health_.SetServingStatus(v1::ShardControl::service_full_name(), false);
  }

  SteadyTime OnWake(SteadyTime now) override {
    const uint64_t version = board_.version();
    if (version == version_seen_ && now < next_look_) return next_look_;
    version_seen_ = version;
    next_look_ = now + FanOut::kLongestNap;
    const bool ready = board_.WhyNotReady(now).empty();
    if (ready != ready_) health_.SetServingStatus(v1::ShardControl::service_full_name(), ready);
    ready_ = ready;
    return next_look_;
  }

 private:
  const ShardBoard& board_;
  grpc::HealthCheckServiceInterface& health_;
  uint64_t version_seen_ = 0;
  SteadyTime next_look_ = SteadyTime::min();
  bool ready_ = false;
};

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const Config& config) {
  if (config.tls_cert.empty()) return grpc::InsecureServerCredentials();
  auto pair = ReadTlsKeyPair(config.tls_cert, config.tls_key);
  if (!pair.ok()) return pair.status();
  grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back(
      {std::move(pair->private_key), std::move(pair->certificate_chain)});
  return grpc::SslServerCredentials(options);
}

std::string WithPort(const ListenAddress& address, int port) {
  if (address.is_unix()) return address.text;
  const bool ipv6 = address.host.find(':') != std::string::npos;
  return absl::StrCat(ipv6 ? "[" : "", address.host, ipv6 ? "]" : "", ":", port);
}

// nullptr: off.
absl::StatusOr<std::unique_ptr<events::Snapshots>> OpenSnapshots(const Config& config,
                                                                 const events::DataDir& data_dir,
                                                                 const events::Log& log) {
  const std::string path = data_dir.path() + "/snapshot";
  if (config.snapshot_bytes == 0) {
    events::Snapshots::Remove(path);
    return nullptr;
  }
  return events::Snapshots::Open({.path = path, .max_bytes = config.snapshot_bytes, .log = &log});
}

// gRPC says on standard error what our own errors say better; at debug level it stays visible.
void ForwardGrpcLog(gpr_log_func_args* args) { log::Debug(args->message, {{"from", "grpc"}}); }

}  // namespace

// In the order in which they are built; destroyed the other way round.
class Server::Parts {
 public:
  Parts(const Config& config, std::unique_ptr<events::DataDir> data_dir,
        std::unique_ptr<events::Ledger> ledger, std::unique_ptr<events::Log> log,
        std::unique_ptr<events::Consumers> consumers, std::unique_ptr<events::Snapshots> snapshots)
      : config_(config),
        data_dir_(std::move(data_dir)),
        session_starts_(std::move(ledger)),
        log_(std::move(log)),
        snapshots_(std::move(snapshots)),
        consumers_(std::move(consumers)),
        retention_(std::make_shared<RetentionWatch>(*log_, *consumers_, fan_out_)),
        overlap_(*log_,
                 {.max_held_bytes = std::min(config.rescale_held_bytes,
                                             events::LargestTransaction(config.retain_bytes) / 2),
                  .max_expected_copies = events::MaxExpectedCopies(config.retain_bytes),
                  .max_transaction_bytes = events::LargestTransaction(config.retain_bytes),
                  .lag = config.rescale_lag,
                  .max_unmatched_share = config.rescale_max_unmatched,
                  .forgets_copies = config.reset_generation}),
        pool_({.token = config.token,
               .intents = config.intents,
               .compression = config.compression,
               .max_message_bytes = config.max_message_bytes,
               .threads = config.threads,
               .batch_delay = config.batch_delay,
               .identify_reserve = config.identify_reserve,
               .session_starts = &session_starts_,
               .timings = config.timings,
               .crash_guard = config.crash_guard,
               .presence = config.presence},
              [this] {
                return std::make_unique<LogSink>(*log_, overlap_, board_,
                                                 [this] { fan_out_.Signal(); });
              }),
        director_({.shard_count = config.shard_count,
                   .shard_ids = config.shard_ids,
                   .guilds_per_shard = config.guilds_per_shard,
                   .api_url = config.api_url,
                   .intents = config.intents,
                   .reset_generation = config.reset_generation,
                   .guilds_of =
                       [this](ShardId shard) {
                         if (snapshots_ == nullptr) return std::vector<uint64_t>();
                         // The process may have been killed before it had followed a switch.
                         snapshots_->CatchUp();
                         return snapshots_->GuildsOf(shard);
                       }},
                  pool_, *log_),
        rescale_parts_(pool_, director_, overlap_, *log_, board_, carry_over_),
        rescaler_({.guilds_per_shard = config.guilds_per_shard,
                   .drain = config.rescale_drain,
                   .timeout = config.rescale_timeout,
                   .plan = {.compression = config.compression,
                            .held_bytes = config.rescale_held_bytes,
                            .lag = config.rescale_lag,
                            .drain = config.rescale_drain},
                   .clock = &clock_},
                  rescale_parts_,
                  [this] {
                    board_.Touch();
                    fan_out_.Signal();
                  }),
        stats_(config.environment, config.retain_bytes, director_, *log_, snapshots_.get(),
               *consumers_, *retention_, rescaler_, fan_out_),
        service_(director_, pool_, rescaler_, carry_over_, *log_, snapshots_.get(), *consumers_,
                 stats_, board_, fan_out_, config.max_subscribers) {
    fan_out_.Add(retention_);
    fan_out_.Add(std::make_shared<ShardSizeWatch>(director_));
    if (snapshots_ != nullptr) {
      snapshot_follower_ = std::make_unique<events::SnapshotFollower>(*snapshots_, *log_);
    }
    log_->SetListener([this] {
      fan_out_.Signal();
      if (snapshot_follower_ != nullptr) snapshot_follower_->Signal();
    });
  }

  ~Parts() { Stop(); }

  absl::Status Listen() {
    auto credentials = Credentials(config_);
    if (!credentials.ok()) return credentials.status();
    gpr_set_log_function(&ForwardGrpcLog);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    // Two servers on one port would each get some of the calls; a port in use must be an error.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                               static_cast<int>(kShortestClientPing.count()));
    int port = 0;
    builder.AddListeningPort(config_.listen.text, *credentials, &port);
    builder.RegisterService(&service_);
    grpc_ = builder.BuildAndStart();
    if (grpc_ == nullptr || port == 0) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", config_.listen.text,
                       ": is another program using it? Stop that one, or choose another --listen"));
    }
    address_ = WithPort(config_.listen, port);
    fan_out_.Add(std::make_shared<ReadinessReporter>(board_, *grpc_->GetHealthCheckService()));
    if (config_.admin_listen.has_value()) {
      auto admin = AdminHttp::Start(*config_.admin_listen,
                                    [this] { return board_.WhyNotReady(SteadyClock::now()); });
      if (!admin.ok()) return admin.status();
      admin_ = *std::move(admin);
      admin_address_ = WithPort(*config_.admin_listen, admin_->port());
    }
    return absl::OkStatus();
  }

  void Begin(std::function<void(int)> on_fatal) {
    GatewayWatchOptions options;
    options.rest = {.api_url = config_.api_url, .token = config_.token};
    options.interval = config_.gateway_bot_interval;
    const auto resumed = director_.Resume();
    rescaler_.Resume(log_->state_at_open().rescale);
    // --no-spawn is about a first start only.
    switch (resumed) {
      case ShardDirector::Resumed::kNothing:
        options.spawn = !config_.no_spawn;
        break;
      case ShardDirector::Resumed::kSome:
        options.spawn = true;
        break;
      case ShardDirector::Resumed::kAll:
        options.spawn = false;
        board_.SetStarting(false);
        break;
    }
    gateway_watch_ =
        std::make_unique<GatewayWatch>(std::move(options), director_, board_, std::move(on_fatal));
  }

  void Stop() {
    if (stopped_) return;
    stopped_ = true;
    const SteadyTime deadline = SteadyClock::now() + config_.drain_timeout;
    board_.SetStopping();
    fan_out_.Signal();
    if (gateway_watch_ != nullptr) gateway_watch_->BeginStop();
    rescaler_.Stop();
    // First the shards, so that streams can deliver the last event and then end.
    pool_.Stop(config_.drain_timeout / 2);
    if (grpc_ != nullptr) {
      // A call that gRPC lets in after it has cancelled all others would never end by itself.
      service_.BeginStop();
      do {
        for (const auto& waiter : fan_out_.waiters()) {
          if (auto* stream = dynamic_cast<OpenStream*>(waiter.get())) stream->BeginStop();
        }
        // Again after a while: a stream may have been let in, and not yet be among the waiters.
      } while (
          !service_.WaitForStreams(std::min(deadline, SteadyClock::now() + FanOut::kLongestNap)) &&
          SteadyClock::now() < deadline);
      grpc_->Shutdown(std::chrono::system_clock::now() + kGrpcShutdownGrace);
      service_.WaitForStreams(SteadyTime::max());
    }
    fan_out_.Stop();
    if (snapshot_follower_ != nullptr) snapshot_follower_->Stop();
    admin_.reset();
    grpc_.reset();
    gateway_watch_.reset();
  }

  const std::string& address() const { return address_; }
  const std::string& admin_address() const { return admin_address_; }

 private:
  const Config config_;
  const RealClock clock_;
  const std::unique_ptr<events::DataDir> data_dir_;
  SessionStarts session_starts_;
  const std::unique_ptr<events::Log> log_;
  const std::unique_ptr<events::Snapshots> snapshots_;  // nullptr: off
  std::unique_ptr<events::SnapshotFollower> snapshot_follower_;
  const std::unique_ptr<events::Consumers> consumers_;
  FanOut fan_out_;
  const std::shared_ptr<RetentionWatch> retention_;
  ShardBoard board_;
  Overlap overlap_;
  gateway::ShardPool pool_;
  ShardDirector director_;
  CarryOver carry_over_;
  PoolRescaleParts rescale_parts_;
  Rescaler rescaler_;
  StatsSource stats_;
  ShardControlService service_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<AdminHttp> admin_;
  std::unique_ptr<GatewayWatch> gateway_watch_;
  std::string address_;
  std::string admin_address_;
  bool stopped_ = false;
};

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Server::~Server() = default;
const std::string& Server::address() const { return parts_->address(); }
const std::string& Server::admin_address() const { return parts_->admin_address(); }
void Server::Stop() { parts_->Stop(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config,
                                                      std::function<void(int)> on_fatal) {
  auto data_dir = config.data_dir.empty() ? events::DataDir::MakeTemporary()
                                          : events::DataDir::Open(config.data_dir);
  if (!data_dir.ok()) return data_dir.status();
  if (auto status = events::ClaimForBot((*data_dir)->path() + "/bot", config.token); !status.ok()) {
    return status;
  }
  static const RealClock clock;
  auto ledger = events::Ledger::Open({.path = (*data_dir)->path() + "/session-starts",
                                      .token = config.token,
                                      .api_url = config.api_url,
                                      .clock = &clock});
  if (!ledger.ok()) return ledger.status();
  auto log = events::Log::Open({.dir = (*data_dir)->path(),
                                .retain_bytes = config.retain_bytes,
                                .is_temporary = (*data_dir)->is_temporary()});
  if (!log.ok()) return log.status();
  auto consumers = events::Consumers::Open(
      {.path = (*data_dir)->path() + "/consumers", .ttl = config.consumer_ttl, .clock = &clock});
  if (!consumers.ok()) return consumers.status();
  auto snapshots = OpenSnapshots(config, **data_dir, **log);
  if (!snapshots.ok()) return snapshots.status();
  auto parts =
      std::make_unique<Parts>(config, *std::move(data_dir), *std::move(ledger), *std::move(log),
                              *std::move(consumers), *std::move(snapshots));
  if (auto status = parts->Listen(); !status.ok()) return status;
  parts->Begin(std::move(on_fatal));
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

}  // namespace shardd::server
