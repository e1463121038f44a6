#include "simulator/connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "simulator/protocol.h"

namespace shardd::simulator {
namespace {

// https://discord.com/developers/docs/events/gateway#sending-events: larger payloads are closed
// with 4002.
constexpr size_t kLargestMessage = 4096;
constexpr std::chrono::seconds kCloseTimeout{1};

}  // namespace

Connection::Connection(std::unique_ptr<Stream> stream, boost::asio::any_io_executor executor,
                       RequestHandler& handler)
    : stream_(std::move(stream)),
      executor_(std::move(executor)),
      handler_(handler),
      close_timer_(executor_),
      drip_timer_(executor_),
      decoder_(kLargestMessage) {}

void Connection::Start() {
  stream_->AsyncHandshake([self = shared_from_this()](Stream::Error error) {
    if (error) return self->Finish();
    self->Read();
  });
}

void Connection::Read() {
  stream_->AsyncRead(
      boost::asio::buffer(read_buffer_),
      [self = shared_from_this()](Stream::Error error, size_t size) { self->OnRead(error, size); });
}

void Connection::OnRead(Stream::Error error, size_t size) {
  if (state_ == State::kClosed || frozen_) return;
  if (error) return Lost();
  if (state_ == State::kHttp) {
    request_bytes_.append(read_buffer_.data(), size);
    ReadRequests();
  } else {
    decoder_.Feed(read_buffer_.data(), size);
    ReadMessages();
  }
  if (state_ != State::kClosed && !frozen_) Read();
}

void Connection::ReadRequests() {
  http::Request request;
  while (state_ == State::kHttp) {
    switch (http::Parse(request_bytes_, request)) {
      case http::ParseResult::kNeedMore:
        return;
      case http::ParseResult::kBad:
        return Reset();
      case http::ParseResult::kRequest:
        break;
    }
    if (request.IsWebSocketUpgrade()) return Upgrade(request);
    queue_ += http::Format(handler_.Answer(request), request.keep_alive);
    Queue();
    if (!request.keep_alive) {
      state_ = State::kClosing;
      finish_when_written_ = true;
    }
  }
}

void Connection::Upgrade(const http::Request& request) {
  std::optional<http::Response> refusal;
  events_ = handler_.Accept(*this, request, refusal);
  if (events_ == nullptr) {
    if (!refusal.has_value()) return Reset();
    queue_ += http::Format(*refusal, false);
    state_ = State::kClosing;
    finish_when_written_ = true;
    return Queue();
  }
  state_ = State::kWebSocket;
  queue_ += http::FormatUpgrade(websocket::AcceptKey(request.Header("sec-websocket-key")));
  Queue();
  decoder_.Feed(request_bytes_.data(), request_bytes_.size());
  request_bytes_.clear();
}

void Connection::ReadMessages() {
  websocket::Message message;
  while (state_ != State::kClosed) {
    switch (decoder_.Next(message)) {
      case websocket::Decoder::Result::kNeedMore:
        return;
      case websocket::Decoder::Result::kTooLarge:
        if (state_ == State::kWebSocket) events_->OnTooLarge();
        continue;
      case websocket::Decoder::Result::kProtocolError:
        if (state_ == State::kWebSocket) events_->OnClosed(close_code::kProtocolError);
        return Reset();
      case websocket::Decoder::Result::kMessage:
        break;
    }
    if (message.opcode == websocket::Opcode::kClose) return OnCloseFrame(message.payload);
    if (state_ != State::kWebSocket) continue;
    if (message.opcode == websocket::Opcode::kPing) {
      websocket::AppendMessage(websocket::Opcode::kPong, message.payload, 1, queue_);
      Queue();
    } else if (message.opcode != websocket::Opcode::kPong) {
      events_->OnMessage(message.payload);
    }
  }
}

void Connection::OnCloseFrame(std::string_view payload) {
  // The answer to our own close frame ends the connection; one of the client's own is answered with
  // its code.
  if (state_ == State::kClosing) return Finish();
  uint16_t code = 0;
  if (payload.size() >= 2) {
    code = static_cast<uint16_t>((static_cast<unsigned char>(payload[0]) << 8) |
                                 static_cast<unsigned char>(payload[1]));
  }
  state_ = State::kClosing;
  finish_when_written_ = true;
  websocket::AppendClose(code, {}, queue_);
  Queue();
  events_->OnClosed(code == 0 ? close_code::kNone : code);
}

void Connection::Send(bool binary, std::string_view payload, uint32_t fragments) {
  if (state_ != State::kWebSocket || frozen_) return;
  websocket::AppendMessage(binary ? websocket::Opcode::kBinary : websocket::Opcode::kText, payload,
                           fragments, queue_);
  Queue();
}

void Connection::SendBytes(std::string_view bytes) {
  if (state_ != State::kWebSocket || frozen_) return;
  queue_ += bytes;
  Queue();
}

void Connection::SetDrip(size_t bytes, std::chrono::milliseconds pause) {
  drip_bytes_ = bytes;
  drip_pause_ = pause;
}

void Connection::Close(uint16_t code, std::string_view reason) {
  if (state_ != State::kWebSocket) return;
  state_ = State::kClosing;
  websocket::AppendClose(code, reason, queue_);
  Queue();
  close_timer_.expires_after(kCloseTimeout);
  close_timer_.async_wait([self = shared_from_this()](Stream::Error) { self->Finish(); });
}

void Connection::Freeze() {
  frozen_ = true;
  while_frozen_ = shared_from_this();
}

void Connection::Reset() {
  if (state_ == State::kClosed) return;
  const auto self = std::move(while_frozen_);
  state_ = State::kClosed;
  close_timer_.cancel();
  drip_timer_.cancel();
  stream_->Reset();
}

// The transport has failed or ended.
void Connection::Lost() {
  if (state_ == State::kWebSocket) events_->OnClosed(close_code::kAbnormal);
  Finish();
}

void Connection::Finish() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  close_timer_.cancel();
  drip_timer_.cancel();
  stream_->Shutdown();
}

