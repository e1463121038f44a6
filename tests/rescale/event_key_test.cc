#include "rescale/event_key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gateway/padded.h"
#include "simulator/guilds.h"
#include "simulator/json_scan.h"
#include "simulator/structure.h"
#include "simulator/traffic.h"

namespace shardd::rescale {
namespace {

using ::testing::Contains;
using ::testing::Key;

constexpr uint64_t kGuild = 197038439483310086;
constexpr uint64_t kOwnUser = 80351110224678912;

class EventKeyTest : public ::testing::Test {
 protected:
  Identity Identify(std::string_view type, std::string_view data, uint64_t guild_id = kGuild,
                    uint64_t own_user = kOwnUser) {
    const gateway::Padded padded(data);
    return identifier_.Identify(type, padded, guild_id, own_user);
  }
  EventKey KeyOf(std::string_view type, std::string_view data) { return Identify(type, data).key; }
  // Of an event that is told apart by all that stands in it.
  EventKey Content(std::string_view data) { return KeyOf("CHANNEL_UPDATE", data); }

  void ExpectUnique(std::string_view type, std::string_view data, std::string_view same,
                    std::string_view other, Matching matching = Matching::kUnique) {
    const Identity identity = Identify(type, data);
    EXPECT_EQ(identity.matching, matching) << type;
    EXPECT_EQ(identity.key, KeyOf(type, same)) << type;
    EXPECT_EQ(Identify(type, other).matching, matching) << type;
    EXPECT_NE(identity.key, KeyOf(type, other)) << type;
    EXPECT_NE(identity.key, Identify(type, data, kGuild + 1).key) << type;
    EXPECT_NE(identity.key, Content(data)) << type;
    // Without what names it, by content.
    for (const char* unnamed :
         {R"({"x":1})", "{}", "[]", R"({"id":7,"role":8,"code":{},"user":[]})",
          R"({"id":"","code":"","role":{"id":""},"user":{"id":""}})"}) {
      EXPECT_EQ(Identify(type, unnamed).matching, Matching::kByContent) << type << unnamed;
      EXPECT_NE(KeyOf(type, unnamed), KeyOf(type, R"({"x":2})")) << type << unnamed;
    }
  }

