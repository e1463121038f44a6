#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/error_code.hpp>
#include <chrono>
#include <memory>

namespace shardd::gateway {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

template <class T>
using Awaitable = asio::awaitable<T>;

// `auto [ec, n] = co_await Operation(..., use_tuple)`: errors come as values.
inline constexpr auto use_tuple = asio::as_tuple(asio::use_awaitable);

// Closes a socket unless it is destroyed within `timeout`, which ends whatever waits for the
// socket. Lives on the socket's thread.
class Watchdog {
 public:
  Watchdog(tcp::socket& socket, std::chrono::milliseconds timeout)
      : timer_(socket.get_executor(), timeout), state_(std::make_shared<State>(&socket)) {
    timer_.async_wait([state = state_](error_code ec) {
      if (ec || state->socket == nullptr) return;
      state->fired = true;
      error_code ignored;
      state->socket->close(ignored);
    });
  }
  ~Watchdog() { state_->socket = nullptr; }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // What an operation's error means: the socket was closed because time was up.
  error_code Explain(error_code ec) const {
    if (ec && state_->fired) return asio::error::timed_out;
    return ec;
  }

 private:
  struct State {
    explicit State(tcp::socket* s) : socket(s) {}
    tcp::socket* socket;
    bool fired = false;
  };
  asio::steady_timer timer_;
  std::shared_ptr<State> state_;
};

}  // namespace shardd::gateway
