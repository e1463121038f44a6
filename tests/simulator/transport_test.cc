// Compression, splitting, large messages and TLS.
#include <gtest/gtest.h>

#include "simulator/compressor.h"
#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using test::GatewayClient;

class TransportTest : public testing::TestWithParam<const char*> {
 protected:
  static void ExpectWhole(Simulator& simulator, GatewayClient& client) {
    ASSERT_TRUE(client.Start({0, 1}).has_value());
    simulator.EmitTraffic(500);
    ASSERT_TRUE(simulator.WaitForSessions(1, 1));
    simulator.Emit("LAST", 0, "{}");
    ASSERT_TRUE(client.ReadType("LAST").has_value());
    const auto sent = simulator.Sent(client.session_id());
    ASSERT_EQ(sent.size(), client.dispatches().size());
    for (size_t i = 0; i < sent.size(); ++i) {
      ASSERT_EQ(sent[i].data, client.dispatches()[i].data);
    }
  }
};

TEST_P(TransportTest, EveryPayloadIsOneMessage) {
  Simulator simulator({.guilds = 20, .record = true});
  GatewayClient client(simulator.port(), {.compress = GetParam()});
  ExpectWhole(simulator, client);
  EXPECT_EQ(client.messages(), client.dispatches().size() + 1) << "HELLO and the dispatches";
  EXPECT_EQ(client.binary(), *GetParam() != '\0');
  const auto session = simulator.Session({0, 1});
  EXPECT_EQ(session->compression, *GetParam() == '\0' ? "none" : GetParam());
}

TEST_P(TransportTest, SplitOverMessagesAndFrames) {
  Simulator simulator({.guilds = 20, .split_messages = 3, .split_fragments = 4, .record = true});
  GatewayClient client(simulator.port(), {.compress = GetParam()});
  ExpectWhole(simulator, client);
  const size_t payloads = client.dispatches().size() + 1;
  EXPECT_EQ(client.messages(), *GetParam() == '\0' ? payloads : 3 * payloads);
}

TEST_P(TransportTest, AGuildOfOverAMegabyte) {
  Simulator simulator({.guilds = 3, .large_guilds = 1, .large_guild_bytes = 1'200'000});
  GatewayClient client(simulator.port(), {.compress = GetParam()});
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  const auto create = client.ReadType("GUILD_CREATE");
  ASSERT_TRUE(create.has_value());
  EXPECT_GT(create->data.size(), 1'200'000u);
}

INSTANTIATE_TEST_SUITE_P(, TransportTest, testing::Values("", "zlib-stream", "zstd-stream"),
                         [](const auto& test) {
                           return *test.param == '\0' ? "none" : std::string(test.param, 4);
                         });

TEST(CompressorTest, ZlibMakesACapturedHelloByteForByte) {
  const std::string payload =
      R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[\"gateway-prd-main-858d\",{\"micros\":0.0}]"]}})";
  const auto zlib = MakeCompressor("zlib-stream", false);
  std::string hello;
  zlib->Compress(payload, hello);
  EXPECT_EQ(hello.size(), 111u);
  EXPECT_EQ(hello.substr(0, 8), "\x78\x9c\x34\xc9\x41\x0a\x83\x30");
  EXPECT_EQ(hello.substr(hello.size() - 4), std::string("\x00\x00\xff\xff", 4));
  std::string ack;
  zlib->Compress(R"({"t":null,"s":null,"op":11,"d":null})", ack);
  EXPECT_EQ(ack, std::string("\xaa\xc6\x65\xab\x21\xd8\x56\x90\x40\x2d\x00\x00\x00\xff\xff", 15));
}

TEST(CompressorTest, ZstdHasDiscordsWindowAndNeitherSizeNorChecksum) {
  std::string out;
  MakeCompressor("zstd-stream", false)->Compress("{}", out);
  EXPECT_EQ(out.substr(0, 6), std::string("\x28\xB5\x2F\xFD\x00\x40", 6));
}

TEST(TlsTest, ServesACertificateThatItsAuthorityVouchesFor) {
  Simulator simulator({.tls = true, .guilds = 5});
  EXPECT_EQ(simulator.api_url().substr(0, 8), "https://");
  EXPECT_EQ(simulator.gateway_url().substr(0, 6), "wss://");
  GatewayClient client(simulator.port(),
                       {.compress = "zlib-stream", .ca_path = simulator.certificate_path()});
  ASSERT_TRUE(client.connected());
  ASSERT_TRUE(client.Start({0, 1}).has_value());
  simulator.DropConnections();
  EXPECT_EQ(client.ReadClose(), 1006);
}

}  // namespace
}  // namespace shardd::simulator
