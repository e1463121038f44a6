// The WebSocket on real sockets, against a server that does what the simulator does not.

#include "gateway/websocket.h"

#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gateway/asio.h"
#include "gateway/tls_connect.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;

// Client and server take turns on one thread: Run() lets the client's side happen.
class WebSocketTest : public ::testing::Test {
 protected:
  WebSocketTest() {
    url_ = "ws://127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port());
    client_ = MakeWebSocketFactory(io_, MakeTlsContext(), 2s)(url_);
  }

  // The client's operations; each notes its result.
  Awaitable<void> Connect(std::string url) {
    connected_ = co_await client_->Connect(std::move(url));
    ++ended_;
  }
  Awaitable<void> Read() {
    Transport::Message message;
    read_ = co_await client_->Read(&message);
    if (!*read_) text_ = message.bytes;
    ++ended_;
  }
  Awaitable<void> Write(std::string_view text) {
    const error_code ignored = co_await client_->Write(text);
    static_cast<void>(ignored);
    ++ended_;
  }
  Awaitable<void> Close() {
    const error_code ignored = co_await client_->Close(4000);
    static_cast<void>(ignored);
    ++ended_;
  }
  void Spawn(Awaitable<void> operation) {
    asio::co_spawn(io_, std::move(operation), [](std::exception_ptr error) {
      if (error) std::rethrow_exception(error);
    });
  }
  void Run(std::chrono::milliseconds time) {
    io_.restart();
    io_.run_for(time);
  }
  // Until so many of the operations have ended; false after `time`.
  bool RunUntilEnded(int count, std::chrono::milliseconds time) {
    const auto until = std::chrono::steady_clock::now() + time;
    while (ended_ < count && std::chrono::steady_clock::now() < until) Run(5ms);
    return ended_ >= count;
  }

  // A server's side that has shaken hands.
  void Open() {
    Spawn(Connect(url_ + "/?v=10"));
    std::thread accepting([this] {
      server_.emplace(acceptor_.accept());
      server_->accept();
    });
    EXPECT_TRUE(RunUntilEnded(1, 5s));
    accepting.join();
    EXPECT_EQ(connected_, error_code());
    ended_ = 0;
  }
  void SendRaw(std::string_view bytes) {
    asio::write(server_->next_layer(), asio::buffer(bytes.data(), bytes.size()));
  }

  asio::io_context io_{1};
  asio::io_context server_io_{1};
  tcp::acceptor acceptor_{server_io_, {asio::ip::address_v4::loopback(), 0}};
  std::optional<boost::beast::websocket::stream<tcp::socket>> server_;
  std::string url_;
  std::unique_ptr<Transport> client_;
  std::optional<error_code> connected_;
  std::optional<error_code> read_;
  std::string text_;
  int ended_ = 0;
};

// A text message of 1000 bytes, without its last 500.
std::string HalfOfAMessage() { return std::string("\x81\x7e\x03\xe8", 4) + std::string(500, 'x'); }

// Beast's read and close wait for each other when a message breaks while a close is under way.
TEST_F(WebSocketTest, AbortEndsACloseInTheMidstOfABrokenMessage) {
  Open();
  SendRaw(HalfOfAMessage());
  Spawn(Read());
  Run(50ms);
  Spawn(Close());
  Run(50ms);
  SendRaw("\xff\xff");  // not UTF-8
  Run(50ms);
  client_->Abort();
  EXPECT_TRUE(RunUntilEnded(2, 3s));
}

TEST_F(WebSocketTest, AbortEndsWhateverIsUnderWay) {
  Open();
  SendRaw(HalfOfAMessage());
  const std::string large(64 << 20, 'x');
  Spawn(Read());
  Spawn(Write(large));
  Run(50ms);
  Spawn(Close());
  Run(50ms);
  EXPECT_EQ(ended_, 0);
  client_->Abort();
  EXPECT_TRUE(RunUntilEnded(3, 500ms));
}

TEST_F(WebSocketTest, AbortWhileANameIsLookedUpEndsConnect) {
  const std::string url =
      "ws://localhost:" + std::to_string(acceptor_.local_endpoint().port()) + "/";
  Spawn(Connect(url));
  io_.poll();                          // begins
  std::this_thread::sleep_for(300ms);  // the answer is there, but not taken
  client_->Abort();
  ASSERT_TRUE(RunUntilEnded(1, 500ms));
  EXPECT_EQ(*connected_, asio::error::operation_aborted);
  acceptor_.non_blocking(true);
  error_code nobody;
  acceptor_.accept(nobody);
  EXPECT_EQ(nobody, asio::error::would_block);
}

}  // namespace
}  // namespace shardd::gateway
