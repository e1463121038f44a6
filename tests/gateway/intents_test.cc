#include "gateway/intents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shardd::gateway {
namespace {

using ::testing::HasSubstr;

TEST(IntentsTest, NamesInAnyCaseAreJoined) {
  EXPECT_EQ(*ParseIntents("GUILDS,guild_messages, Message_Content"), 1u | 1u << 9 | 1u << 15);
}

TEST(IntentsTest, OldNamesMeanTheirSuccessors) {
  EXPECT_EQ(*ParseIntents("GUILD_BANS"), 1u << 2);
  EXPECT_EQ(*ParseIntents("GUILD_EMOJIS_AND_STICKERS"), 1u << 3);
}

TEST(IntentsTest, GroupsAndNumbers) {
  EXPECT_EQ(*ParseIntents("all-unprivileged"), kAllUnprivilegedIntents);
  EXPECT_EQ(*ParseIntents("ALL"), 53608447u);
  EXPECT_EQ(*ParseIntents("all-unprivileged,GUILD_MEMBERS"), kAllUnprivilegedIntents | 2);
  EXPECT_EQ(*ParseIntents("513"), 513u);
  EXPECT_EQ(*ParseIntents("0"), 0u);
}

TEST(IntentsTest, AnUnknownNameIsNamedWithTheOneThatMayBeMeant) {
  const auto result = ParseIntents("GUILDS,GUILD_MESAGES");
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("'GUILD_MESAGES'"));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("did you mean GUILD_MESSAGES?"));
}

TEST(IntentsTest, BadInputIsRefused) {
  for (const char* text : {"", " ", ",", "GUILDS,", "-1", "12x", "99999999999999999999", "131072",
                           "0x10", "GUILDS GUILD_MESSAGES"}) {
    EXPECT_EQ(ParseIntents(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace shardd::gateway