  EventIdentifier identifier_;
};

// ---- Which rule ----

TEST_F(EventKeyTest, WhatBelongsToASessionIsNeverMatched) {
  for (const char* type : {"READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "RATE_LIMITED",
                           "SOUNDBOARD_SOUNDS", "CHANNEL_INFO", "VOICE_SERVER_UPDATE"}) {
    EXPECT_EQ(Identify(type, R"({"id":"1"})").matching, Matching::kNever) << type;
    EXPECT_EQ(Identify(type, "garbage").matching, Matching::kNever) << type;
  }
}

TEST_F(EventKeyTest, TheBotsOwnVoiceStateBelongsToTheSession) {
  const std::string own = R"({"user_id":"80351110224678912","channel_id":null})";
  EXPECT_EQ(Identify("VOICE_STATE_UPDATE", own).matching, Matching::kNever);
  EXPECT_EQ(Identify("VOICE_STATE_UPDATE", own, kGuild, 0).matching, Matching::kByContent);
  // Others' are matched, also where the bot stands in them.
  const std::string other =
      R"({"member":{"user_id":"80351110224678912"},"user_id":"8035111022467891"})";
  const Identity identity = Identify("VOICE_STATE_UPDATE", other);
  EXPECT_EQ(identity.matching, Matching::kByContent);
  EXPECT_EQ(identity.key, Identify("VOICE_STATE_UPDATE", other, kGuild, 0).key);
  EXPECT_EQ(Identify("VOICE_STATE_UPDATE", "{}").matching, Matching::kByContent);
}

TEST_F(EventKeyTest, WhatHasAnIdOfItsOwnIsUniqueByIt) {
  for (const char* type :
       {"MESSAGE_CREATE", "INTERACTION_CREATE", "GUILD_AUDIT_LOG_ENTRY_CREATE", "CHANNEL_CREATE",
        "GUILD_SCHEDULED_EVENT_CREATE", "STAGE_INSTANCE_CREATE", "INTEGRATION_CREATE",
        "AUTO_MODERATION_RULE_CREATE", "ENTITLEMENT_CREATE"}) {
    // Nested ids are others'.
    ExpectUnique(type, R"({"author":{"id":"2"},"id":"1","a":1})", R"({"a":[{"id":"9"}],"id":"1"})",
                 R"({"author":{"id":"1"},"id":"2","a":1})");
  }
  ExpectUnique("GUILD_ROLE_CREATE", R"({"role":{"name":"x","id":"1"},"id":"5"})",
               R"({"role":{"id":"1"}})", R"({"role":{"id":"2"},"id":"1"})");
  ExpectUnique("INVITE_CREATE", R"({"code":"abc","uses":0})", R"({"code":"abc"})",
               R"({"code":"abd","uses":0})");
}

TEST_F(EventKeyTest, WhatMayComeAgainIsNotUniqueThoughItHasAKeyOfItsOwn) {
  ExpectUnique("MESSAGE_DELETE", R"({"id":"1","x":1})", R"({"id":"1"})", R"({"id":"2"})",
               Matching::kByContent);
  ExpectUnique("GUILD_MEMBER_ADD", R"({"user":{"id":"1"},"joined_at":"then","roles":[]})",
               R"({"joined_at":"then","user":{"name":"x","id":"1"}})",
               R"({"user":{"id":"1"},"joined_at":"later"})", Matching::kByContent);
  EXPECT_NE(KeyOf("GUILD_MEMBER_ADD", R"({"user":{"id":"1"},"joined_at":"then"})"),
            KeyOf("GUILD_MEMBER_ADD", R"({"user":{"id":"2"},"joined_at":"then"})"));
  // It comes again for who is added to a private thread.
  EXPECT_EQ(Identify("THREAD_CREATE", R"({"id":"1"})").matching, Matching::kByContent);
}

TEST_F(EventKeyTest, InteractionsHaveAnOrderOfTheirOwn) {
  EXPECT_EQ(Identify("INTERACTION_CREATE", R"({"id":"1"})").producer, Producer::kInteraction);
  EXPECT_EQ(Identify("INTERACTION_CREATE", "{}").producer, Producer::kInteraction);
  EXPECT_EQ(Identify("MESSAGE_CREATE", R"({"id":"1"})").producer, Producer::kGuild);
  EXPECT_EQ(Identify("MESSAGE_UPDATE", R"({"id":"1"})").producer, Producer::kGuild);
}

TEST_F(EventKeyTest, AGuildThatComesOrGoesIsKnownByWhetherItIsThere) {
  for (const char* type : {"GUILD_CREATE", "GUILD_DELETE"}) {
    const Identity there = Identify(type, R"({"id":"1","members":[1],"unavailable":false})");
    EXPECT_EQ(there.matching, Matching::kByContent);
    EXPECT_EQ(there.key, KeyOf(type, R"({"members":[2,{"unavailable":true}],"id":"1"})"));
    const EventKey away = KeyOf(type, R"({"members":[1], "unavailable" : true ,"id":"1"})");
    EXPECT_NE(there.key, away);
    EXPECT_EQ(away, KeyOf(type, R"({"unavailable":true})"));
    EXPECT_NE(away, Identify(type, R"({"unavailable":true})", kGuild + 1).key);
    // Of no guild that could be read.
    EXPECT_NE(Identify(type, R"({"id":1})", 0).key, Identify(type, R"({"id":2})", 0).key);
  }
  EXPECT_NE(KeyOf("GUILD_CREATE", "{}"), KeyOf("GUILD_DELETE", "{}"));
}

TEST_F(EventKeyTest, WhatASessionMayStampIsLeftOut) {
  const EventKey key = KeyOf("PRESENCE_UPDATE", R"({"status":"idle","processed_at_timestamp":1})");
  EXPECT_EQ(key, KeyOf("PRESENCE_UPDATE", R"({"processed_at_timestamp":2,"status":"idle"})"));
  EXPECT_EQ(key, KeyOf("PRESENCE_UPDATE", R"({"status":"idle"})"));
  EXPECT_NE(key, KeyOf("PRESENCE_UPDATE", R"({"status":"dnd","processed_at_timestamp":1})"));
  // At the top level of that type alone.
  EXPECT_NE(KeyOf("PRESENCE_UPDATE", R"({"a":{"processed_at_timestamp":1}})"),
            KeyOf("PRESENCE_UPDATE", R"({"a":{"processed_at_timestamp":2}})"));
  EXPECT_NE(Content(R"({"processed_at_timestamp":1})"), Content(R"({"processed_at_timestamp":2})"));
}

// ---- Content ----

TEST_F(EventKeyTest, TypeAndGuildCount) {
  const Identity identity = Identify("TYPING_START", R"({"a":1})");
  EXPECT_EQ(identity.matching, Matching::kByContent);
  EXPECT_NE(identity.key, KeyOf("A_TYPE_OF_TOMORROW", R"({"a":1})"));
  EXPECT_NE(identity.key, Identify("TYPING_START", R"({"a":1})", 0).key);
}

TEST_F(EventKeyTest, WhatMeansTheSameIsTheSame) {
  const std::vector<std::vector<std::string>> groups = {
      {R"({"a":1,"b":{"c":[1,{"d":2,"e":3}],"f":null}})",
       R"({"b":{"f":null,"c":[1,{"e":3,"d":2}]},"a":1})",
       " { \"b\" :\t{ \"c\":[ 1 ,{\"d\":2,\"e\":3 } ],\n\"f\" : null } , \"a\": 1 }\r\n "},
      {R"({"a":"/\"\\\nA\u00e9\ud83d\ude00"})", R"({"\u0061":"\/\u0022\u005c\u000a\u0041é😀"})"},
      {"{}", " { } "},
      {"[]", "[ ]"},
      {R"([1,"x",null,true,{"a":[]}])", R"( [ 1 , "x" , null , true , { "a" : [ ] } ] )"},
  };
  for (const auto& group : groups) {
    for (const std::string& each : group) EXPECT_EQ(Content(group[0]), Content(each)) << each;
  }
}

TEST_F(EventKeyTest, WhatDiffersDiffers) {
  const std::vector<std::string> texts = {"{}",
                                          "[]",
                                          "null",
                                          "0",
                                          "true",
                                          "false",
                                          "\"\"",
                                          "[{}]",
                                          "[[]]",
                                          "[[],[]]",
                                          "[[[]]]",
                                          "[{},{}]",
                                          "[null]",
                                          "[0]",
                                          "[\"\"]",
                                          "[\"null\"]",
                                          "[\"0\"]",
                                          R"({"":""})",
                                          R"({"a":""})",
                                          R"({"a":null})",
                                          R"({"a":"null"})",
                                          R"({"a":1})",
                                          R"({"a":"1"})",
                                          R"({"a":1.0})",
                                          R"({"a":[1]})",
                                          R"({"a":[]})",
                                          R"({"a":{}})",
                                          R"({"b":1})",
                                          R"({"a":{"b":1}})",
                                          R"({"b":{"a":1}})",
                                          R"({"a":1,"b":1})",
                                          R"({"a":1,"a":1})",
                                          R"({"a":1,"a":1,"a":1})",
                                          R"({"a":1,"b":2})",
                                          R"({"a":2,"b":1})",
                                          R"({"a":"b","c":"d"})",
                                          R"({"a":"d","c":"b"})",
                                          R"({"ab":"c"})",
                                          R"({"a":"bc"})",
                                          "[1,2]",
                                          "[2,1]",
                                          "[12]",
                                          "[1,2,1]",
                                          R"([[1],2])",
                                          R"([[1,2]])",
                                          R"([1,[2]])",
                                          R"({"a":{"b":1},"c":{"d":2}})",
                                          R"({"a":{"d":2},"c":{"b":1}})",
                                          R"({"a":{"b":1,"d":2},"c":{}})",
                                          R"([{"a":1},{"b":2}])",
                                          R"([{"a":1,"b":2}])",
                                          R"([{"b":2},{"a":1}])",
                                          R"(["a","b"])",
                                          R"(["ab"])",
                                          R"(["a,b"])",
                                          R"(["b","a"])",
                                          R"(["aa"])",
                                          R"(["a"])",
                                          R"(["a\u0000"])",
                                          R"(["a\u0000\u0000"])",
                                          R"(["\u0000a"])",
                                          R"(["\\u0000"])",
                                          R"({"a":1e2})",
                                          R"({"a":100})",
                                          R"({"a":true})",
                                          R"({"a":false})",
                                          R"({"a":-1})",
                                          R"(["\ud800"])",
                                          R"(["\\ud800"])",
                                          R"(["\ud801"])"};
  std::map<std::pair<uint64_t, uint64_t>, std::string> seen;
  std::set<uint64_t> high, low;
  for (const std::string& each : texts) {
    const EventKey key = Content(each);
    EXPECT_TRUE(seen.emplace(std::pair(key.high, key.low), each).second)
        << each << " and " << seen[std::pair(key.high, key.low)];
    high.insert(key.high);
    low.insert(key.low);
  }
  // In each of the halves.
  EXPECT_EQ(high.size(), texts.size());
  EXPECT_EQ(low.size(), texts.size());
}

TEST_F(EventKeyTest, EveryByteOfAStringCounts) {
  std::set<uint64_t> high, low;
  size_t texts = 0;
  for (size_t size = 0; size < 70; ++size) {
    for (size_t at = 0; at <= size; ++at) {
      std::string text(size, 'x');
      if (at < size) text[at] = 'y';
      const EventKey key = Content("[\"" + text + "\"]");
      high.insert(key.high);
      low.insert(key.low);
      ++texts;
    }
  }
  EXPECT_EQ(high.size(), texts);
  EXPECT_EQ(low.size(), texts);
}

TEST_F(EventKeyTest, AFlippedBitOfATextChangesHalfOfTheKey) {
  double flipped = 0;
  int pairs = 0;
  for (int bit = 0; bit < 4; ++bit) {
    for (size_t at = 0; at < 40; ++at) {
      std::string text(40, 'h');
      const EventKey before = Content(R"({"a":")" + text + R"("})");
      text[at] = static_cast<char>('h' ^ (1 << bit));
      const EventKey after = Content(R"({"a":")" + text + R"("})");
      flipped += std::popcount(before.high ^ after.high) + std::popcount(before.low ^ after.low);
      ++pairs;
    }
  }
  EXPECT_NEAR(flipped / pairs, 64, 3);
}

TEST_F(EventKeyTest, WhatIsNoJsonIsItsBytes) {
  const std::vector<std::string> texts = {"",
                                          " ",
                                          "{",
                                          "}",
                                          "{\"a\"",
                                          R"({"a":})",
                                          R"({"a":1)",
                                          R"({"a":1}})",
                                          R"({"a":1}{"a":1})",
                                          R"({"a" 1})",
                                          R"({a:1})",
                                          "[1",
                                          "[1,",
                                          "[1 2]",
                                          "\"abc",
                                          "{\"a\":\"\xff\"}",
                                          "[\"\n\"]",
                                          std::string("\0", 1)};
  std::set<std::pair<uint64_t, uint64_t>> keys;
  for (const std::string& each : texts) {
    for (const char* type : {"CHANNEL_UPDATE", "PRESENCE_UPDATE", "VOICE_STATE_UPDATE"}) {
      const Identity identity = Identify(type, each);
      EXPECT_EQ(identity.matching, Matching::kByContent) << each;
      EXPECT_EQ(identity.key, KeyOf(type, each)) << each;
      EXPECT_TRUE(keys.emplace(identity.key.high, identity.key.low).second) << each;
    }
  }
  // Nothing is left of it.
  EventIdentifier fresh;
  EXPECT_EQ(Content("{}"),
            fresh.Identify("CHANNEL_UPDATE", gateway::Padded("{}"), kGuild, kOwnUser).key);
}

TEST_F(EventKeyTest, DeepTextsDoNoHarm) {
  const auto nested = [](size_t depth, std::string_view inside) {
    return std::string(depth, '[') + std::string(inside) + std::string(depth, ']');
  };
  EXPECT_EQ(Content(nested(127, R"({"a":1,"b":2})")), Content(nested(127, R"({"b":2,"a":1})")));
  // Deeper is as good as no JSON.
  EXPECT_NE(Content(nested(128, R"({"a":1,"b":2})")), Content(nested(128, R"({"b":2,"a":1})")));
  const std::string deep = nested(1'000'000, "");
  EXPECT_EQ(Content(deep), Content(deep));
  EXPECT_EQ(Identify("MESSAGE_CREATE", R"({"a":)" + deep + R"(,"id":"1"})").matching,
            Matching::kUnique);
}

TEST_F(EventKeyTest, KeysAreTheSameInEveryVersionSinceTheyAreOnDisk) {
  const auto expect = [&](std::string_view type, std::string_view data, uint64_t high,
                          uint64_t low) {
    const EventKey key = KeyOf(type, data);
    EXPECT_EQ(key.high, high) << type << std::hex << " 0x" << key.high;
    EXPECT_EQ(key.low, low) << type << std::hex << " 0x" << key.low;
  };
  expect("MESSAGE_CREATE", R"({"id":"1111111111111111111"})", 0xd013e4e03931ba18,
         0x9de31fc715b91b69);
  expect("GUILD_CREATE", R"({"unavailable":true})", 0x6dc871e980f5b8ba, 0xa633bb0661cab910);
  expect("TYPING_START", R"({"a":[1,"two\n",{"c":null}],"d":"a text of more than 16 bytes"})",
         0x7e9302c9f3aac834, 0xa48cf887e483f9b5);
  expect("TYPING_START", "no JSON", 0x13565ac348adf074, 0x18c5b3a476a8f6d1);
}

// ---- As the simulated Discord writes them ----

// Each event's key, which no order of its keys changes.
class EventKeySimulatorTest : public EventKeyTest {
 protected:
  void Check(const simulator::Dispatch& event, uint64_t seed) {
    const Identity identity = Identify(event.type, event.data, event.guild_id);
    ASSERT_NE(identity.matching, Matching::kNever) << event.type;
    for (int i = 0; i < 3; ++i) {
      const std::string permuted = simulator::PermuteKeys(event.data, seed * 3 + i);
      const Identity again = Identify(event.type, permuted, event.guild_id);
      ASSERT_EQ(again.key, identity.key) << event.type << "\n" << event.data << "\n" << permuted;
      ASSERT_EQ(again.matching, identity.matching);
      ASSERT_EQ(again.producer, identity.producer);
      if (permuted != event.data) ++permuted_;
    }
    const std::string text = event.type + std::to_string(event.guild_id) +
                             WithoutTime(simulator::PermuteKeys(event.data, 1));
    const auto [known, is_new] =
        seen_.emplace(std::pair(identity.key.high, identity.key.low), text);
    // A guild is known by whether it is there.
    if (!event.type.starts_with("GUILD_CREATE")) {
      ASSERT_EQ(known->second, text);
    }
    if (identity.matching == Matching::kUnique) {
      ASSERT_TRUE(is_new) << text;
    }
    ++types_[event.type];
  }

