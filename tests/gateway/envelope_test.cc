#include "gateway/envelope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gateway/envelope_scan.h"
#include "gateway/padded.h"

namespace shardd::gateway {
namespace {

class EnvelopeTest : public ::testing::Test {
 protected:
  bool Read(std::string_view json) {
    bytes_ = std::make_unique<Padded>(json);
    return reader_.Read(*bytes_, &envelope_);
  }

  EnvelopeReader reader_;
  std::unique_ptr<Padded> bytes_;
  Envelope envelope_;
};

TEST_F(EnvelopeTest, ADispatchAsDiscordWritesIt) {
  ASSERT_TRUE(Read(
      R"({"t":"MESSAGE_CREATE","s":42,"op":0,"d":{"id":"7","content":"hi","guild_id":"123"}})"));
  EXPECT_EQ(envelope_.op, 0);
  EXPECT_EQ(envelope_.sequence, 42u);
  EXPECT_EQ(envelope_.type, "MESSAGE_CREATE");
  EXPECT_EQ(envelope_.guild_id, 123u);
  EXPECT_EQ(envelope_.data, R"({"id":"7","content":"hi","guild_id":"123"})");
}

TEST_F(EnvelopeTest, NestedGuildIdsNeverCount) {
  ASSERT_TRUE(Read(
      R"({"t":"MESSAGE_CREATE","s":1,"op":0,"d":{"message_reference":{"guild_id":"1"},"a":[{"guild_id":"2"}],"guild_id":"3"}})"));
  EXPECT_EQ(envelope_.guild_id, 3u);
  ASSERT_TRUE(Read(
      R"({"t":"MESSAGE_CREATE","s":1,"op":0,"d":{"message_reference":{"guild_id":"1"},"content":"\"guild_id\":\"5\""}})"));
  EXPECT_EQ(envelope_.guild_id, 0u);
}

TEST_F(EnvelopeTest, AValueThatSpellsTheKeyDoesNotCount) {
  ASSERT_TRUE(Read(R"({"t":"X","s":1,"op":0,"d":{"a":"guild_id","b":"guild_id","guild_id":"9"}})"));
  EXPECT_EQ(envelope_.guild_id, 9u);
}

TEST_F(EnvelopeTest, AKeyWrittenWithEscapesCounts) {
  ASSERT_TRUE(Read(R"({"t":"X","s":1,"op":0,"d":{"guild\u005fid":"9","z":"guild_id"}})"));
  EXPECT_EQ(envelope_.guild_id, 9u);
}

TEST_F(EnvelopeTest, TheGuildOfAGuildIsItsId) {
  for (const char* type : {"GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"}) {
    ASSERT_TRUE(Read(std::string(R"({"t":")") + type +
                     R"(","s":1,"op":0,"d":{"members":[{"user":{"id":"1"}}],"id":"77"}})"));
    EXPECT_EQ(envelope_.guild_id, 77u);
  }
  ASSERT_TRUE(Read(R"({"t":"GUILD_ROLE_CREATE","s":1,"op":0,"d":{"id":"1","guild_id":"2"}})"));
  EXPECT_EQ(envelope_.guild_id, 2u);
}

TEST_F(EnvelopeTest, AGuildIdThatIsNoStringOfDigitsIsNone) {
  for (const char* value : {"null", "12", R"("")", R"("x1")", R"("1x")", "true", R"({"a":"1"})",
                            R"(["1"])", R"("99999999999999999999999")", R"("-1")"}) {
    ASSERT_TRUE(Read(std::string(R"({"t":"X","s":1,"op":0,"d":{"guild_id":)") + value + "}}"))
        << value;
    EXPECT_EQ(envelope_.guild_id, 0u) << value;
  }
}

TEST_F(EnvelopeTest, AnyOrderAndWhiteSpace) {
  ASSERT_TRUE(
      Read("\n{ \"d\" : { \"guild_id\" : \"5\" } , \"op\" : 0 ,\t\"t\":\"X\", \"s\" : 3 } "));
  EXPECT_EQ(envelope_.guild_id, 5u);
  EXPECT_EQ(envelope_.data, "{ \"guild_id\" : \"5\" }");
  EXPECT_EQ(envelope_.sequence, 3u);
  EXPECT_EQ(envelope_.type, "X");
}

TEST_F(EnvelopeTest, BareValues) {
  ASSERT_TRUE(Read(R"({"t":null,"s":null,"op":9,"d":false})"));
  EXPECT_EQ(envelope_.data, "false");
  EXPECT_FALSE(envelope_.sequence);
  ASSERT_TRUE(Read(R"({"op":9,"d": true })"));
  EXPECT_EQ(envelope_.data, "true");
  ASSERT_TRUE(Read(R"({"t":"PRESENCES_REPLACE","s":1,"op":0,"d":[{"guild_id":"1"}]})"));
  EXPECT_EQ(envelope_.data, R"([{"guild_id":"1"}])");
  EXPECT_EQ(envelope_.guild_id, 0u);
  ASSERT_TRUE(Read(R"({"op":11})"));
  EXPECT_EQ(envelope_.data, "null");
  ASSERT_TRUE(Read(R"({"op":11,"x":{"op":1},"d":"s\"x"})"));
  EXPECT_EQ(envelope_.data, R"("s\"x")");
  ASSERT_TRUE(Read(R"({"op":1,"d":12.5})"));
  EXPECT_EQ(envelope_.data, "12.5");
}

TEST_F(EnvelopeTest, EscapedTypes) {
  ASSERT_TRUE(Read(R"({"t":"\u0041B","s":1,"op":0,"d":{}})"));
  EXPECT_EQ(envelope_.type, "AB");
}

TEST_F(EnvelopeTest, ZeroAndMissingSequences) {
  ASSERT_TRUE(Read(R"({"t":"READY","s":0,"op":0,"d":{}})"));
  EXPECT_EQ(envelope_.sequence, 0u);
  ASSERT_TRUE(Read(R"({"t":"RATE_LIMITED","op":0,"d":{}})"));
  EXPECT_FALSE(envelope_.sequence);
}

// Servers in Go write the zero values of keys that do not apply.
TEST_F(EnvelopeTest, EmptyTypesOfOtherPayloads) {
  ASSERT_TRUE(Read(R"({"op":10,"d":{"heartbeat_interval":41250},"s":0,"t":""})"));
  EXPECT_EQ(envelope_.op, 10);
  EXPECT_EQ(envelope_.type, "");
}

TEST_F(EnvelopeTest, GarbageIsRefused) {
  const std::string long_type(65, 'A');
  for (const std::string& json : std::vector<std::string>{
           "",
           " ",
           "{",
           "}",
           "[]",
           "null",
           "1",
           "\"x\"",
           "{}",
           R"({"op":"0"})",
           R"({"op":1.5})",
           R"({"op":99999999999999999999})",
           R"({"op":null})",
           R"({"op":0,"d":{},"s":1})",
           R"({"t":null,"s":1,"op":0,"d":{}})",
           R"({"t":"","s":1,"op":0,"d":{}})",
           R"({"t":"message","s":1,"op":0,"d":{}})",
           R"({"t":"A B","s":1,"op":0,"d":{}})",
           R"({"t":"\n","s":1,"op":0,"d":{}})",
           R"({"t":7,"s":1,"op":0,"d":{}})",
           R"({"t":")" + long_type + R"(","s":1,"op":0,"d":{}})",
           R"({"t":"X","s":-1,"op":0,"d":{}})",
           R"({"t":"X","s":1.5,"op":0,"d":{}})",
           R"({"t":"X","s":"1","op":0,"d":{}})",
           R"({"t":"X","s":99999999999999999999,"op":0,"d":{}})",
           R"({"t":"X","s":9007199254740992,"op":0,"d":{}})",
           R"({"s":18446744073709551615,"t":"X","op":0,"d":{}})",
           R"({"t":"X","s":01,"op":0,"d":{}})",
           R"({"t":"X","s":1,"op":0,"d":{})",
           R"({"t":"X","s":1,"op":0,"d":{}}})",
           R"({"t":"X","s":1,"op":0,"d":{}} x)",
           R"({"t":"X","s":1,"op":0,"d":{"a":"b}})",
           R"({"t":"X","s":1,"op":0,"d":tru})",
           R"({"t":nul,"s":1,"op":1,"d":true})",
           R"({"op":1,"d":nul})",
           R"({"op":1,"d":})",
           std::string("{\"t\":\"X\",\"s\":1,\"op\":0,\"d\":{\"a\":\"\xff\"}}"),
           std::string("{\"t\":\"X\",\"s\":1,\"op\":0,\"d\":{\"a\":\"\n\"}}"),
           "<html>1015</html>"}) {
    EXPECT_FALSE(Read(json)) << json;
  }
}

