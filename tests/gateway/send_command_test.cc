#include "gateway/send_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "gateway/padded.h"
#include "gateway/payload.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;

Command Make(uint32_t op, std::string_view data) {
  Command command;
  EXPECT_EQ(MakeCommand(op, data, &command), CommandFault::kNone) << data;
  return command;
}
CommandFault FaultOf(uint32_t op, std::string_view data) {
  Command command;
  return MakeCommand(op, data, &command);
}

TEST(SendCommandTest, TheFiveCommandsAreTakenAndNoOtherOp) {
  for (const uint32_t op : {3, 4, 8, 31, 43}) {
    EXPECT_EQ(Make(op, R"({"a": 1})").text, "{\"op\":" + std::to_string(op) + R"(,"d":{"a": 1}})");
  }
  for (const uint32_t op :
       {0u, 1u, 2u, 5u, 6u, 7u, 9u, 10u, 11u, 12u, 14u, 30u, 32u, 42u, 44u, 4294967295u, 259u}) {
    EXPECT_EQ(FaultOf(op, "{}"), CommandFault::kOp) << op;
  }
}

TEST(SendCommandTest, DataIsOneJsonObject) {
  for (const std::string_view good : {"{}", " {\"a\":[1,2]}\n", "{\"a\":\"\xc3\xbc\"}"}) {
    EXPECT_EQ(FaultOf(4, good), CommandFault::kNone) << good;
  }
  const std::string with_nul("{}\0", 3);
  for (const std::string_view bad :
       {std::string_view(""), std::string_view(" "), std::string_view("{"),
        std::string_view("null"), std::string_view("[]"), std::string_view("1"),
        std::string_view("{\"a\":}"), std::string_view("{}{}"), std::string_view("{},\"op\":2"),
        std::string_view("{}}"), std::string_view("{\"a\":\"\xff\"}"),
        std::string_view("{\"a\":\"\xed\xa0\x80\"}"), std::string_view("\xef\xbb\xbf{}"),
        std::string_view("{'a':1}"), std::string_view("{\"a\":\"\n\"}"),
        std::string_view(with_nul)}) {
    EXPECT_EQ(FaultOf(4, bad), CommandFault::kNotAnObject) << bad;
  }
}

TEST(SendCommandTest, TheWholePayloadMayHave4096Bytes) {
  const auto data = [](size_t bytes) { return R"({"a":")" + std::string(bytes - 8, 'x') + "\"}"; };
  const size_t around = std::string_view(R"({"op":43,"d":})").size();
  EXPECT_EQ(Make(43, data(4096 - around)).text.size(), 4096u);
  EXPECT_EQ(FaultOf(43, data(4097 - around)), CommandFault::kTooLarge);
  EXPECT_EQ(FaultOf(3, data(4097 - around)), CommandFault::kNone);
  EXPECT_EQ(FaultOf(3, std::string(100'000'000, '[')), CommandFault::kTooLarge);
}

TEST(SendCommandTest, ANonceThatDiscordWouldDropIsRefused) {
  const auto request = [](const std::string& nonce) {
    return R"({"guild_id":"1","query":"a","limit":1,"nonce":")" + nonce + "\"}";
  };
  EXPECT_EQ(FaultOf(8, request(std::string(32, 'n'))), CommandFault::kNone);
  EXPECT_EQ(FaultOf(8, request(std::string(33, 'n'))), CommandFault::kNonce);
  std::string umlauts;
  for (int i = 0; i < 17; ++i) umlauts += "\\u00fc";  // of two bytes each
  EXPECT_EQ(FaultOf(8, request(umlauts)), CommandFault::kNonce);
  EXPECT_EQ(FaultOf(31, request(std::string(33, 'n'))), CommandFault::kNone);
}

