#include "gateway/shard.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <utility>

#include "common/log.h"
#include "gateway/asio.h"

namespace shardd::gateway {
namespace {

// How often a shard in the gate looks whether Discord's day of session starts has begun anew.
constexpr std::chrono::seconds kGateTick{1};

// Payloads that wait for the one being written. A shard has one or two to send at a time.
constexpr size_t kMaxQueued = 16;

std::string_view Name(ShardState state) {
  switch (state) {
    case ShardState::kIdle:
      return "idle";
    case ShardState::kWaitingToIdentify:
      return "waiting to identify";
    case ShardState::kConnecting:
      return "connecting";
    case ShardState::kIdentifying:
      return "identifying";
    case ShardState::kResuming:
      return "resuming";
    case ShardState::kReady:
      return "ready";
    case ShardState::kBackingOff:
      return "backing off";
    case ShardState::kCrashLoop:
      return "crash loop";
    case ShardState::kFailed:
      return "failed";
    case ShardState::kStopped:
      return "stopped";
  }
  return "";
}

void LogState(const std::string& name, const ShardInfo& info) {
  switch (info.state) {
    case ShardState::kReady:
      log::Info("shard is ready", {{"shard", name},
                                   {"how", info.reason},
                                   {"session", info.session},
                                   {"sequence", info.sequence},
                                   {"guilds", info.guilds}});
      return;
    case ShardState::kFailed:
      log::Error("shard failed", {{"shard", name}, {"reason", info.reason}});
      return;
    case ShardState::kBackingOff:
    case ShardState::kStopped:
      log::Info("shard is not connected",
                {{"shard", name}, {"state", Name(info.state)}, {"reason", info.reason}});
      return;
    case ShardState::kIdle:
    case ShardState::kWaitingToIdentify:
    case ShardState::kConnecting:
    case ShardState::kIdentifying:
    case ShardState::kResuming:
    case ShardState::kCrashLoop:
      log::Debug("shard goes on",
                 {{"shard", name}, {"state", Name(info.state)}, {"reason", info.reason}});
      return;
  }
}

}  // namespace

struct Shard::Connection {
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Inflater> inflater;
  std::deque<std::string> outgoing;
  bool open = false;
  bool write_in_flight = false;
};

Shard::Shard(ProtocolOptions options, ShardContext* context)
    : context_(context),
      compression_(options.compression),
      close_timeout_(options.timings.close_timeout),
      name_(ToString(options.shard)),
      protocol_(std::move(options), &context->reader),
      timer_(context->io) {}

Now Shard::TimeNow() const { return {context_->clock.Steady(), context_->clock.Wall()}; }

void Shard::Start() {
  protocol_.Start(TimeNow());
  Perform();
}

void Shard::Stop(bool keep_session) {
  protocol_.Stop(keep_session, TimeNow());
  Perform();
}

void Shard::AbortConnections() {
  for (const auto& each : connections_) {
    if (const ConnectionPtr connection = each.lock()) connection->transport->Abort();
  }
}

bool Shard::has_connections() const {
  return std::ranges::any_of(connections_, [](const auto& each) { return !each.expired(); });
}

// ---- What the protocol decided ----

void Shard::Perform() {
  for (Action& each : protocol_.actions()) {
    std::visit([this](auto& a) { Do(a); }, each);
  }
  protocol_.actions().clear();
  if (!std::exchange(in_changed, true)) context_->changed.push_back(this);
  ArmTimer();
}

void Shard::Do(action::EmitDispatch& a) {
  ++context_->dispatches;
  context_->sink_touched = true;
  context_->sink.OnDispatch(a.dispatch);
}

void Shard::Do(action::ChangeState& a) {
  LogState(name_, a.info);
  context_->sink_touched = true;
  context_->sink.OnStateChange(a.info);
}

void Shard::Do(action::LoseSession& a) {
  log::Warn("session lost", {{"shard", name_},
                             {"session", a.session},
                             {"sequence", a.last_sequence},
                             {"reason", a.reason}});
  context_->sink_touched = true;
  context_->sink.OnSessionLost({.shard = info().shard,
                                .session = a.session,
                                .last_sequence = a.last_sequence,
                                .last_event_unix_nanos = a.last_event_unix_nanos,
                                .reason = a.reason});
}

void Shard::Do(action::Warn& a) {
  log::Warn("gateway oddity", {{"shard", name_}, {"what", a.text}});
}

void Shard::Do(action::EnterGate&) {
  const uint64_t entry = ++gate_entries_;
  // The gate calls from any thread, and perhaps within Enter.
  auto admit = [this, entry](SteadyTime not_before) {
    asio::post(context_->io, [this, entry, not_before] {
      if (ticket_ == 0 || entry != gate_entries_) return;
      protocol_.Admitted(not_before, TimeNow());
      Perform();
    });
  };
  ticket_ = context_->gate.Enter(info().shard.id, std::move(admit), TimeNow().steady);
}

void Shard::Do(action::LeaveGate&) {
  context_->gate.Leave(std::exchange(ticket_, 0), TimeNow().steady);
}

void Shard::Do(action::SpendSessionStart&) {
  context_->gate.Identified(std::exchange(ticket_, 0), TimeNow().steady);
}

void Shard::Do(action::Connect& a) {
  auto connection = std::make_shared<Connection>();
  connection->transport = context_->make_transport(a.url);
  connection->inflater = Inflater::Create(compression_);
  connection_ = connection;
  std::erase_if(connections_, [](const auto& each) { return each.expired(); });
  connections_.push_back(connection);
  asio::co_spawn(context_->io, Run(connection, std::move(a.url)),
                 [this, connection](std::exception_ptr error) { OnEnd(connection, error); });
}

void Shard::Do(action::Send& a) {
  if (connection_ == nullptr) return;
  // A server that asks for heartbeats without reading them must not fill the memory.
  if (a.is_heartbeat && connection_->outgoing.size() >= kMaxQueued) return;
  // A heartbeat tells Discord what it need not send again.
  if (a.is_heartbeat) context_->sink.Flush();
  connection_->outgoing.push_back(std::move(a.text));
  if (std::exchange(connection_->write_in_flight, true)) return;
  asio::co_spawn(
      context_->io, WriteAll(connection_),
      [this, connection = connection_](std::exception_ptr error) { OnEnd(connection, error); });
}

void Shard::Do(action::Close& a) {
  const ConnectionPtr connection = std::exchange(connection_, nullptr);
  if (connection == nullptr) return;
  connection->outgoing.clear();
  if (!connection->open) {
    connection->transport->Abort();
    return;
  }
  asio::co_spawn(context_->io, CloseGently(connection, a.code),
                 [this, connection](std::exception_ptr error) { OnEnd(connection, error); });
}

void Shard::ArmTimer() {
  SteadyTime at = protocol_.deadline();
  if (at == SteadyTime::max() && ticket_ == 0) {
    ++timer_generation_;
    timer_at_ = at;
    timer_.cancel();
    return;
  }
  if (ticket_ != 0) at = std::min(at, TimeNow().steady + kGateTick);
  // A deadline that moved away is noticed when the timer fires: replayed events move it each time.
  if (at >= timer_at_) return;
  timer_at_ = at;
  timer_.expires_at(at);
  timer_.async_wait([this, generation = ++timer_generation_](error_code ec) {
    if (!ec && generation == timer_generation_) OnTimer();
  });
}

void Shard::OnTimer() {
  timer_at_ = SteadyTime::max();
  const Now now = TimeNow();
  if (ticket_ != 0) context_->gate.Tick(now.steady);
  protocol_.Tick(now);
  Perform();
}

// ---- One connection ----

Awaitable<void> Shard::Run(ConnectionPtr connection, std::string url) {
  // Not within Perform(), which asked for it.
  co_await asio::post(context_->io, asio::use_awaitable);
  const error_code connect_error = co_await connection->transport->Connect(std::move(url));
  if (connection != connection_) co_return;
  if (connect_error) {
    connection_ = nullptr;
    protocol_.ConnectFailed(connection->transport->last_error(), TimeNow());
    Perform();
    co_return;
  }
  connection->open = true;
  protocol_.Connected(TimeNow());
  Perform();

  Transport::Message message;
  for (;;) {
    const error_code read_error = co_await connection->transport->Read(&message);
    if (connection != connection_) co_return;
    if (read_error) break;
    Deliver(*connection, message);
    if (connection != connection_) co_return;
  }
  connection_ = nullptr;
  if (connection->transport->closed_by_peer()) {
    protocol_.Closed(connection->transport->close_code(), TimeNow());
  } else {
    protocol_.ConnectionLost(connection->transport->last_error(), TimeNow());
  }
  Perform();
}

void Shard::Deliver(Connection& connection, const Transport::Message& message) {
  protocol_.BytesArrived();
  switch (connection.inflater->Feed(message.bytes, message.is_text, &context_->buffer)) {
    case Inflater::Result::kMessage:
      protocol_.Received(context_->buffer.view(), TimeNow());
      break;
    case Inflater::Result::kIncomplete:
      return;
    case Inflater::Result::kError:
      protocol_.ReceivedGarbage("broken compression, or a message over the bound", TimeNow());
      break;
  }
  Perform();
}

// Writes what is queued, one after the other. That a write failed shows in Read, too.
Awaitable<void> Shard::WriteAll(ConnectionPtr connection) {
  while (!connection->outgoing.empty()) {
    const std::string text = std::move(connection->outgoing.front());
    connection->outgoing.pop_front();
    const error_code ec = co_await connection->transport->Write(text);
    if (ec) break;
  }
  connection->write_in_flight = false;
}

Awaitable<void> Shard::CloseGently(ConnectionPtr connection, uint16_t code) {
  // A zombie does not answer the closing handshake either.
  asio::steady_timer timer(context_->io, close_timeout_);
  timer.async_wait([weak = std::weak_ptr(connection)](error_code ec) {
    const ConnectionPtr late = weak.lock();
    if (!ec && late != nullptr) late->transport->Abort();
  });
  const error_code ignored = co_await connection->transport->Close(code);
  static_cast<void>(ignored);
  connection->transport->Abort();
}

// A coroutine that throws is a bug; it ends this connection and nothing else.
void Shard::OnEnd(const ConnectionPtr& connection, std::exception_ptr error) {
  if (error == nullptr) return;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    log::Error("shard's connection ended by an exception", {{"shard", name_}, {"what", e.what()}});
  }
  connection->transport->Abort();
  if (connection != connection_) return;
  connection_ = nullptr;
  protocol_.ConnectFailed("internal error", TimeNow());
  protocol_.ConnectionLost("internal error", TimeNow());
  Perform();
}

}  // namespace shardd::gateway
