#include "simulator/simulator.h"

#include <atomic>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <future>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>

#include "simulator/certificate.h"
#include "simulator/connection.h"
#include "simulator/controls.h"
#include "simulator/gateway.h"
#include "simulator/http_api.h"
#include "simulator/stream.h"

namespace shardd::simulator {

namespace asio = boost::asio;
using asio::ip::tcp;

// The thread, and everything that is bound to it.
class Simulator::Loop {
 public:
  explicit Loop(const SimulatorOptions& options)
      : gateway_(options, [this] { NoteChange(); }),
        controls_(gateway_),
        api_(gateway_, controls_),
        acceptor_(io_),
        tick_timer_(io_),
        sweep_timer_(io_) {
    if (options.tls) SetUpTls();
    Listen(options.port);
    gateway_.url = std::string(options.tls ? "wss" : "ws") + "://" + authority();
    api_url_ = std::string(options.tls ? "https" : "http") + "://" + authority() + "/api/v10";
    Accept();
    Tick();
    Sweep();
    thread_ = std::thread([this] { io_.run(); });
  }

  ~Loop() {
    // With every operation ended, run() has nothing left to do and returns.
    asio::post(io_, [this] {
      stopping_ = true;
      acceptor_.close();
      tick_timer_.cancel();
      sweep_timer_.cancel();
      for (const auto& weak : connections_) {
        if (const auto connection = weak.lock()) connection->Reset();
      }
    });
    thread_.join();
  }

  // Runs on the thread, and waits for the result.
  template <class Action>
  auto Run(Action action) {
    std::packaged_task<std::invoke_result_t<Action>()> task(std::move(action));
    auto result = task.get_future();
    asio::dispatch(io_, [&task] { task(); });
    return result.get();
  }

  uint16_t port() const { return port_; }
  std::string authority() const { return "127.0.0.1:" + std::to_string(port_); }
  const std::string& api_url() const { return api_url_; }
  std::string certificate_path() const { return ca_file_ == nullptr ? "" : ca_file_->path(); }
  Gateway& gateway() { return gateway_; }
  Controls& controls() { return controls_; }

  bool WaitUntil(const std::function<bool()>& condition, std::chrono::milliseconds timeout) {
    // Some conditions depend on what we do not see, such as a client's own state.
    constexpr std::chrono::milliseconds kTryAgain{5};
    const SteadyTime deadline = SteadyClock::now() + timeout;
    ++waiters_;
    bool holds = condition();
    while (!holds && SteadyClock::now() < deadline) {
      {
        std::unique_lock lock(mutex_);
        change_.wait_for(lock, kTryAgain, [this] { return changed_; });
        changed_ = false;
      }
      holds = condition();
    }
    --waiters_;
    return holds;
  }

 private:
  void NoteChange() {
    if (waiters_ == 0) return;
    {
      const std::lock_guard lock(mutex_);
      changed_ = true;
    }
    change_.notify_all();
  }

  void SetUpTls() {
    const Certificate certificate = MakeCertificate();
    tls_.use_certificate_chain(asio::buffer(certificate.leaf));
    tls_.use_private_key(asio::buffer(certificate.key), asio::ssl::context::pem);
    ca_file_ = std::make_unique<TemporaryFile>(certificate.authority);
  }

  void Listen(uint16_t port) {
    const tcp::endpoint endpoint(asio::ip::address_v4::loopback(), port);
    try {
      acceptor_.open(endpoint.protocol());
      acceptor_.set_option(tcp::acceptor::reuse_address(true));
      acceptor_.bind(endpoint);
      acceptor_.listen();
    } catch (const boost::system::system_error& error) {
      throw std::system_error(error.code(), "cannot listen on 127.0.0.1:" + std::to_string(port));
    }
    port_ = acceptor_.local_endpoint().port();
  }

