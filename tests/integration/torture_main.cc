// torture KILLS SEED: the long form of torture_test. Progress goes to standard error, what was
// found to standard output as one JSON object. Ends with 1 if anything is wrong.

#include <boost/json.hpp>
#include <cstdlib>
#include <iostream>

#include "support/torture.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "torture KILLS SEED\n";
    return 2;
  }
  shardd::test::TortureOptions options;
  options.kills = static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10));
  options.seed = std::strtoull(argv[2], nullptr, 10);
  options.progress = [&](uint32_t kills) {
    if (kills % 10 == 0 || kills == options.kills) {
      std::cerr << kills << " of " << options.kills << " kills\n";
    }
  };
  const shardd::test::TortureReport report = shardd::test::RunTorture(options);
  boost::json::object kills;
  for (const auto& [moment, count] : report.kills) kills[shardd::test::Name(moment)] = count;
  boost::json::array recoveries(report.recoveries.begin(), report.recoveries.end());
  boost::json::array problems(report.problems.begin(), report.problems.end());
  std::cout << boost::json::serialize(boost::json::object{
                   {"kills", kills},
                   {"seconds", report.seconds},
                   {"shards", options.shards},
                   {"guilds", options.guilds},
                   {"rate", options.rate},
                   {"retain_bytes", options.retain_bytes},
                   {"dispatches", report.dispatches},
                   {"events", report.events},
                   {"streams", report.streams},
                   {"lost", report.lost},
                   {"doubled", report.doubled},
                   {"reordered", report.reordered},
                   {"altered", report.altered},
                   {"gaps", report.gaps},
                   {"offset_breaks", report.offset_breaks},
                   {"sessions_lost", report.sessions_lost},
                   {"extra_identifies", report.extra_identifies},
                   {"resumes_refused", report.resumes_refused},
                   {"behind_heartbeats", report.behind_heartbeats},
                   {"log_differs", report.log_differs},
                   {"identifies", report.identifies},
                   {"identifies_without_ready", report.identifies_without_ready},
                   {"resumes", report.resumes},
                   {"recoveries_ms", recoveries},
                   {"problems", problems},
               })
            << "\n";
  return report.ok() ? 0 : 1;
}
