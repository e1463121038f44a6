#include "gateway/close_code.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shardd::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Row {
  std::optional<uint16_t> code;
  NextStep next;
};

class CloseCodeTest : public ::testing::TestWithParam<Row> {};

TEST_P(CloseCodeTest, DecidesWhatFollows) {
  EXPECT_EQ(AfterClose(GetParam().code).next, GetParam().next);
  EXPECT_EQ(AfterClose(GetParam().code).pause,
            GetParam().code == 4008 ? Pause::kSendWindow : Pause::kNone);
  EXPECT_FALSE(AfterClose(GetParam().code).died);
  if (GetParam().code) {
    EXPECT_THAT(DescribeClose(GetParam().code),
                StartsWith(std::to_string(*GetParam().code) + ": "));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, CloseCodeTest,
    ::testing::Values(
        Row{std::nullopt, NextStep::kResume}, Row{1000, NextStep::kResume},
        Row{1001, NextStep::kResume}, Row{1002, NextStep::kResume}, Row{1005, NextStep::kResume},
        Row{1006, NextStep::kResume}, Row{1011, NextStep::kResume}, Row{1012, NextStep::kResume},
        Row{1013, NextStep::kResume}, Row{1014, NextStep::kResume}, Row{1015, NextStep::kResume},
        Row{3000, NextStep::kResume}, Row{4000, NextStep::kResume}, Row{4001, NextStep::kResume},
        Row{4002, NextStep::kResume}, Row{4003, NextStep::kIdentify}, Row{4004, NextStep::kStop},
        Row{4005, NextStep::kResume}, Row{4006, NextStep::kIdentify},
        Row{4007, NextStep::kIdentify}, Row{4008, NextStep::kResume}, Row{4009, NextStep::kResume},
        Row{4010, NextStep::kStop}, Row{4011, NextStep::kStop}, Row{4012, NextStep::kStop},
        Row{4013, NextStep::kStop}, Row{4014, NextStep::kStop}, Row{4015, NextStep::kResume},
        Row{4999, NextStep::kResume}));

TEST(EndCauseTest, DecidesWhatFollows) {
  EXPECT_EQ(AfterEnd(EndCause::kConnectionLost).next, NextStep::kResume);
  EXPECT_EQ(AfterEnd(EndCause::kReconnectRequested).next, NextStep::kResume);
  EXPECT_EQ(AfterEnd(EndCause::kInvalidSessionResumable).next, NextStep::kResume);
  EXPECT_EQ(AfterEnd(EndCause::kInvalidSessionResumable).pause, Pause::kInvalidSession);
  EXPECT_EQ(AfterEnd(EndCause::kInvalidSession).next, NextStep::kIdentify);
  EXPECT_EQ(AfterEnd(EndCause::kInvalidSession).pause, Pause::kInvalidSession);
  EXPECT_EQ(AfterEnd(EndCause::kZombie).next, NextStep::kResume);
  EXPECT_EQ(AfterEnd(EndCause::kGarbage).next, NextStep::kResume);
  for (const EndCause cause : {EndCause::kOversize, EndCause::kSequenceGap, EndCause::kSilence}) {
    EXPECT_EQ(AfterEnd(cause).next, NextStep::kResume);
    EXPECT_FALSE(AfterEnd(cause).died);
  }
  for (const EndCause cause : {EndCause::kException, EndCause::kStalled}) {
    EXPECT_EQ(AfterEnd(cause).next, NextStep::kResume);
    EXPECT_TRUE(AfterEnd(cause).died);
  }
  EXPECT_EQ(AfterEnd(EndCause::kHelloTimeout).next, NextStep::kResume);
  EXPECT_EQ(AfterEnd(EndCause::kIdentifyTimeout).next, NextStep::kIdentify);
  EXPECT_EQ(AfterEnd(EndCause::kResumeTimeout).next, NextStep::kResume);
}

TEST(CloseCodeTest, ReasonsSayWhatToDo) {
  EXPECT_THAT(DescribeClose(4014), StartsWith("4014: privileged intents that are not switched on "
                                              "for this application: "));
  // What a new count of shards would mend says so.
  for (const uint16_t code : {4010, 4011}) {
    EXPECT_THAT(DescribeClose(code), HasSubstr("call Rescale with a")) << code;
    EXPECT_THAT(DescribeClose(code), HasSubstr("recommended_shards in Stats")) << code;
  }
}

}  // namespace
}  // namespace shardd::gateway
