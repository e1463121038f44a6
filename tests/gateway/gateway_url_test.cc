#include "gateway/gateway_url.h"

#include <gtest/gtest.h>

namespace shardd::gateway {
namespace {

TEST(GatewayUrlTest, PartsOfAnAddress) {
  const auto url = ParseUrl("wss://gateway-us-east1-b.discord.gg");
  ASSERT_TRUE(url);
  EXPECT_TRUE(url->tls);
  EXPECT_EQ(url->host, "gateway-us-east1-b.discord.gg");
  EXPECT_EQ(url->port, 443);
  EXPECT_EQ(url->target, "/");
  EXPECT_EQ(url->authority(), "gateway-us-east1-b.discord.gg");
}

TEST(GatewayUrlTest, PortPathAndQuery) {
  const auto url = ParseUrl("http://127.0.0.1:8080/api/v10?x=1");
  ASSERT_TRUE(url);
  EXPECT_FALSE(url->tls);
  EXPECT_EQ(url->port, 8080);
  EXPECT_EQ(url->target, "/api/v10?x=1");
  EXPECT_EQ(url->authority(), "127.0.0.1:8080");
}

TEST(GatewayUrlTest, Address6) {
  const auto url = ParseUrl("ws://[::1]:9000");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->host, "::1");
  EXPECT_EQ(url->authority(), "[::1]:9000");
}

TEST(GatewayUrlTest, WhatIsNoAddressIsRefused) {
  for (const char* text :
       {"", "gateway.discord.gg", "ftp://host", "ws://", "ws:///path", "ws://user@host",
        "ws://host:0", "ws://host:65536", "ws://host:", "ws://host:12x", "ws://ho st",
        "ws://host\r\nX: y", "ws://host/a b", "ws://[::1", "ws://[::1]x", "ws://[host]:1",
        "wss://host/\r\nHeader: x", "WSS://host#x"}) {
    EXPECT_FALSE(ParseUrl(text)) << text;
  }
  EXPECT_FALSE(ParseUrl("ws://" + std::string(254, 'a')));
  EXPECT_TRUE(ParseUrl("ws://" + std::string(253, 'a')));
}

TEST(GatewayUrlTest, QueryIsAddedWithAndWithoutSlash) {
  EXPECT_EQ(ConnectionUrl("wss://gateway.discord.gg", Compression::kZstdStream),
            "wss://gateway.discord.gg/?v=10&encoding=json&compress=zstd-stream");
  EXPECT_EQ(ConnectionUrl("wss://gateway.discord.gg/", Compression::kZlibStream),
            "wss://gateway.discord.gg/?v=10&encoding=json&compress=zlib-stream");
  EXPECT_EQ(ConnectionUrl("ws://127.0.0.1:1/?v=6", Compression::kNone),
            "ws://127.0.0.1:1/?v=10&encoding=json");
}

TEST(GatewayUrlTest, ASessionIsNotSentInClearTextWhereTheMainAddressIsEncrypted) {
  EXPECT_TRUE(IsAcceptableResumeUrl("wss://b.discord.gg", "wss://gateway.discord.gg"));
  EXPECT_FALSE(IsAcceptableResumeUrl("ws://b.discord.gg", "wss://gateway.discord.gg"));
  EXPECT_TRUE(IsAcceptableResumeUrl("ws://127.0.0.1:1", "ws://127.0.0.1:2"));
  EXPECT_FALSE(IsAcceptableResumeUrl("https://b.discord.gg", "wss://gateway.discord.gg"));
  EXPECT_FALSE(IsAcceptableResumeUrl("", "wss://gateway.discord.gg"));
}

}  // namespace
}  // namespace shardd::gateway
