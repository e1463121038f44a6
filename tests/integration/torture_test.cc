// The short form of scripts/torture: nothing is lost, doubled, reordered or changed, and no
// IDENTIFY is spent, however often and whenever the server is killed.

#include "support/torture.h"

#include <gtest/gtest.h>

#include <iostream>

namespace shardd {
namespace {

TEST(TortureTest, NothingIsLostOrDoubledHoweverOftenTheServerIsKilled) {
  const test::TortureReport report = test::RunTorture({.kills = 22});
  std::cout << report.dispatches << " dispatches in " << report.seconds << " s, " << report.resumes
            << " RESUMEs\n";
  for (const auto& [moment, kills] : report.kills) {
    std::cout << kills << " kills " << test::Name(moment) << "\n";
  }
  for (const std::string& problem : report.problems) ADD_FAILURE() << problem;
  EXPECT_GE(report.dispatches, 20'000u);
  EXPECT_GE(report.streams, 5u) << "the consumer was hardly connected";
}

}  // namespace
}  // namespace shardd
