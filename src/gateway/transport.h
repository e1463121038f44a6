#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shardd::gateway {

// One connection that carries messages both ways: a WebSocket, or a test's stand-in. Used on one
// thread. At most one Read, one Write and one Close may be under way at a time. The object outlives
// its operations; its owner sees to that.
class Transport {
 public:
  struct Message {
    std::string_view bytes;  // lives until the next Read
    bool is_text = false;
    // `bytes` is the beginning, of kBeginningBytes, of a message over the bound. Nothing can be
    // read after it.
    bool is_cut = false;
  };
  static constexpr size_t kBeginningBytes = 1024;

  virtual ~Transport() = default;

  // Once, before all others. `url` as ConnectionUrl() makes it.
  virtual boost::asio::awaitable<boost::system::error_code> Connect(std::string url) = 0;
  virtual boost::asio::awaitable<boost::system::error_code> Read(Message* message) = 0;
  virtual boost::asio::awaitable<boost::system::error_code> Write(std::string_view text) = 0;
  // The closing handshake. A Read that is under way ends.
  virtual boost::asio::awaitable<boost::system::error_code> Close(uint16_t code) = 0;
  // Drops the connection: all that is under way ends soon, with an error.
  virtual void Abort() = 0;

  // Grows with whatever comes, be it a part of a message or a ping.
  virtual uint64_t bytes_read() const = 0;

  // After a failed Read: the other side sent a close frame, ...
  virtual bool closed_by_peer() const = 0;
  // ... with this code, if it had one.
  virtual std::optional<uint16_t> close_code() const = 0;
  // In words, why the last operation failed.
  virtual std::string last_error() const = 0;
};

// Makes the transport that fits a URL.
using TransportFactory = std::function<std::unique_ptr<Transport>(const std::string& url)>;

}  // namespace shardd::gateway