TEST_F(EnvelopeTest, TheLargestSequence) {
  ASSERT_TRUE(Read(R"({"t":"X","s":9007199254740991,"op":0,"d":{}})"));
  EXPECT_EQ(envelope_.sequence, kMaxSequence);
}

TEST_F(EnvelopeTest, TheLongestType) {
  const std::string type(64, 'A');
  ASSERT_TRUE(Read(R"({"t":")" + type + R"(","s":1,"op":0,"d":{}})"));
  EXPECT_EQ(envelope_.type, type);
}

// A dispatch with `levels` levels of brackets in all.
std::string Deep(int64_t levels, bool arrays, const std::string& before, bool fast_form) {
  std::string d = before;
  for (int64_t i = 0; i < levels - 2; ++i) d += arrays ? "[" : R"({"a":)";
  d += "1";
  for (int64_t i = 0; i < levels - 2; ++i) d += arrays ? ']' : '}';
  d = R"({"a":)" + d + "}";
  return fast_form ? R"({"t":"X","s":1,"op":0,"d":)" + d + "}"
                   : R"({"s":1,"t":"X","op":0,"d":)" + d + "}";
}

TEST_F(EnvelopeTest, DepthIsBoundedExactly) {
  // At every place of the scan's blocks.
  for (int shift = 0; shift < 64; ++shift) {
    const std::string before = '"' + std::string(shift, '{') + R"(","b":)";
    for (const bool arrays : {false, true}) {
      for (const bool fast_form : {false, true}) {
        ASSERT_TRUE(Read(Deep(kMaxJsonDepth - 1, arrays, before, fast_form)));
        ASSERT_TRUE(Read(Deep(kMaxJsonDepth, arrays, before, fast_form)));
        ASSERT_FALSE(Read(Deep(kMaxJsonDepth + 1, arrays, before, fast_form)));
      }
    }
  }
  for (const int64_t levels : {1023, 1024, 1025, 100'000, 5'000'000}) {
    EXPECT_FALSE(Read(Deep(levels, true, "", true))) << levels;
    EXPECT_FALSE(Read(std::string(levels, '['))) << levels;
  }
}

