// Key orders that differ between sessions, as two gateway nodes may encode one event.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "simulator/json_scan.h"
#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::milliseconds;
using test::GatewayClient;

// As text with its members sorted, so that equal values in any key order give equal text.
std::string Sorted(const boost::json::value& value) {
  if (const auto* array = value.if_array()) {
    std::string text = "[";
    for (const auto& element : *array) text += Sorted(element) + ",";
    return text + "]";
  }
  const auto* object = value.if_object();
  if (object == nullptr) return boost::json::serialize(value);
  std::vector<std::string> members;
  for (const auto& [key, member] : *object) members.push_back(std::string(key) + Sorted(member));
  std::sort(members.begin(), members.end());
  std::string text = "{";
  for (const auto& member : members) text += member + ",";
  return text + "}";
}

TEST(PermuteKeysTest, MovesMembersAndLeavesTheirBytes) {
  const std::string text = R"({"a":1.50,"b":"\u00e9\"{","c":[{"x":1e2,"y":null}, 3 ],"d":{}})";
  std::set<std::string> orders;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::string permuted = PermuteKeys(text, seed);
    EXPECT_EQ(permuted, PermuteKeys(text, seed));
    EXPECT_EQ(Sorted(boost::json::parse(permuted)), Sorted(boost::json::parse(text)));
    for (const char* kept : {R"("a":1.50)", R"("b":"\u00e9\"{")", R"("x":1e2)", ", 3 ]"}) {
      EXPECT_THAT(permuted, testing::HasSubstr(kept));
    }
    orders.insert(permuted);
  }
  EXPECT_GT(orders.size(), 20u);
}

TEST(PermuteKeysTest, KeepsTheOrderOfEqualKeysAndWhiteSpace) {
  const std::string permuted = PermuteKeys(R"( { "a" : 1 , "a" : 2 } )", 7);
  EXPECT_EQ(permuted, R"( { "a" : 1 , "a" : 2 } )");
}

TEST(PermuteKeysTest, WhatIsNoJsonOrTooDeepComesBackAsItIs) {
  for (const std::string text :
       {"", "{", R"({"a"})", R"({"a":1,})", R"({"a":1}x)", R"(["a)", R"({"b":[1,],"a":1})"}) {
    EXPECT_EQ(PermuteKeys(text, 1), text);
  }
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_EQ(PermuteKeys(deep, 1), deep);
}

TEST(MemberOfTest, FindsValuesAsTheyAreWritten) {
  const char* text = R"( {"x": {"d":1}, "d" : {"a" : [1, "}"]} , "e":2} )";
  EXPECT_EQ(MemberOf(text, "d"), R"({"a" : [1, "}"]})");
  EXPECT_EQ(MemberOf(text, "e"), "2");
  EXPECT_FALSE(MemberOf(text, "a").has_value());
  EXPECT_FALSE(MemberOf("[1]", "a").has_value());
  EXPECT_FALSE(MemberOf(R"({"a)", "a").has_value());
}

class KeyOrderTest : public testing::Test {
 protected:
  void Start(GatewayClient& client) { ASSERT_TRUE(client.Start({0, 1}).has_value()); }

  Simulator simulator_{
      {.guilds = 3, .identify_window = milliseconds(0), .permute_keys = true, .record = true}};
};

TEST_F(KeyOrderTest, DiffersBetweenSessionsAndValuesDoNot) {
  GatewayClient a(simulator_.port());
  GatewayClient b(simulator_.port());
  Start(a);
  Start(b);
  ASSERT_TRUE(simulator_.WaitForSessions(1, 2));
  simulator_.EmitTraffic(50);
  simulator_.Emit("LAST", 0, R"({"b":1,"a":2})");
  EXPECT_EQ(a.ReadType("LAST")->data, R"({"b":1,"a":2})") << "belongs to no guild";
  ASSERT_TRUE(b.ReadType("LAST").has_value());
  ASSERT_EQ(a.dispatches().size(), b.dispatches().size());
  size_t differing = 0;
  for (size_t i = 1; i < a.dispatches().size(); ++i) {
    const auto& one = a.dispatches()[i];
    const auto& other = b.dispatches()[i];
    EXPECT_EQ(Sorted(one.d()), Sorted(other.d()));
    if (one.data != other.data) ++differing;
  }
  EXPECT_GE(differing, 50u);
  for (const GatewayClient* client : {&a, &b}) {
    const auto sent = simulator_.Sent(client->session_id());
    ASSERT_EQ(sent.size(), client->dispatches().size());
    for (size_t i = 0; i < sent.size(); ++i) EXPECT_EQ(sent[i].data, client->dispatches()[i].data);
  }
}

TEST_F(KeyOrderTest, AReplayRepeatsTheBytesOfItsSession) {
  GatewayClient first(simulator_.port());
  Start(first);
  ASSERT_TRUE(simulator_.WaitForSessions(1, 1));
  simulator_.EmitTraffic(20);
  simulator_.Emit("LAST", 0, "{}");
  ASSERT_TRUE(first.ReadType("LAST").has_value());
  first.Drop();
  GatewayClient second(simulator_.port());
  second.ReadOp(10);
  second.Resume(first.session_id(), 1);
  ASSERT_TRUE(second.ReadType("RESUMED").has_value());
  for (size_t i = 0; i + 1 < second.dispatches().size(); ++i) {
    EXPECT_EQ(second.dispatches()[i].text, first.dispatches()[i + 1].text);
  }
}

TEST_F(KeyOrderTest, IsSwitchedWhileItRuns) {
  simulator_.SetPermuteKeys(false);
  GatewayClient client(simulator_.port());
  Start(client);
  const uint64_t guild = simulator_.guild_ids()[0];
  const std::string data = R"({"f":1,"e":2,"d":3,"c":4,"b":5,"a":6})";
  simulator_.Emit("X", guild, data);
  EXPECT_EQ(client.ReadType("X")->data, data);
  simulator_.SetPermuteKeys(true);
  simulator_.Emit("X", guild, data);
  EXPECT_NE(client.ReadType("X")->data, data);
}

}  // namespace
}  // namespace shardd::simulator
