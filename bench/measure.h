#pragma once

#include <string>
#include <vector>

namespace shardd::bench {

inline constexpr int kRepetitions = 7;

double ThreadCpu();  // seconds

// What so many runs of `measure` gave.
template <typename Measure>
std::vector<double> Repeat(Measure measure) {
  std::vector<double> figures;
  for (int i = 0; i < kRepetitions; ++i) figures.push_back(measure());
  return figures;
}

// From now on Print() writes one JSON object a line, with the figures of all runs.
void PrintJson();
// Median and spread of a measurement; a line at once.
void Print(const std::string& what, std::vector<double> figures, const std::string& unit);

}  // namespace shardd::bench