TEST_F(EnvelopeTest, BracketsInStringsHaveNoDepth) {
  ASSERT_TRUE(Read(R"({"op":1,"d":")" + std::string(1000, '[') + R"("})"));
  ASSERT_TRUE(Read(R"({"t":"X","s":1,"op":0,"d":{"a":"\")" + std::string(1000, '{') + R"("}})"));
}

TEST_F(EnvelopeTest, WideIsNotDeep) {
  std::string d = R"({"a":0)";
  for (int i = 0; i < 10'000; ++i) d += R"(,"b":[[{}],{}])";
  ASSERT_TRUE(Read(R"({"t":"X","s":1,"op":0,"d":)" + d + "}}"));
}

TEST_F(EnvelopeTest, EveryTruncationIsRefused) {
  const std::string json =
      R"({"t":"MESSAGE_CREATE","s":42,"op":0,"d":{"a":[1,{"b":"c\\\"}"}],"guild_id":"1","u":"é"}})";
  ASSERT_TRUE(Read(json));
  for (size_t size = 0; size < json.size(); ++size) {
    EXPECT_FALSE(Read(json.substr(0, size))) << size;
  }
}

// Documents as Discord could write them, with all that could lead a scan astray.
class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  std::string Document(bool any_form) {
    std::vector<std::string> fields = {R"("t":")" + Type() + '"',
                                       R"("s":)" + std::to_string(Below(5000)), R"("op":0)",
                                       R"("d":)" + Object(0)};
    if (any_form && Below(2) == 0) fields.push_back(R"("x":)" + Value(1));
    if (any_form) std::shuffle(fields.begin(), fields.end(), random_);
    return Join('{', fields, '}', any_form);
  }

  size_t Below(size_t bound) { return random_() % bound; }

 private:
  std::string Type() {
    constexpr const char* kTypes[] = {"GUILD_CREATE", "GUILD_DELETE", "MESSAGE_CREATE", "X_1"};
    return kTypes[Below(4)];
  }

  std::string Join(char open, const std::vector<std::string>& parts, char close, bool spaces) {
    std::string text(1, open);
    for (size_t i = 0; i < parts.size(); ++i) {
      if (i > 0) text += ',';
      if (spaces && Below(20) == 0) text += " \n";
      text += parts[i];
      if (spaces && Below(20) == 0) text += ' ';
    }
    return text + close;
  }

  std::string Key() {
    constexpr const char* kKeys[] = {"guild_id",  "id",      "guild",          "i",
                                     "guild_id_", "content", "guild\\u005fid", "\\u0069d",
                                     "gu\\\"x",   "\\\\"};
    const size_t pick = Below(60);
    return pick < 8                     ? kKeys[pick]
           : pick == 8 && Below(3) == 0 ? kKeys[8]
           : pick == 9                  ? kKeys[9]
                                        : "k" + std::to_string(pick);
  }

  std::string String() {
    constexpr const char* kPieces[] = {"guild_id", "\\\"", "\\\\", "{", "}",    "[",
                                       "]",        ":",    ",",    "é", "日本", "\\u0022",
                                       "id",       "abc",  "\\n",  " ", "12345"};
    if (Below(3) == 0) return '"' + std::to_string(random_() >> Below(40)) + '"';
    std::string text = "\"";
    const size_t pieces = Below(12);
    for (size_t i = 0; i < pieces; ++i) text += kPieces[Below(std::size(kPieces))];
    return text + '"';
  }

  std::string Object(int depth) {
    std::vector<std::string> fields;
    const size_t count = Below(depth == 0 ? 30 : 5);
    for (size_t i = 0; i < count; ++i) fields.push_back('"' + Key() + "\":" + Value(depth + 1));
    return Join('{', fields, '}', false);
  }

  std::string Value(int depth) {
    switch (Below(depth > 4 ? 4 : 7)) {
      case 0:
        return "null";
      case 1:
        return std::to_string(Below(1000));
      case 2:
        return "true";
      case 3:
      case 4:
        return String();
      case 5:
        return Object(depth);
      default: {
        std::vector<std::string> items;
        const size_t count = Below(4);
        for (size_t i = 0; i < count; ++i) items.push_back(Value(depth + 1));
        return Join('[', items, ']', false);
      }
    }
  }

  std::mt19937_64 random_;
};

