#include "events/cursor.h"

#include <gtest/gtest.h>

#include <limits>

#include "common/status.h"

namespace shardd::events {
namespace {

TEST(CursorTest, ComesBackAsItWas) {
  for (const uint64_t number : {uint64_t{0}, uint64_t{1}, std::numeric_limits<uint64_t>::max()}) {
    const Cursor cursor = {.log = {.id = number}, .offset = number / 3};
    const std::string text = FormatCursor(cursor);
    EXPECT_EQ(text.size(), kCursorTextBytes);
    const auto parsed = ParseCursor(text);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, cursor);
  }
}

TEST(CursorTest, IsSafeInAUrlAndAShell) {
  const std::string text = FormatCursor({.log = {.id = ~uint64_t{0}}, .offset = 1});
  EXPECT_EQ(
      text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
      std::string::npos);
}

TEST(CursorTest, RefusesWhatItDidNotWrite) {
  const std::string good = FormatCursor({.log = {.id = 1}, .offset = 5});
  std::string other_version = good;
  other_version[0] = 'Z';
  for (size_t i = 0; i < good.size(); ++i) {
    std::string mistyped = good;
    mistyped[i] = mistyped[i] == 'a' ? 'b' : 'a';
    EXPECT_FALSE(ParseCursor(mistyped).ok()) << mistyped;
  }
  for (const std::string& bad :
       {std::string(), std::string("5"), good + "A", good.substr(1), std::string(28, '!'),
        std::string(28, '\0'), other_version, good.substr(0, 26) + "=="}) {
    const auto parsed = ParseCursor(bad);
    ASSERT_FALSE(parsed.ok()) << bad;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace shardd::events
