#include "common/json_escape.h"

#include <gtest/gtest.h>

namespace shardd {
namespace {

TEST(JsonEscapeTest, EscapesWhatMayNotStandInAString) {
  EXPECT_EQ(JsonEscape("a\"b\\c\n\x01"), "a\\\"b\\\\c\\u000a\\u0001");
}

TEST(JsonEscapeTest, LeavesUtf8Alone) { EXPECT_EQ(JsonEscape("grüße"), "grüße"); }

}  // namespace
}  // namespace shardd