void ExpectSame(const Envelope& fast, const Envelope& any, std::string_view json) {
  ASSERT_EQ(fast.op, any.op) << json;
  ASSERT_EQ(fast.sequence, any.sequence) << json;
  ASSERT_EQ(fast.type, any.type) << json;
  ASSERT_EQ(fast.guild_id, any.guild_id) << json;
  ASSERT_EQ(fast.data, any.data) << json;
}

TEST(EnvelopePropertyTest, TheScanAgreesWithTheParser) {
  EnvelopeReader fast_reader;
  EnvelopeReader any_reader;
  Generator generator(1);
  int scanned = 0;
  for (int i = 0; i < 40000; ++i) {
    const std::string text = generator.Document(i % 8 == 0);
    const Padded json(text);
    Envelope fast, any;
    ASSERT_TRUE(any_reader.ReadAnyForTest(json, &any)) << text;
    if (!fast_reader.ReadFastForTest(json, &fast)) continue;
    ++scanned;
    ExpectSame(fast, any, text);
  }
  EXPECT_GT(scanned, 20000);
}

TEST(EnvelopePropertyTest, WhatIsCutOrChangedNeverTakesTheScanFurtherThanTheParser) {
  EnvelopeReader fast_reader;
  EnvelopeReader any_reader;
  Generator generator(2);
  constexpr std::string_view kBytes("{}[]\"\\:,0a \n\x00\xff", 14);
  for (int i = 0; i < 40000; ++i) {
    std::string text = generator.Document(false);
    if (generator.Below(2) == 0) {
      text.resize(generator.Below(text.size()));
    } else {
      text[generator.Below(text.size())] = kBytes[generator.Below(kBytes.size())];
    }
    const Padded json(text);
    Envelope fast, any;
    const bool fast_taken = fast_reader.ReadFastForTest(json, &fast);
    const bool any_taken = any_reader.ReadAnyForTest(json, &any);
    // Both may take what is malformed deep inside `d`; then they agree on what they say.
    if (fast_taken && any_taken) ExpectSame(fast, any, text);
  }
}

}  // namespace
}  // namespace shardd::gateway
