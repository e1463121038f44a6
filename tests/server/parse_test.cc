#include "server/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/status.h"

namespace shardd::server {
namespace {

using std::chrono::microseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// "" where the text was taken.
template <typename T>
std::string WhyNot(const absl::StatusOr<T>& parsed) {
  if (parsed.ok()) return "";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(Message(parsed.status()));
}

TEST(ParseNumberTest, TakesWhatLiesWithinTheBounds) {
  EXPECT_EQ(*ParseNumber("1", 1, 64), 1u);
  EXPECT_EQ(*ParseNumber("64", 1, 64), 64u);
  EXPECT_EQ(*ParseNumber("007", 1, 64), 7u);
  EXPECT_EQ(*ParseNumber("18446744073709551615", 0, UINT64_MAX), UINT64_MAX);
}

TEST(ParseNumberTest, SaysWhichBoundIsPassed) {
  EXPECT_EQ(WhyNot(ParseNumber("0", 1, 64)), "'0' is too small: the least is 1");
  EXPECT_EQ(WhyNot(ParseNumber("65", 1, 64)), "'65' is too large: the most is 64");
  EXPECT_EQ(WhyNot(ParseNumber("18446744073709551616", 0, UINT64_MAX)),
            "'18446744073709551616' is too large");
}

TEST(ParseNumberTest, RefusesWhatIsNoWholeNumber) {
  EXPECT_THAT(WhyNot(ParseNumber("", 0, 9)), HasSubstr("is empty"));
  for (const char* text : {"-1", "+1", " 1", "1 ", "1.5", "1e3", "0x10", "one", "1,000", "²"}) {
    EXPECT_THAT(WhyNot(ParseNumber(text, 0, 9999)), HasSubstr("is not a whole number")) << text;
  }
}

TEST(ParseBoolTest, TakesThreeWordsForEach) {
  for (const char* text : {"true", "1", "yes"}) EXPECT_TRUE(*ParseBool(text)) << text;
  for (const char* text : {"false", "0", "no"}) EXPECT_FALSE(*ParseBool(text)) << text;
  for (const char* text : {"", "on", "2", "truee", " true"}) {
    EXPECT_NE(WhyNot(ParseBool(text)), "") << text;
  }
}

TEST(ParseRealTest, TakesFractionsUpToTheMost) {
  EXPECT_EQ(*ParseReal("0", 10), 0);
  EXPECT_EQ(*ParseReal("2.5", 10), 2.5);
  EXPECT_EQ(*ParseReal("1e1", 10), 10);
  EXPECT_THAT(WhyNot(ParseReal("10.01", 10)), HasSubstr("the most is 10"));
}

TEST(ParseRealTest, RefusesWhatIsNoFiniteNumberOfZeroOrMore) {
  for (const char* text : {"", "-1", "-0.001", "nan", "inf", "-inf", "1e999", "1.5x", " 1", "+1"}) {
    EXPECT_NE(WhyNot(ParseReal(text, 1e6)), "") << text;
  }
}

TEST(ParseDurationTest, TakesEachUnitAndSecondsWhereThereIsNone) {
  constexpr auto kMost = std::chrono::hours(24);
  EXPECT_EQ(*ParseDuration("500us", kMost), microseconds(500));
  EXPECT_EQ(*ParseDuration("10ms", kMost), std::chrono::milliseconds(10));
  EXPECT_EQ(*ParseDuration("5s", kMost), std::chrono::seconds(5));
  EXPECT_EQ(*ParseDuration("5", kMost), std::chrono::seconds(5));
  EXPECT_EQ(*ParseDuration("2m", kMost), std::chrono::minutes(2));
  EXPECT_EQ(*ParseDuration("1h", kMost), std::chrono::hours(1));
  EXPECT_EQ(*ParseDuration("0", kMost), microseconds(0));
}

TEST(ParseDurationTest, HoldsTheMost) {
  EXPECT_EQ(*ParseDuration("1000000us", std::chrono::seconds(1)), std::chrono::seconds(1));
  EXPECT_THAT(WhyNot(ParseDuration("1000001us", std::chrono::seconds(1))), HasSubstr("too large"));
  // Larger than 64 bits of microseconds, though the number itself is not.
  EXPECT_THAT(WhyNot(ParseDuration("10000000000000h", std::chrono::hours(1))),
              HasSubstr("too large"));
}

TEST(ParseDurationTest, RefusesOtherForms) {
  for (const char* text : {"", "s", "-1s", "1.5s", "1 s", "1S", "1min", "1ns", "1s5", "5d"}) {
    EXPECT_THAT(WhyNot(ParseDuration(text, std::chrono::hours(1))),
                HasSubstr("a duration such as 500us"))
        << text;
  }
}

TEST(ParseSizeTest, TakesBytesAndBinaryUnits) {
  EXPECT_EQ(*ParseSize("1048576", 0, UINT64_MAX), uint64_t{1} << 20);
  EXPECT_EQ(*ParseSize("64KiB", 0, UINT64_MAX), uint64_t{64} << 10);
  EXPECT_EQ(*ParseSize("512MiB", 0, UINT64_MAX), uint64_t{512} << 20);
  EXPECT_EQ(*ParseSize("2GiB", 0, UINT64_MAX), uint64_t{2} << 30);
}

TEST(ParseSizeTest, HoldsItsBounds) {
  EXPECT_EQ(*ParseSize("1KiB", 1024, 2048), 1024u);
  EXPECT_EQ(*ParseSize("2KiB", 1024, 2048), 2048u);
  EXPECT_THAT(WhyNot(ParseSize("1023", 1024, 2048)), HasSubstr("the least is 1024 bytes"));
  EXPECT_THAT(WhyNot(ParseSize("2049", 1024, 2048)), HasSubstr("the most is 2048 bytes"));
  EXPECT_THAT(WhyNot(ParseSize("18014398509481984KiB", 0, UINT64_MAX)), HasSubstr("too large"));
}

TEST(ParseSizeTest, RefusesOtherForms) {
  for (const char* text : {"", "-1", "1.5GiB", "2GB", "2G", "2gib", "2 GiB", "GiB", "1TiB"}) {
    EXPECT_THAT(WhyNot(ParseSize(text, 0, UINT64_MAX)), HasSubstr("a size such as")) << text;
  }
}

TEST(ParseShardIdsTest, KeepsTheOrderGiven) {
  EXPECT_THAT(*ParseShardIds("0"), ElementsAre(0));
  EXPECT_THAT(*ParseShardIds("0-3,7"), ElementsAre(0, 1, 2, 3, 7));
  EXPECT_THAT(*ParseShardIds("7,2-2,0-1"), ElementsAre(7, 2, 0, 1));
  EXPECT_THAT(*ParseShardIds("65534"), ElementsAre(65534));
  EXPECT_EQ(ParseShardIds("0-65534")->size(), 65535u);
}

TEST(ParseShardIdsTest, RefusesAnIdTwice) {
  EXPECT_EQ(WhyNot(ParseShardIds("3,3")), "shard 3 is given twice");
  EXPECT_EQ(WhyNot(ParseShardIds("0-5,4-6")), "shard 4 is given twice");
}

TEST(ParseShardIdsTest, RefusesOtherForms) {
  for (const char* text : {"", ",", "1,", ",1", "1,,2", "-1", "1-", "-", "3-1", "1-2-3", "a",
                           "0, 1", "65535", "0-65535", "0-18446744073709551616"}) {
    EXPECT_THAT(WhyNot(ParseShardIds(text)), HasSubstr("a list of shard ids such as 0-3,7"))
        << text;
  }
}

TEST(ParseListenAddressTest, TakesHostsAndPorts) {
  const auto ipv4 = ParseListenAddress("127.0.0.1:50051");
  ASSERT_TRUE(ipv4.ok());
  EXPECT_EQ(ipv4->text, "127.0.0.1:50051");
  EXPECT_EQ(ipv4->host, "127.0.0.1");
  EXPECT_EQ(ipv4->port, 50051);
  EXPECT_FALSE(ipv4->is_unix());

  const auto ipv6 = ParseListenAddress("[::1]:0");
  ASSERT_TRUE(ipv6.ok());
  EXPECT_EQ(ipv6->host, "::1");
  EXPECT_EQ(ipv6->port, 0);

  EXPECT_EQ(ParseListenAddress("bots.example.net:65535")->port, 65535);
}

TEST(ParseListenAddressTest, TakesUnixSockets) {
  const auto address = ParseListenAddress("unix:/run/shardd.sock");
  ASSERT_TRUE(address.ok());
  EXPECT_TRUE(address->is_unix());
  EXPECT_EQ(address->text, "unix:/run/shardd.sock");
}

TEST(ParseListenAddressTest, RefusesOtherForms) {
  for (const char* text : {"", ":", ":50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
                           "127.0.0.1:-1", "127.0.0.1:grpc", "::1:50051", "[::1]", "[]:1", "[::1:1",
                           "50051", "unix:", "dns:///localhost:1", "http://localhost:1"}) {
    EXPECT_THAT(WhyNot(ParseListenAddress(text)), HasSubstr("an address such as")) << text;
  }
}

TEST(ParseListenAddressTest, KnowsWhatOnlyThisMachineReaches) {
  for (const char* text : {"127.0.0.1:1", "127.255.0.9:1", "localhost:1", "[::1]:1", "unix:x"}) {
    EXPECT_TRUE(ParseListenAddress(text)->is_loopback()) << text;
  }
  for (const char* text :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "128.0.0.1:1", "bots.example.net:1"}) {
    EXPECT_FALSE(ParseListenAddress(text)->is_loopback()) << text;
  }
}

TEST(ParseListenAddressTest, TakesNoNameForLoopbackThatOnlyStartsLikeIt) {
  for (const char* text : {"127.bots.example.net:1", "127.0.0.1.example.net:1", "127.:1",
                           "127.0.0.256:1", "localhost.example.net:1"}) {
    EXPECT_FALSE(ParseListenAddress(text)->is_loopback()) << text;
  }
}

TEST(ParseKeyValuesTest, ReadsLinesCommentsAndQuotes) {
  const auto values = ParseKeyValues(
      "# what this is\n"
      "\n"
      "threads = 4\r\n"
      "  intents=GUILDS, GUILD_MESSAGES   # both\n"
      "environment = \"blue # not a comment\"  # this is\n"
      "data-dir = 'C:\\temp\\\"x\"'\n"
      "tls-key=/etc/key#1.pem\t# the first\n"
      "no-spawn = true");
  ASSERT_TRUE(values.ok()) << values.status();
  using Pair = std::pair<std::string, std::string>;
  EXPECT_THAT(*values, ElementsAre(Pair("threads", "4"), Pair("intents", "GUILDS, GUILD_MESSAGES"),
                                   Pair("environment", "blue # not a comment"),
                                   Pair("data-dir", "C:\\temp\\\"x\""),
                                   Pair("tls-key", "/etc/key#1.pem"), Pair("no-spawn", "true")));
  EXPECT_TRUE(ParseKeyValues("")->empty());
}

TEST(ParseKeyValuesTest, KeepsAnEmptyValueForWhoeverJudgesIt) {
  EXPECT_EQ(ParseKeyValues("threads =")->front().second, "");
  EXPECT_EQ(ParseKeyValues("threads = \"\"")->front().second, "");
  EXPECT_EQ(ParseKeyValues("threads = # none")->front().second, "");
}

TEST(ParseKeyValuesTest, NamesTheLineThatItCannotRead) {
  EXPECT_THAT(WhyNot(ParseKeyValues("threads = 1\nno-spawn\n")), HasSubstr("line 2"));
  EXPECT_THAT(WhyNot(ParseKeyValues("= 1")), HasSubstr("line 1"));
  EXPECT_THAT(WhyNot(ParseKeyValues("[server]\nthreads = 1")), HasSubstr("line 1"));
  EXPECT_THAT(WhyNot(ParseKeyValues("environment = \"open")), HasSubstr("line 1"));
  EXPECT_THAT(WhyNot(ParseKeyValues("environment = 'a' b")), HasSubstr("line 1"));
}

TEST(ParseKeyValuesTest, RefusesAKeyTwice) {
  EXPECT_EQ(WhyNot(ParseKeyValues("threads = 1\nlisten = x\nthreads = 2\n")),
            "line 3: the key 'threads' is given twice");
}

// What stands in a line that cannot be read may be a token.
TEST(ParseKeyValuesTest, RepeatsNoValueInAMessage) {
  EXPECT_EQ(WhyNot(ParseKeyValues("MTIz.s3cret")).find("s3cret"), std::string::npos);
  EXPECT_EQ(WhyNot(ParseKeyValues("token = 's3cret")).find("s3cret"), std::string::npos);
}

}  // namespace
}  // namespace shardd::server
