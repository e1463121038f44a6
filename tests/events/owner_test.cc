#include "events/owner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "common/status.h"
#include "events/crc32c.h"
#include "support/temp_dir.h"

namespace shardd::events {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kToken[] = "MTk4NjIyNDgz.Cl2FMQ.s3cret";
constexpr char kNewToken[] = "MTk4NjIyNDgz.Zyxw12.an0ther";
constexpr char kOtherBot[] = "MTk4NjIyNDg0.Cl2FMQ.s3cret";

class OwnerTest : public ::testing::Test {
 protected:
  std::string Contents() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Write(const std::string& contents) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << contents;
  }

  const test::TempDir directory_;
  const std::string path_ = directory_ / "bot";
};

TEST_F(OwnerTest, ADirectoryIsTheFirstBotsUnderAnyOfItsTokens) {
  ASSERT_TRUE(ClaimForBot(path_, kToken).ok());
  EXPECT_TRUE(ClaimForBot(path_, kToken).ok());
  EXPECT_TRUE(ClaimForBot(path_, kNewToken).ok());
}

TEST_F(OwnerTest, AnotherBotIsRefusedAndChangesNothing) {
  ASSERT_TRUE(ClaimForBot(path_, kToken).ok());
  const std::string before = Contents();
  for (const char* token : {kOtherBot, "a-token-of-another-kind", "MTk4NjIyNDgz"}) {
    const absl::Status status = ClaimForBot(path_, token);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr("--data-dir"));
    EXPECT_THAT(std::string(Message(status)), Not(HasSubstr(token)));
  }
  EXPECT_EQ(Contents(), before);
  EXPECT_TRUE(ClaimForBot(path_, kToken).ok());
}

TEST_F(OwnerTest, ATokenOfAnUnknownKindCountsAsAWhole) {
  ASSERT_TRUE(ClaimForBot(path_, "odd.token.one").ok());
  EXPECT_TRUE(ClaimForBot(path_, "odd.token.one").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(ClaimForBot(path_, "odd.token.two")));
}

TEST_F(OwnerTest, TheFileHoldsNoPartOfATokenAndIsForThisUserAlone) {
  ASSERT_TRUE(ClaimForBot(path_, kToken).ok());
  for (const char* part : {"MTk4", "198622483", "s3cret", "Cl2FMQ"}) {
    EXPECT_THAT(Contents(), Not(HasSubstr(part)));
  }
  struct stat file {};
  ASSERT_EQ(stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(OwnerTest, ADamagedFileIsNobodysUntilAPersonSaysSo) {
  ASSERT_TRUE(ClaimForBot(path_, kToken).ok());
  const std::string whole = Contents();
  std::vector<std::string> damaged = {"", whole.substr(0, 12), whole + "x"};
  for (size_t at = 0; at < whole.size(); ++at) {
    damaged.push_back(whole);
    damaged.back()[at] = static_cast<char>(damaged.back()[at] ^ 0x10);
  }
  for (const std::string& contents : damaged) {
    Write(contents);
    const absl::Status status = ClaimForBot(path_, kToken);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr("damaged: delete that file"));
    EXPECT_EQ(Contents(), contents);
  }
  std::filesystem::remove(path_);
  EXPECT_TRUE(ClaimForBot(path_, kToken).ok());
}

TEST_F(OwnerTest, AFormatOfAnotherVersionIsLeftAsItIs) {
  ASSERT_TRUE(ClaimForBot(path_, kToken).ok());
  std::string contents = Contents();
  contents[8] = 2;
  const uint32_t crc = Crc32c(contents.data(), contents.size() - sizeof crc);
  contents.replace(contents.size() - sizeof crc, sizeof crc, reinterpret_cast<const char*>(&crc),
                   sizeof crc);
  Write(contents);
  const absl::Status status = ClaimForBot(path_, kToken);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(Message(status)), HasSubstr("format 2"));
  EXPECT_EQ(Contents(), contents);
}

TEST_F(OwnerTest, ADirectoryThatCannotBeWrittenToIsAnError) {
  EXPECT_TRUE(absl::IsUnavailable(ClaimForBot(directory_ / "missing/bot", kToken)));
}

}  // namespace
}  // namespace shardd::events