  // Without what differs by session.
  static std::string WithoutTime(std::string text) {
    const size_t begin = text.find(R"("processed_at_timestamp":)");
    if (begin == std::string::npos) return text;
    return text.erase(begin, text.find_first_of(",}", begin) - begin);
  }

  const simulator::Guilds guilds_{{.seed = 3, .count = 50}};
  std::map<std::pair<uint64_t, uint64_t>, std::string> seen_;
  std::map<std::string, int> types_;
  int permuted_ = 0;
};

TEST_F(EventKeySimulatorTest, NoKeyOrderChangesTheKeyOfTraffic) {
  simulator::Traffic traffic(guilds_, 7);
  for (uint64_t i = 0; i < 5000; ++i) ASSERT_NO_FATAL_FAILURE(Check(*traffic.Next(), i));
  EXPECT_EQ(types_.size(), 9u);
  for (const char* type : {"MESSAGE_CREATE", "PRESENCE_UPDATE", "INTERACTION_CREATE"}) {
    EXPECT_THAT(types_, Contains(Key(type)));
  }
  EXPECT_GT(permuted_, 14'000);
  EXPECT_GT(seen_.size(), 4500u);
}

TEST_F(EventKeySimulatorTest, NoKeyOrderChangesTheKeyOfChangesToGuilds) {
  simulator::Structure structure(guilds_, 7);
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_NO_FATAL_FAILURE(Check(*structure.Next().event, i));
  }
  for (const char* type :
       {"GUILD_CREATE", "GUILD_DELETE", "GUILD_UPDATE", "CHANNEL_CREATE", "CHANNEL_UPDATE",
        "CHANNEL_DELETE", "GUILD_ROLE_CREATE", "GUILD_ROLE_UPDATE", "GUILD_ROLE_DELETE"}) {
    EXPECT_THAT(types_, Contains(Key(type)));
  }
}

}  // namespace
}  // namespace shardd::rescale