  void Accept() {
    acceptor_.async_accept([this](const boost::system::error_code& error, tcp::socket socket) {
      if (stopping_) return;
      // Out of descriptors, as a rule: the sweep tries again.
      if (error) {
        accept_again_ = true;
        return;
      }
      auto stream = gateway_.options.tls ? MakeTlsStream(std::move(socket), tls_)
                                         : MakeTcpStream(std::move(socket));
      const auto connection =
          std::make_shared<Connection>(std::move(stream), io_.get_executor(), api_);
      connections_.push_back(connection);
      connection->Start();
      Accept();
    });
  }

  void Tick() {
    if (stopping_) return;
    controls_.Tick(SteadyClock::now());
    tick_timer_.expires_after(gateway_.options.tick);
    tick_timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) Tick();
    });
  }

  void Sweep() {
    if (stopping_) return;
    gateway_.Sweep();
    std::erase_if(connections_, [](const auto& weak) { return weak.expired(); });
    if (std::exchange(accept_again_, false)) Accept();
    sweep_timer_.expires_after(std::chrono::milliseconds(250));
    sweep_timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) Sweep();
    });
  }

  // Outlive the connections, which end with io_.
  Gateway gateway_;
  Controls controls_;
  HttpApi api_;
  asio::ssl::context tls_{asio::ssl::context::tls_server};
  std::unique_ptr<TemporaryFile> ca_file_;
  uint16_t port_ = 0;
  std::string api_url_;

  std::mutex mutex_;
  std::condition_variable change_;
  bool changed_ = false;  // guarded by mutex_
  std::atomic<int> waiters_ = 0;

  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer tick_timer_;
  asio::steady_timer sweep_timer_;
  std::vector<std::weak_ptr<Connection>> connections_;
  bool accept_again_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

Simulator::Simulator(SimulatorOptions options) : loop_(std::make_unique<Loop>(options)) {}
Simulator::~Simulator() = default;

uint16_t Simulator::port() const { return loop_->port(); }
std::string Simulator::api_url() const { return loop_->api_url(); }
std::string Simulator::gateway_url() const { return loop_->gateway().url; }
std::string Simulator::certificate_path() const { return loop_->certificate_path(); }
const std::vector<uint64_t>& Simulator::guild_ids() const {
  return loop_->gateway().guilds().ids();
}

size_t Simulator::Emit(std::string_view type, uint64_t guild_id, std::string data) {
  return loop_->Run([&] { return loop_->controls().Emit(type, guild_id, std::move(data)); });
}
void Simulator::EmitTraffic(size_t events) {
  loop_->Run([&] { loop_->controls().EmitTraffic(events); });
}
void Simulator::EmitStructure(size_t changes) {
  loop_->Run([&] { loop_->controls().EmitStructure(changes); });
}
void Simulator::SetRate(double events_per_second) {
  loop_->Run([&] { loop_->controls().SetRate(events_per_second); });
}

size_t Simulator::DropConnections(const Target& target) {
  return loop_->Run([&] { return loop_->controls().DropConnections(target); });
}
size_t Simulator::SendReconnect(const Target& target) {
  return loop_->Run([&] { return loop_->controls().SendReconnect(target); });
}
size_t Simulator::SendInvalidSession(const Target& target, bool resumable) {
  return loop_->Run([&] { return loop_->controls().SendInvalidSession(target, resumable); });
}
size_t Simulator::CloseWith(const Target& target, uint16_t code, std::string_view reason) {
  return loop_->Run([&] { return loop_->controls().CloseWith(target, code, reason); });
}
size_t Simulator::StopAcks(const Target& target, bool stop) {
  return loop_->Run([&] { return loop_->controls().StopAcks(target, stop); });
}
size_t Simulator::RequestHeartbeat(const Target& target) {
  return loop_->Run([&] { return loop_->controls().RequestHeartbeat(target); });
}
size_t Simulator::SendRaw(const Target& target, std::string_view payload) {
  return loop_->Run([&] { return loop_->controls().SendRaw(target, payload); });
}
size_t Simulator::SendBytes(const Target& target, MessageKind kind, std::string_view bytes) {
  return loop_->Run([&] { return loop_->controls().SendBytes(target, kind, bytes); });
}
size_t Simulator::SendFrameHeader(const Target& target, MessageKind kind, uint64_t size) {
  return loop_->Run([&] { return loop_->controls().SendFrameHeader(target, kind, size); });
}
size_t Simulator::SendTcpBytes(const Target& target, std::string_view bytes) {
  return loop_->Run([&] { return loop_->controls().SendTcpBytes(target, bytes); });
}
size_t Simulator::SendBomb(const Target& target, size_t inflated_bytes) {
  return loop_->Run([&] { return loop_->controls().SendBomb(target, inflated_bytes); });
}
size_t Simulator::Freeze(const Target& target) {
  return loop_->Run([&] { return loop_->controls().Freeze(target); });
}
size_t Simulator::ForgetSessions(const Target& target) {
  return loop_->Run([&] { return loop_->controls().ForgetSessions(target); });
}

