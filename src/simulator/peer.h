#pragma once

#include <boost/asio/steady_timer.hpp>
#include <boost/json/fwd.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "simulator/connection.h"
#include "simulator/gateway.h"
#include "simulator/limits.h"
#include "simulator/payload_writer.h"
#include "simulator/protocol.h"

namespace shardd::simulator {

// One gateway connection: speaks the protocol with one client, on behalf of at most one session.
// Loop-bound; owned by its Connection.
class Peer final : public WebSocketEvents, public std::enable_shared_from_this<Peer> {
 public:
  // What the client asked for in its handshake.
  struct Handshake {
    std::string version;
    std::string compress;
    bool has_user_agent = true;
  };

  Peer(Gateway& gateway, Connection& connection, Handshake handshake);
  ~Peer() override;

  // Sends a dispatch that the session has numbered, unless a replay will come to it. A client that
  // reads too slowly is dropped.
  void SendDispatch(uint64_t sequence, const DispatchPtr& dispatch);
  // Any payload but a dispatch; `data` is the JSON of `d`.
  void SendOp(Op op, std::string_view data);
  void SendPayload(std::string_view payload);
  // One WebSocket message as it is, past the compression.
  void SendMessage(MessageKind kind, std::string_view bytes);
  // The beginning of one whose rest never comes.
  void SendFrameHeader(MessageKind kind, uint64_t size);
  void SendTcpBytes(std::string_view bytes);
  // A dispatch of this size, as one number of the session. Whether there is a session.
  bool SendBomb(size_t inflated_bytes);
  void SetDrip(size_t bytes, std::chrono::milliseconds pause);
  // Sends what was put off until the client has read: the rest of a replay, GUILD_CREATEs and
  // member lists.
  void Continue();
  // Ends the connection; the session too if that is what this code means.
  void Close(uint16_t code, std::string_view reason);
  void Reset();
  void Freeze() { connection_.Freeze(); }
  // The session goes; the connection stays and may IDENTIFY or RESUME again.
  void TakeSession() { session_ = nullptr; }

  bool Matches(const Target& target) const;

  void OnOpen() override;
  void OnMessage(std::string_view payload) override;
  void OnTooLarge() override;
  void OnClosed(uint16_t code) override;
  void OnWritten() override { Continue(); }

 private:
  void OnHeartbeat(const boost::json::value* data);
  void OnIdentify(const boost::json::object& data, std::string_view payload);
  void OnResume(const boost::json::object& data);
  // Now, or behind the lag of the session. REQUIRES: there is a session.
  void WriteDispatch(uint64_t sequence, const DispatchPtr& dispatch);
  void AwaitLate();
  void WriteLate();
  void Attach(Session& session);
  void SendReady(const std::optional<ShardId>& shard);
  void WatchHeartbeats();
  void OnHeartbeatTimeout();
  // The connection is no longer ours: gives the session back.
  void Leave();

  Gateway& gateway_;
  Connection& connection_;
  const Handshake handshake_;
  PayloadWriter writer_;
  boost::asio::steady_timer heartbeat_timer_;
  // A payload on its way to the connection; bounded as what waits for the client is.
  struct Late {
    SteadyTime due;
    uint64_t sequence = 0;
    DispatchPtr dispatch{};  // nullptr: not a dispatch
    Op op = Op::kDispatch;
    std::string data{};
  };
  std::deque<Late> late_;
  size_t late_bytes_ = 0;
  boost::asio::steady_timer late_timer_;
  SendWindow sends_;
  Session* session_ = nullptr;
  // Of the newest session that this connection had: faults can still name it by them.
  std::optional<ShardId> last_shard_;
  std::string last_session_id_;
  SteadyTime last_heartbeat_;
  bool left_ = false;
};

}  // namespace shardd::simulator
