#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "gateway/event_sink.h"
#include "gateway/identify_gate.h"
#include "gateway/inflater.h"
#include "gateway/protocol.h"
#include "gateway/send_member_limit.h"
#include "gateway/send_queue.h"
#include "gateway/transport.h"

namespace shardd::gateway {

class Shard;

// What the shards of one worker share. All of it outlives them.
struct ShardContext {
  boost::asio::io_context& io;
  EventSink& sink;
  IdentifyGate& gate;
  SendMemberLimit& members;
  const Clock& clock;
  TransportFactory make_transport;
  size_t max_message_bytes = kDefaultMaxMessageBytes;
  EnvelopeReader reader;
  MessageBuffer buffer;

  // Since the worker's round began.
  size_t dispatches = 0;        // given to the sink
  bool sink_touched = false;    // anything given to the sink
  std::vector<Shard*> changed;  // whose info() is not what it was
};

// One live shard: performs what its ShardProtocol decides, on one connection at a time. Lives on
// its worker's thread, and must not be destroyed before the worker's io_context has run out of
// work, since what it started refers to it.
class Shard {
 public:
  Shard(ProtocolOptions options, ShardContext* context);
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  void SetGatewayUrl(const std::string& url);
  // REQUIRES: before Start.
  void Restore(KeptShard kept);
  void Start();
  void Stop(bool keep_session);
  // See ShardProtocol.
  void Beat();
  // Of the sessions that come. REQUIRES: not running.
  void SetSessionFloor(uint32_t floor) { protocol_.SetSessionFloor(floor); }
  void SetPresence(const std::string& presence);
  // Queues a command; see SendQueue. A shard that does not run refuses it, and what waits when it
  // stops.
  void Send(SendRequest request);
  void CancelSend(uint64_t id);
  void EndSends(SendOutcome outcome);
  // Drops every connection, also those that are closing. REQUIRES: stopped.
  void AbortConnections();
  // Some connection, perhaps one that is closing, has not ended.
  bool has_connections() const;

  const ShardInfo& info() const { return protocol_.info(); }
  bool is_running() const { return protocol_.is_running(); }
  bool has_session() const { return protocol_.has_session(); }
  bool needs_session_start() const { return protocol_.needs_session_start(); }

  // For the worker: where it keeps the copy of info() that other threads read (null: nowhere), and
  // whether that is in `changed`.
  ShardInfo* published = nullptr;
  bool in_changed = false;

 private:
  struct Connection;
  using ConnectionPtr = std::shared_ptr<Connection>;

  Now TimeNow() const;
  void Perform();
  void PerformActions();
  void Do(action::EmitDispatch& a);
  void Do(action::Send& a);
  void Do(action::ChangeState& a);
  void Do(action::EnterGate& a);
  void Do(action::LeaveGate& a);
  void Do(action::SpendSessionStart& a);
  void Do(action::Connect& a);
  void Do(action::Close& a);
  void Do(action::OpenSession& a);
  void Do(action::EndSession& a);
  void Do(action::LoseSession& a);
  void Do(action::SkipEvent& a);
  void Do(action::EnterCrashLoop& a);
  void Do(action::ReportAck& a);
  void Do(action::ReportSilence& a);
  void Do(action::Warn& a);
  void EnterGate(bool is_recovery);
  void ShowWhyWaiting();
  void ArmTimer();
  void OnTimer();

  void FollowState();
  void PumpSends();
  void StartWriting();

  boost::asio::awaitable<void> Run(ConnectionPtr connection, std::string url);
  boost::asio::awaitable<void> WriteAll(ConnectionPtr connection);
  boost::asio::awaitable<void> CloseGently(ConnectionPtr connection, uint16_t code);
  void Deliver(Connection& connection, const Transport::Message& message);
  void OnEnd(const ConnectionPtr& connection, std::exception_ptr error);
  // What was not performed: if it is an event, it is to come again.
  void Unsettle(const Action& action);
  template <class Function>
  void Guarded(Function function);
  void OnException(const char* what);

  ShardContext* const context_;
  const Compression compression_;
  const std::chrono::milliseconds close_timeout_;
  const CrashGuardOptions crash_guard_;
  const std::string name_;
  std::string presence_;  // that protocol_ knows
  ShardProtocol protocol_;
  std::vector<Action> performing_;  // its actions, while they are performed
  size_t performed_ = 0;            // of them
  bool is_broken_ = false;          // the recovery from an exception threw as well
  ConnectionPtr connection_;        // the present one
  std::vector<std::weak_ptr<Connection>> connections_;
  boost::asio::steady_timer timer_;
  SteadyTime timer_at_ = SteadyTime::max();
  uint64_t timer_generation_ = 0;
  SendQueue sends_;
  SteadyTime sends_at_ = SteadyTime::max();  // when they need the timer
  IdentifyGate::Ticket ticket_ = 0;
  uint64_t gate_entries_ = 0;
  bool is_recovery_ = false;  // what it was last entered for
  std::string wait_reason_;
};

}  // namespace shardd::gateway
