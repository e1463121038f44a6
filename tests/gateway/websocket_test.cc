// The WebSocket on real sockets, against a server that does what the simulator does not.

#include "gateway/websocket.h"

#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/read.hpp>
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

constexpr size_t kBound = 1 << 20;

// Client and server take turns on one thread: Run() lets the client's side happen.
class WebSocketTest : public ::testing::Test {
 protected:
  WebSocketTest() { url_ = "ws://127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port()); }
  ~WebSocketTest() override {
    if (client_ != nullptr) client_->Abort();
    Run(20ms);
  }

  std::unique_ptr<Transport> MakeClient() {
    return MakeWebSocketFactory(io_, MakeTlsContext(), 2s, kBound)(url_);
  }

  // The client's operations; each notes its result.
  Awaitable<void> Connect(std::string url) {
    connected_ = co_await client_->Connect(std::move(url));
    ++ended_;
  }
  Awaitable<void> Read() {
    Transport::Message message;
    read_ = co_await client_->Read(&message);
    if (!*read_) {
      text_ = message.bytes;
      is_cut_ = message.is_cut;
    }
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

  // A new connection, whose server's side has shaken hands.
  void Open() {
    client_ = MakeClient();
    ended_ = 0;
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
    error_code ignored;  // the client may have gone
    asio::write(server_->next_layer(), asio::buffer(bytes.data(), bytes.size()), ignored);
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
  bool is_cut_ = false;
  int ended_ = 0;
};

// A frame as servers send it. `first` is FIN, the reserved bits and the opcode.
std::string Frame(uint8_t first, std::string_view payload, uint64_t claimed) {
  const int bytes = claimed < 126 ? 0 : claimed < 65536 ? 2 : 8;
  std::string frame(1, static_cast<char>(first));
  frame += static_cast<char>(bytes == 0 ? claimed : bytes == 2 ? 126 : 127);
  for (int i = bytes - 1; i >= 0; --i) frame += static_cast<char>(claimed >> (8 * i));
  return frame += payload;
}
std::string Frame(uint8_t first, std::string_view payload) {
  return Frame(first, payload, payload.size());
}
constexpr uint8_t kText = 0x81;
constexpr uint8_t kBeginOfText = 0x01;
constexpr uint8_t kMore = 0x00;
constexpr uint8_t kLast = 0x80;
constexpr uint8_t kClose = 0x88;
constexpr uint8_t kPing = 0x89;

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
  client_ = MakeClient();
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

TEST_F(WebSocketTest, AMessageOfTheBoundIsReadAndOneOfMoreIsCut) {
  const std::string text(kBound + 1, 'x');
  for (const uint64_t size : {kBound - 1, kBound, kBound + 1}) {
    SCOPED_TRACE(size);
    Open();
    std::thread sending([&] { SendRaw(Frame(kText, text.substr(0, size))); });
    Spawn(Read());
    EXPECT_TRUE(RunUntilEnded(1, 5s));
    client_->Abort();
    sending.join();
    EXPECT_EQ(is_cut_, size > kBound);
    EXPECT_EQ(text_, text.substr(0, size > kBound ? Transport::kBeginningBytes : size));
  }
}

TEST_F(WebSocketTest, AClaimOverTheBoundIsCutAsSoonAsItsBeginningIsThere) {
  for (const uint64_t claimed : {uint64_t{kBound + 1}, uint64_t{kBound * 60}}) {
    Open();
    Spawn(Read());
    SendRaw(Frame(kText, std::string(100, 'a'), claimed));
    Run(20ms);
    EXPECT_EQ(ended_, 0);
    SendRaw(std::string(1000, 'b'));
    ASSERT_TRUE(RunUntilEnded(1, 5s));
    EXPECT_TRUE(is_cut_);
    EXPECT_EQ(text_, std::string(100, 'a') + std::string(924, 'b'));
  }
}

TEST_F(WebSocketTest, AnAbsurdClaimEndsTheConnectionAtOnce) {
  for (const uint64_t claimed : {uint64_t{kBound * 65}, ~uint64_t{0} >> 1, ~uint64_t{0}}) {
    Open();
    Spawn(Read());
    SendRaw(Frame(kText, "", claimed));
    ASSERT_TRUE(RunUntilEnded(1, 5s));
    EXPECT_NE(*read_, error_code());
  }
}

TEST_F(WebSocketTest, FragmentsTogetherHaveTheBound) {
  Open();
  Spawn(Read());
  std::thread sending([this] {
    const std::string fragment(kBound / 16, 'x');
    SendRaw(Frame(kBeginOfText, fragment));
    for (int i = 0; i < 15; ++i) SendRaw(Frame(kMore, fragment));
    SendRaw(Frame(kMore, "y"));
  });
  EXPECT_TRUE(RunUntilEnded(1, 5s));
  client_->Abort();
  sending.join();
  EXPECT_TRUE(is_cut_);
  EXPECT_EQ(text_, std::string(Transport::kBeginningBytes, 'x'));
}

TEST_F(WebSocketTest, APartOfAMessageShowsInTheBytesRead) {
  Open();
  Spawn(Read());
  SendRaw(HalfOfAMessage());
  const auto wait_for = [this](uint64_t bytes) {
    for (int i = 0; i < 1000 && client_->bytes_read() < bytes; ++i) Run(5ms);
    return client_->bytes_read();
  };
  EXPECT_EQ(wait_for(500), 500u);
  SendRaw(std::string(100, 'x'));
  EXPECT_EQ(wait_for(600), 600u);
  SendRaw(std::string(400, 'x'));
  ASSERT_TRUE(RunUntilEnded(1, 5s));
  Spawn(Read());
  Run(5ms);
  EXPECT_EQ(client_->bytes_read(), 1000u);
  SendRaw(Frame(kPing, ""));
  EXPECT_GT(wait_for(1001), 1000u);
  EXPECT_EQ(ended_, 1);
}

// The server says nothing more, and keeps the connection.
TEST_F(WebSocketTest, WhatBreaksTheProtocolFailsTheReadAtOnce) {
  for (const std::string& bytes : std::vector<std::string>{
           Frame(kText | 0x40, "{}"),
           Frame(kText | 0x20, "{}"),
           Frame(kText | 0x10, "{}"),
           Frame(0x83, "{}"),  // opcodes that do not exist
           Frame(0x8b, ""),    //
           std::string("\x81\x82"
                       "abcd{}",
                       8),                                // masked
           Frame(kPing & 0x7f, "in fragments"),           //
           Frame(kPing, std::string(126, 'x')),           //
           Frame(kPing | 0x40, ""),                       //
           Frame(kLast, "a continuation of nothing"),     //
           Frame(kBeginOfText, "a") + Frame(kText, "b"),  // without the first one's end
           std::string("\x81\x7e\x00\x01"
                       "x",
                       5),                    // a length in more bytes than it takes
           Frame(kText, "{\"a\":\"\xff\"}"),  // not UTF-8
           Frame(kText, "\xed\xa0\x80"),      // a surrogate
           Frame(kText, "cut short: \xc3"),   //
           Frame(kClose, "\x03"),
           Frame(kClose, std::string_view("\x00\x00", 2)),
           Frame(kClose, "\x03\xe7"),      // 999
           Frame(kClose, "\x03\xed"),      // 1005
           Frame(kClose, "\x03\xee"),      // 1006
           Frame(kClose, "\x0f\xa0\xff"),  // a reason that is not UTF-8
           Frame(kClose, std::string(126, 'x'))}) {
    SCOPED_TRACE(::testing::PrintToString(bytes.substr(0, 40)));
    Open();
    Spawn(Read());
    SendRaw(bytes);
    ASSERT_TRUE(RunUntilEnded(1, 5s));
    EXPECT_TRUE(*read_) << *read_;
    EXPECT_FALSE(client_->closed_by_peer());
    EXPECT_NE(client_->last_error(), "");
  }
}

TEST_F(WebSocketTest, ACloseFrameEndsTheReadAtOnceThoughTheServerKeepsTheConnection) {
  for (const auto& [payload, code] : std::vector<std::pair<std::string, std::optional<uint16_t>>>{
           {"", std::nullopt},
           {"\x0f\xa0", 4000},
           {"\x0f\xa4" + std::string(123, 'x'), 4004},
           {"\x13\x87", 4999}}) {
    Open();
    Spawn(Read());
    SendRaw(Frame(kClose, payload));
    ASSERT_TRUE(RunUntilEnded(1, 1500ms));
    EXPECT_TRUE(client_->closed_by_peer());
    EXPECT_EQ(client_->close_code(), code);
  }
}

TEST_F(WebSocketTest, APingIsAnsweredAndEmptyMessagesAreMessages) {
  Open();
  Spawn(Read());
  SendRaw(Frame(kPing, "are you there?") + Frame(kText, ""));
  ASSERT_TRUE(RunUntilEnded(1, 5s));
  EXPECT_EQ(*read_, error_code());
  EXPECT_EQ(text_, "");
  std::string pong(2 + 4 + 14, ' ');
  asio::read(server_->next_layer(), asio::buffer(pong));
  EXPECT_TRUE(pong.starts_with("\x8a\x8e")) << ::testing::PrintToString(pong);
}

// Whoever pings without reading the answers is no longer read either: what waits, waits in its own
// kernel.
TEST_F(WebSocketTest, AFloodOfPingsWithoutReadingIsNotTakenIn) {
  Open();
  Spawn(Read());
  std::string pings;
  for (int i = 0; i < 1000; ++i) pings += Frame(kPing, std::string(125, 'p'));
  tcp::socket& socket = server_->next_layer();
  socket.non_blocking(true);
  size_t taken = 0;
  int refused_in_a_row = 0;
  while (refused_in_a_row < 20) {
    error_code ec;
    const size_t sent = socket.write_some(asio::buffer(pings), ec);
    // Whole frames do not matter here, as long as they begin where the last one ended.
    taken += sent;
    if (sent > 0) pings = pings.substr(sent) + pings.substr(0, sent);
    refused_in_a_row = sent > 0 ? 0 : refused_in_a_row + 1;
    Run(5ms);
    ASSERT_LT(taken, size_t{256} << 20);
  }
  EXPECT_EQ(ended_, 0);
  client_->Abort();
  EXPECT_TRUE(RunUntilEnded(1, 5s));
}

}  // namespace
}  // namespace shardd::gateway