void Simulator::RefuseNextConnections(uint32_t n, uint16_t http_status) {
  loop_->Run([&] {
    loop_->gateway().faults.refuse_connections = n;
    loop_->gateway().faults.refuse_status = http_status;
  });
}
void Simulator::SilenceNextHellos(uint32_t n) {
  loop_->Run([&] { loop_->gateway().faults.silent_hellos = n; });
}
void Simulator::ReconnectInsteadOfHello(uint32_t n) {
  loop_->Run([&] { loop_->gateway().faults.reconnect_hellos = n; });
}
void Simulator::RefuseNextIdentifies(uint32_t n) {
  loop_->Run([&] { loop_->gateway().faults.refuse_identifies = n; });
}
void Simulator::RefuseNextResumes(uint32_t n) {
  loop_->Run([&] { loop_->gateway().faults.refuse_resumes = n; });
}
void Simulator::IgnoreNextIdentifies(uint32_t n) {
  loop_->Run([&] { loop_->gateway().faults.ignore_identifies = n; });
}
void Simulator::AnswerGatewayBotWith(uint16_t http_status, uint32_t n,
                                     std::chrono::milliseconds retry_after) {
  loop_->Run([&] {
    PendingFaults& faults = loop_->gateway().faults;
    faults.gateway_bot_answers = n;
    faults.gateway_bot_status = http_status;
    faults.retry_after = retry_after;
    faults.gateway_bot_body.reset();
  });
}
void Simulator::AnswerGatewayBotWithBody(uint16_t http_status, std::string body, uint32_t n,
                                         std::string content_type) {
  loop_->Run([&] {
    PendingFaults& faults = loop_->gateway().faults;
    faults.gateway_bot_answers = n;
    faults.gateway_bot_status = http_status;
    faults.gateway_bot_body = std::move(body);
    faults.gateway_bot_content_type = std::move(content_type);
  });
}
void Simulator::SetSessionStarts(uint32_t remaining,
                                 std::optional<std::chrono::milliseconds> reset_after) {
  loop_->Run([&] { loop_->controls().SetSessionStarts(remaining, reset_after); });
}
void Simulator::SetHello(std::string data) {
  loop_->Run([&] { loop_->gateway().faults.hello = std::move(data); });
}
void Simulator::SetDrip(size_t bytes_per_write, std::chrono::milliseconds pause) {
  loop_->Run([&] { loop_->controls().SetDrip(bytes_per_write, pause); });
}
void Simulator::SetToken(std::string token) {
  loop_->Run([&] { loop_->gateway().SetToken(std::move(token)); });
}
void Simulator::SetRecommendedShards(uint32_t shards) {
  loop_->Run([&] { loop_->gateway().options.recommended_shards = shards; });
}
void Simulator::SetQuirks(const Quirks& quirks) {
  loop_->Run([&] { loop_->gateway().options.quirks = quirks; });
}
void Simulator::SetSplitting(uint32_t messages, uint32_t fragments) {
  loop_->Run([&] {
    loop_->gateway().options.split_messages = messages;
    loop_->gateway().options.split_fragments = fragments;
  });
}
void Simulator::SetPermuteKeys(bool permute) {
  loop_->Run([&] { loop_->gateway().options.permute_keys = permute; });
}

