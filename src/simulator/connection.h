#pragma once

#include <array>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "simulator/http.h"
#include "simulator/stream.h"
#include "simulator/websocket.h"

namespace shardd::simulator {

class Connection;

// What a WebSocket's owner is told. Loop-bound.
class WebSocketEvents {
 public:
  virtual ~WebSocketEvents() = default;
  virtual void OnOpen() = 0;  // the 101 answer has left
  virtual void OnMessage(std::string_view payload) = 0;
  virtual void OnTooLarge() = 0;  // a message over the limit, which is passed over
  // The client has ended it: its close code, 1005 without a code, 1006 without a close frame. Not
  // called after Close() or Reset().
  virtual void OnClosed(uint16_t code) = 0;
  virtual void OnWritten() = 0;  // what was queued has left
};

// Who answers requests. Outlives all connections. Loop-bound.
class RequestHandler {
 public:
  virtual ~RequestHandler() = default;
  virtual http::Response Answer(const http::Request& request) = 0;
  // Either owner of the new WebSocket, or an answer that refuses it, or neither: the connection is
  // reset.
  virtual std::shared_ptr<WebSocketEvents> Accept(Connection& connection,
                                                  const http::Request& request,
                                                  std::optional<http::Response>& refusal) = 0;
};

// One client's connection: HTTP requests first, and from an upgrade on a WebSocket. Loop-bound;
// keeps itself alive while an operation is pending, which Reset() ends.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::unique_ptr<Stream> stream, boost::asio::any_io_executor executor,
             RequestHandler& handler);

  void Start();

  // Queues one WebSocket message, cut into so many frames. Everything queued in one round leaves in
  // one write.
  void Send(bool binary, std::string_view payload, uint32_t fragments);
  // Queues bytes as they are, outside of any frame.
  void SendBytes(std::string_view bytes);
  // From the next write on, so many bytes at a time with this pause between; 0 bytes: all at once.
  void SetDrip(size_t bytes, std::chrono::milliseconds pause);
  // Queues a close frame (code 0: without a code) and ends the connection when the client has
  // answered it, or in a second.
  void Close(uint16_t code, std::string_view reason);
  void Reset();
  // Neither reads nor writes any more, but stays open until Reset().
  void Freeze();

  size_t queued_bytes() const { return queue_.size() + in_flight_.size(); }
  bool open() const { return state_ == State::kHttp || state_ == State::kWebSocket; }
  bool frozen() const { return frozen_; }
  const boost::asio::any_io_executor& executor() const { return executor_; }

 private:
  enum class State { kHttp, kWebSocket, kClosing, kClosed };

  void Read();
  void OnRead(Stream::Error error, size_t size);
  void ReadRequests();
  void Upgrade(const http::Request& request);
  void ReadMessages();
  void OnCloseFrame(std::string_view payload);
  void Flush();
  void WriteNext();
  void OnWrite(Stream::Error error);
  void Queue();
  void Lost();
  void Finish();

  const std::unique_ptr<Stream> stream_;
  const boost::asio::any_io_executor executor_;
  RequestHandler& handler_;
  boost::asio::steady_timer close_timer_;
  boost::asio::steady_timer drip_timer_;
  State state_ = State::kHttp;
  std::array<char, 16 * 1024> read_buffer_;
  std::string request_bytes_;
  websocket::Decoder decoder_;
  std::shared_ptr<WebSocketEvents> events_;  // from the upgrade on
  bool opened_ = false;                      // its OnOpen() has been called
  std::string queue_;
  std::string in_flight_;
  size_t written_ = 0;  // of in_flight_
  size_t drip_bytes_ = 0;
  std::chrono::milliseconds drip_pause_{0};
  bool flush_posted_ = false;
  bool finish_when_written_ = false;
  bool frozen_ = false;
  std::shared_ptr<Connection> while_frozen_;  // no operation is pending then
};

}  // namespace shardd::simulator
