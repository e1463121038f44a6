#include "measure.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace shardd::bench {
namespace {

bool print_json = false;

double Seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace

double ThreadCpu() { return Seconds(CLOCK_THREAD_CPUTIME_ID); }

void PrintJson() { print_json = true; }

void Print(const std::string& what, std::vector<double> figures, const std::string& unit) {
  if (print_json) {
    std::printf(R"({"what":"%s","unit":"%s","figures":[)", what.c_str(), unit.c_str());
    for (size_t i = 0; i < figures.size(); ++i)
      std::printf("%s%.4g", i == 0 ? "" : ",", figures[i]);
    std::printf("]}\n");
  } else {
    std::sort(figures.begin(), figures.end());
    std::printf("%-60s %8.3f %s (%.3f to %.3f)\n", what.c_str(), figures[figures.size() / 2],
                unit.c_str(), figures.front(), figures.back());
  }
  std::fflush(stdout);
}

}  // namespace shardd::bench