void Simulator::SetEqualPayloads(double share) {
  loop_->Run([&] { loop_->controls().SetEqualPayloads(share); });
}
void Simulator::SetLag(uint32_t shard_count, const Lag& lag) {
  loop_->Run([&] { loop_->gateway().options.lags[shard_count] = lag; });
}
void Simulator::SetSkew(uint32_t shard_count, const Skew& skew) {
  loop_->Run([&] { loop_->gateway().options.skews[shard_count] = skew; });
}
void Simulator::SetMaxGuildsPerShard(uint32_t guilds) {
  loop_->Run([&] { loop_->gateway().options.max_guilds_per_shard = guilds; });
}
void Simulator::SetShardCountMultiple(uint32_t multiple) {
  loop_->Run([&] { loop_->gateway().options.shard_count_multiple = multiple; });
}
void Simulator::SetDisallowedIntents(uint64_t intents) {
  loop_->Run([&] { loop_->gateway().options.disallowed_intents = intents; });
}

std::vector<SessionInfo> Simulator::Sessions() const {
  return loop_->Run([&] { return loop_->gateway().Sessions(); });
}
std::optional<SessionInfo> Simulator::Session(ShardId shard) const {
  return loop_->Run([&]() -> std::optional<SessionInfo> {
    const auto sessions = loop_->gateway().Select(shard);
    if (sessions.empty()) return std::nullopt;
    return sessions.back()->Info();
  });
}
Counters Simulator::counters() const {
  return loop_->Run([&] {
    Counters counters = loop_->gateway().counters;
    counters.open_connections = loop_->gateway().SelectPeers(Target()).size();
    return counters;
  });
}
void Simulator::ResetPeakConnections() {
  loop_->Run([&] {
    loop_->gateway().counters.peak_open_connections = loop_->gateway().SelectPeers(Target()).size();
  });
}
std::vector<EmittedEvent> Simulator::TakeEmitted() {
  std::vector<Gateway::Emitted> taken = loop_->Run([&] { return loop_->gateway().TakeEmitted(); });
  std::vector<EmittedEvent> events;
  events.reserve(taken.size());
  for (Gateway::Emitted& emitted : taken) {
    const Dispatch& event = *emitted.event;
    events.push_back({event.type, event.guild_id, event.data, emitted.unix_nanos,
                      std::move(emitted.shard_counts)});
  }
  return events;
}
uint32_t Simulator::session_starts_remaining() const {
  return loop_->Run([&] { return loop_->gateway().limits().Remaining(SteadyClock::now()); });
}
std::vector<SentDispatch> Simulator::Sent(const std::string& session_id) const {
  return loop_->Run([&] { return loop_->gateway().Sent(session_id); });
}
std::vector<GuildState> Simulator::GuildStates() const {
  return loop_->Run([&] { return loop_->gateway().structure().States(); });
}
std::vector<SentDigest> Simulator::SentDigests(const std::string& session_id) const {
  return loop_->Run([&] { return loop_->gateway().SentDigests(session_id); });
}
std::vector<ReceivedCommand> Simulator::Commands(const std::string& session_id) const {
  return loop_->Run([&] { return loop_->gateway().CommandsOf(session_id); });
}

bool Simulator::WaitUntil(const std::function<bool()>& condition,
                          std::chrono::milliseconds timeout) const {
  return loop_->WaitUntil(condition, timeout);
}
bool Simulator::WaitForSessions(uint32_t shard_count, size_t sessions,
                                std::chrono::milliseconds timeout) const {
  return WaitUntil(
      [&] {
        size_t found = 0;
        for (const SessionInfo& info : Sessions()) {
          if (info.shard.count == shard_count && info.connected && info.guilds_sent) ++found;
        }
        return found >= sessions;
      },
      timeout);
}

}  // namespace shardd::simulator
