// What nobody may send: the bytes that hold a client's defences.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::Fetch;
using test::GatewayClient;
using testing::HasSubstr;
using testing::StartsWith;

class HostileTest : public testing::Test {
 protected:
  bool Start(GatewayClient& client) { return client.Start({0, 1}).has_value(); }

  Simulator simulator_{{.guilds = 0, .identify_window = milliseconds(0)}};
};

TEST_F(HostileTest, BytesGoPastTheCompression) {
  GatewayClient zlib(simulator_.port(), {.compress = "zlib-stream"});
  ASSERT_TRUE(Start(zlib));
  EXPECT_EQ(simulator_.SendBytes(zlib.session_id(), MessageKind::kText, R"({"op":77})"), 1u);
  EXPECT_EQ(zlib.Read()->op, 77);
  EXPECT_FALSE(zlib.binary());
  simulator_.SendBytes(zlib.session_id(), MessageKind::kBinary, "\xff\xff\xff");
  EXPECT_THROW(zlib.Read(), std::runtime_error) << "no part of a zlib stream";

  GatewayClient plain(simulator_.port());
  ASSERT_TRUE(Start(plain));
  simulator_.SendBytes(plain.session_id(), MessageKind::kBinary, R"({"op":78})");
  EXPECT_EQ(plain.Read()->op, 78);
  EXPECT_TRUE(plain.binary());
  simulator_.SendBytes(plain.session_id(), MessageKind::kText, "\"\xc3\x28\"");
  EXPECT_EQ(plain.ReadClose(), 1006) << "Beast refuses UTF-8 that is none";
}

TEST_F(HostileTest, AFrameMayClaimAnySize) {
  GatewayClient client(simulator_.port());
  ASSERT_TRUE(Start(client));
  EXPECT_EQ(simulator_.SendFrameHeader({}, MessageKind::kBinary, uint64_t{1} << 62), 1u);
  EXPECT_EQ(client.ReadClose(), 1006) << "Beast refuses it by its header";

  GatewayClient other(simulator_.port());
  ASSERT_TRUE(Start(other));
  simulator_.SendTcpBytes(other.session_id(), "\x83\x01x");
  EXPECT_EQ(other.ReadClose(), 1006) << "there is no such opcode";
}

