#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <string_view>

// For tests that hold a document by the code. Not std::regex: GCC 12 warns of its insides under
// sanitizers.
namespace shardd::test {

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// What stands between each `begin` and the next `end`.
inline std::set<std::string> FindBetween(std::string_view text, std::string_view begin,
                                         std::string_view end) {
  std::set<std::string> found;
  for (size_t at = text.find(begin); at != std::string_view::npos; at = text.find(begin, at)) {
    at += begin.size();
    found.emplace(text.substr(at, text.find(end, at) - at));
  }
  return found;
}

}  // namespace shardd::test