TEST(SendCommandTest, AnEmptyQueryWithoutLimitAsksForAllMembers) {
  const auto guild = [](std::string_view data) { return Make(8, data).all_members_of; };
  EXPECT_EQ(guild(R"({"guild_id":"41771983423143937","query":"","limit":0})"), 41771983423143937u);
  EXPECT_EQ(guild(R"({"guild_id":41771983423143937,"query":"","limit":0})"), 41771983423143937u);
  EXPECT_EQ(guild(R"({"guild_id":"5","query":""})"), 5u);
  EXPECT_EQ(guild(R"({"guild_id":"5","query":"","limit":null})"), 5u);
  EXPECT_EQ(guild(R"({"guild_id":"5","query":"","limit":-1})"), 5u);
  EXPECT_EQ(guild(R"({"guild_id":"5","query":"","limit":1})"), 0u);
  EXPECT_EQ(guild(R"({"guild_id":"5","query":"a","limit":0})"), 0u);
  EXPECT_EQ(guild(R"({"guild_id":"5","user_ids":["1"],"limit":0})"), 0u);
  EXPECT_EQ(Make(31, R"({"guild_id":"5","query":"","limit":0})").all_members_of, 0u);
}

TEST(SendCommandTest, OnlyAPresenceThatAnIdentifyCanCarryIsKept) {
  const std::string good =
      R"({"since":91879201,"activities":[{"name":"Save","type":0,"state":null,"url":"u"}],)"
      R"("status":"online","afk":false})";
  EXPECT_EQ(Make(3, good).presence, good);
  for (const char* status : {"online", "dnd", "idle", "invisible", "offline"}) {
    EXPECT_TRUE(IsPresence(std::string(R"({"since":null,"status":")") + status + "\"}")) << status;
  }
  for (const char* bad :
       {"{}", R"({"status":"ONLINE"})", R"({"status":5})", R"({"status":"idle","afk":1})",
        R"({"status":"idle","since":"1"})", R"({"status":"idle","activities":{}})",
        R"({"status":"idle","activities":[1]})", R"({"status":"idle","activities":[{"type":0}]})",
        R"({"status":"idle","activities":[{"name":"a"}]})",
        R"({"status":"idle","activities":[{"name":"a","type":"0"}]})",
        R"({"status":"idle","activities":[{"name":"a","type":0,"url":1}]})", R"([])", ""}) {
    EXPECT_FALSE(IsPresence(bad)) << bad;
  }
  EXPECT_EQ(Make(3, "{}").presence, "") << "it is sent all the same";
  EXPECT_EQ(Make(4, good).presence, "");
}

TEST(SendCommandTest, RateLimitedIsRead) {
  const auto parse = [](std::string_view json) {
    const Padded padded(json);
    return ParseRateLimited(padded);
  };
  const auto limited =
      parse(R"({"opcode":8,"retry_after":29.4571,"meta":{"guild_id":"41771983423143937"}})");
  ASSERT_TRUE(limited.has_value());
  EXPECT_EQ(limited->guild_id, 41771983423143937u);
  EXPECT_EQ(limited->retry_after, 29458ms);
  EXPECT_EQ(parse(R"({"opcode":8,"retry_after":30,"meta":{"guild_id":"1"}})")->retry_after, 30s);
  for (const char* bad : {R"({"opcode":3,"retry_after":29,"meta":{"guild_id":"1"}})",
                          R"({"opcode":8,"retry_after":-1,"meta":{"guild_id":"1"}})",
                          R"({"opcode":8,"retry_after":1e300,"meta":{"guild_id":"1"}})",
                          R"({"opcode":8,"retry_after":"29","meta":{"guild_id":"1"}})",
                          R"({"opcode":8,"retry_after":29,"meta":{"guild_id":"x"}})",
                          R"({"opcode":8,"retry_after":29,"meta":{}})",
                          R"({"opcode":8,"retry_after":29})", "[]", "null", "{"}) {
    EXPECT_FALSE(parse(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace shardd::gateway