void Connection::Queue() {
  if (flush_posted_ || !in_flight_.empty()) return;
  flush_posted_ = true;
  boost::asio::post(executor_, [self = shared_from_this()] {
    self->flush_posted_ = false;
    self->Flush();
  });
}

void Connection::Flush() {
  if (state_ == State::kClosed || frozen_ || !in_flight_.empty() || queue_.empty()) return;
  in_flight_.swap(queue_);
  written_ = 0;
  WriteNext();
}

void Connection::WriteNext() {
  const size_t rest = in_flight_.size() - written_;
  const size_t size = drip_bytes_ == 0 ? rest : std::min(rest, drip_bytes_);
  stream_->AsyncWrite(boost::asio::buffer(in_flight_.data() + written_, size),
                      [self = shared_from_this(), size](Stream::Error error, size_t) {
                        self->written_ += size;
                        self->OnWrite(error);
                      });
}

void Connection::OnWrite(Stream::Error error) {
  if (!error && written_ < in_flight_.size() && state_ != State::kClosed && !frozen_) {
    drip_timer_.expires_after(drip_pause_);
    drip_timer_.async_wait([self = shared_from_this()](Stream::Error cancelled) {
      if (!cancelled && self->state_ != State::kClosed && !self->frozen_) self->WriteNext();
    });
    return;
  }
  in_flight_.clear();
  if (state_ == State::kClosed || frozen_) return;
  if (error) return Lost();
  if (state_ == State::kWebSocket) {
    // Not before the 101 answer is away: some clients lose a HELLO that comes in its segment.
    if (!opened_) {
      opened_ = true;
      events_->OnOpen();
    } else {
      events_->OnWritten();
    }
  }
  if (!queue_.empty()) return Flush();
  if (finish_when_written_) Finish();
}

}  // namespace shardd::simulator