TEST_F(HostileTest, ABombIsADispatchThatInflatesToItsSize) {
  constexpr size_t kBytes = 5'000'000;
  for (const char* compress : {"", "zlib-stream", "zstd-stream"}) {
    GatewayClient client(simulator_.port(), {.compress = compress});
    ASSERT_TRUE(Start(client));
    EXPECT_EQ(simulator_.SendBomb(client.session_id(), kBytes), 1u);
    const auto bomb = client.Read();
    ASSERT_TRUE(bomb.has_value()) << compress;
    EXPECT_EQ(bomb->text.size(), kBytes);
    EXPECT_THAT(bomb->text.substr(0, 60), StartsWith(R"({"t":"X","s":2,"op":0,"d":{"x":"aaaa)"));
    EXPECT_EQ(bomb->sequence, 2u);
    simulator_.Emit("AFTER", 0, "{}");
    EXPECT_EQ(client.Read()->sequence, 3u);

    GatewayClient second(simulator_.port(), {.compress = compress});
    second.ReadOp(10);
    second.Resume(client.session_id(), 1);
    EXPECT_EQ(second.Read()->text.size(), kBytes) << "the replay has it again";
    EXPECT_EQ(second.Read()->type, "AFTER");
    EXPECT_EQ(second.Read()->type, "RESUMED");
  }
}

TEST_F(HostileTest, ABombIsSmallOnTheWire) {
  // Far beyond what may wait for a client that does not read.
  Simulator simulator({.guilds = 0, .write_queue_bytes = 1'000'000});
  GatewayClient client(simulator.port(), {.compress = "zstd-stream"});
  ASSERT_TRUE(Start(client));
  EXPECT_EQ(simulator.SendBomb({}, 200'000'000), 1u);
  EXPECT_EQ(simulator.counters().slow_readers_dropped, 0u);
  EXPECT_EQ(simulator.Session({0, 1})->sequence, 2u);
}

TEST_F(HostileTest, HelloSaysWhatItIsTold) {
  for (const char* data : {R"({"heartbeat_interval":0})", R"({"heartbeat_interval":-1})",
                           R"({"heartbeat_interval":1e300})", R"({})", "null", "[]"}) {
    simulator_.SetHello(data);
    EXPECT_EQ(GatewayClient(simulator_.port()).Read()->data, data);
  }
  simulator_.SetHello("");
  EXPECT_THAT(GatewayClient(simulator_.port()).Read()->data, HasSubstr("41250"));
}

TEST_F(HostileTest, ADripArrivesWholeInTheEnd) {
  GatewayClient client(simulator_.port(), {.compress = "zlib-stream"});
  ASSERT_TRUE(Start(client));
  simulator_.SetDrip(3, milliseconds(1));
  const std::string data = R"({"text":"0123456789abcdefghijklmnopqrstuvwxyz"})";
  const auto began = std::chrono::steady_clock::now();
  simulator_.Emit("X", 0, data);
  EXPECT_EQ(client.Read()->data, data);
  EXPECT_GE(std::chrono::steady_clock::now() - began, milliseconds(15)) << "over 45 bytes";
  GatewayClient later(simulator_.port());
  EXPECT_EQ(later.Read()->op, 10) << "new connections drip as well";
  simulator_.SetDrip(0, milliseconds(0));
  simulator_.Emit("X", 0, data);
  EXPECT_EQ(client.Read()->data, data);
}

TEST_F(HostileTest, ADrippingConnectionCanBeReset) {
  GatewayClient client(simulator_.port());
  ASSERT_TRUE(Start(client));
  simulator_.SetDrip(1, std::chrono::hours(1));
  simulator_.Emit("X", 0, "{}");
  simulator_.DropConnections();
  EXPECT_EQ(client.ReadClose(), 1006);
}

TEST_F(HostileTest, GatewayBotAnswersAnything) {
  simulator_.AnswerGatewayBotWithBody(200, "{\"url\":", 1);
  simulator_.AnswerGatewayBotWithBody(200, "<html>", 2, "text/html");
  const auto fetch = [&] {
    return Fetch(simulator_.port(), "GET", "/api/v10/gateway/bot", "Bot any");
  };
  EXPECT_EQ(fetch().body, "<html>");
  EXPECT_EQ(fetch().body, "<html>");
  EXPECT_THAT(fetch().body, HasSubstr("session_start_limit"));
  simulator_.AnswerGatewayBotWithBody(200, "[]", 1);
  simulator_.AnswerGatewayBotWith(500, 1);
  EXPECT_EQ(fetch().status, 500u) << "the newer order counts";
}

TEST_F(HostileTest, TakesTheseOrdersOverHttp) {
  GatewayClient client(simulator_.port());
  ASSERT_TRUE(Start(client));
  const auto order = [&](const std::string& target, std::string_view body = {}) {
    return Fetch(simulator_.port(), "POST", "/simulator/" + target, {}, body);
  };
  EXPECT_EQ(order("bytes?kind=text&session=" + client.session_id(), R"({"op":79})").body,
            R"({"affected":1})");
  EXPECT_EQ(client.Read()->op, 79);
  EXPECT_EQ(order("bomb?bytes=1000").body, R"({"affected":1})");
  EXPECT_EQ(client.Read()->text.size(), 1000u);
  order("hello", "[1]");
  EXPECT_EQ(GatewayClient(simulator_.port()).Read()->data, "[1]");
  order("hello");
  order("refuse-connections?n=1&status=503");
  EXPECT_FALSE(GatewayClient(simulator_.port()).connected());
  order("gateway-bot?status=200&n=1", "[]");
  EXPECT_EQ(Fetch(simulator_.port(), "GET", "/api/v10/gateway/bot", "Bot any").body, "[]");
  order("session-starts?remaining=7&reset_after=5000");
  EXPECT_EQ(simulator_.session_starts_remaining(), 7u);
  EXPECT_EQ(order("session-starts?remaining=many").status, 400u);
  EXPECT_EQ(order("close?code=65536").status, 400u);
  EXPECT_EQ(order("no-such-order").status, 404u);
  EXPECT_EQ(Fetch(simulator_.port(), "GET", "/simulator/drop").status, 405u);
  EXPECT_TRUE(client.connected());
}

}  // namespace
}  // namespace shardd::simulator
