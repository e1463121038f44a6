#include "events/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace shardd::events {
namespace {

// RFC 3720, B.4.
TEST(Crc32cTest, MatchesThePublishedVectors) {
  EXPECT_EQ(Crc32c(std::string(32, '\0').data(), 32), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(std::string(32, '\xff').data(), 32), 0x62A8AB43u);
  EXPECT_EQ(Crc32c("123456789", 9), 0xE3069283u);
}

TEST(Crc32cTest, ContinuesFromASeed) {
  EXPECT_EQ(Crc32c("56789", 5, Crc32c("1234", 4)), Crc32c("123456789", 9));
}

}  // namespace
}  // namespace shardd::events
