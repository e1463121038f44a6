#include "events/data_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/status.h"

namespace shardd::events {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class DataDirTest : public ::testing::Test {
 protected:
  DataDirTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "shardd-data-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
  }
  ~DataDirTest() override { std::filesystem::remove_all(root_); }

  std::string root_;
};

TEST_F(DataDirTest, IsMadeForThisUserAlone) {
  const std::string path = root_ + "/some/where";
  const auto made = DataDir::Open(path);
  ASSERT_TRUE(made.ok()) << made.status();
  struct stat directory {};
  ASSERT_EQ(stat(path.c_str(), &directory), 0);
  EXPECT_EQ(directory.st_mode & 0777, 0700u);
}

TEST_F(DataDirTest, BelongsToOneAtATime) {
  auto first = DataDir::Open(root_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = DataDir::Open(root_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(Message(second.status())),
              AllOf(HasSubstr("process " + std::to_string(getpid())), HasSubstr("--data-dir")));
  first->reset();
  EXPECT_TRUE(DataDir::Open(root_).ok());
}

TEST_F(DataDirTest, IsFreeAgainWhenItsProcessDied) {
  const pid_t child = fork();
  if (child == 0) {
    const auto held = DataDir::Open(root_);
    kill(getpid(), held.ok() ? SIGKILL : SIGTERM);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_TRUE(DataDir::Open(root_).ok());
}

TEST_F(DataDirTest, SaysWhyItCannotBeUsed) {
  std::ofstream(root_ + "/file") << "x";
  for (const std::string& path : {root_ + "/file", root_ + "/file/below"}) {
    const auto made = DataDir::Open(path);
    EXPECT_EQ(made.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(Message(made.status())),
                AllOf(HasSubstr(path), HasSubstr("--data-dir")));
  }
}

TEST_F(DataDirTest, ATemporaryOneGoesWithItsOwner) {
  std::string path;
  {
    const auto made = DataDir::MakeTemporary();
    ASSERT_TRUE(made.ok()) << made.status();
    path = (*made)->path();
    std::ofstream(path + "/file") << "x";
    EXPECT_TRUE(std::filesystem::is_directory(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace shardd::events
