#pragma once

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "gateway/asio.h"
#include "gateway/transport.h"

namespace shardd::gateway {

struct FakeMessage {
  std::string bytes;
  bool is_text = true;
  bool is_cut = false;
};

// What a test does to one connection, and what was done on it.
struct FakeConnection {
  explicit FakeConnection(asio::io_context& io) : wake(io, asio::steady_timer::time_point::max()) {}

  // ---- The test's side ----
  void Accept() { connected = error_code(), Wake(); }
  void Refuse() { connected = asio::error::connection_refused, Wake(); }
  void Bring(std::string text) { Bring(FakeMessage{.bytes = std::move(text)}); }
  void Bring(FakeMessage message) { incoming.push_back(std::move(message)), Wake(); }
  // Part of a message that has not come to its end.
  void BringPart(size_t bytes) { bytes_read += bytes; }
  void CloseFromPeer(std::optional<uint16_t> code) { peer_closed = true, peer_code = code, Wake(); }
  void FinishWrite() { ++writes_allowed, Wake(); }
  void Abort() { aborted = true, Wake(); }
  void Wake() { wake.cancel(); }

  // ---- What happened ----
  std::string url;
  std::vector<std::string> written;
  int writes_under_way = 0;
  int most_writes_at_once = 0;
  std::optional<uint16_t> closed_with;
  bool aborted = false;

  std::optional<error_code> connected;
  std::deque<FakeMessage> incoming;
  uint64_t bytes_read = 0;
  bool peer_closed = false;
  std::optional<uint16_t> peer_code;
  bool hold_writes = false;
  int writes_allowed = 0;
  bool throw_on_read = false;
  bool fail_writes = false;
  asio::steady_timer wake;
};

// Stands in for a WebSocket. Lives on the io_context's thread.
class FakeTransport final : public Transport {
 public:
  explicit FakeTransport(std::shared_ptr<FakeConnection> state) : state_(std::move(state)) {}

  Awaitable<error_code> Connect(std::string url) override {
    state_->url = url;
    while (!state_->connected && !state_->aborted) co_await Wait();
    if (state_->aborted) co_return asio::error::operation_aborted;
    co_return *state_->connected;
  }

  Awaitable<error_code> Read(Message* message) override {
    while (state_->incoming.empty() && !state_->peer_closed && !state_->aborted) co_await Wait();
    if (state_->throw_on_read) throw std::runtime_error("thrown by a test");
    if (state_->aborted) co_return asio::error::operation_aborted;
    if (state_->incoming.empty()) co_return asio::error::eof;
    current_ = std::move(state_->incoming.front());
    state_->incoming.pop_front();
    state_->bytes_read += current_.bytes.size();
    message->bytes = current_.bytes;
    message->is_text = current_.is_text;
    message->is_cut = current_.is_cut;
    co_return error_code();
  }

  Awaitable<error_code> Write(std::string_view text) override {
    ++state_->writes_under_way;
    state_->most_writes_at_once = std::max(state_->most_writes_at_once, state_->writes_under_way);
    while (state_->hold_writes && state_->writes_allowed == 0 && !state_->aborted) co_await Wait();
    --state_->writes_under_way;
    if (state_->fail_writes) co_return asio::error::broken_pipe;
    if (state_->aborted) co_return asio::error::operation_aborted;
    if (state_->hold_writes) --state_->writes_allowed;
    state_->written.emplace_back(text);
    co_return error_code();
  }

  Awaitable<error_code> Close(uint16_t code) override {
    state_->closed_with = code;
    co_return error_code();
  }

  void Abort() override {
    state_->aborted = true;
    state_->Wake();
  }

  uint64_t bytes_read() const override { return state_->bytes_read; }

  bool closed_by_peer() const override { return state_->peer_closed; }
  std::optional<uint16_t> close_code() const override { return state_->peer_code; }
  std::string last_error() const override { return "as the test wants"; }

 private:
  Awaitable<void> Wait() {
    auto [ec] = co_await state_->wake.async_wait(use_tuple);
    static_cast<void>(ec);
  }

  const std::shared_ptr<FakeConnection> state_;
  FakeMessage current_;
};

}  // namespace shardd::gateway
