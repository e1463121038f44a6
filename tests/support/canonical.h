#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "simulator/json_scan.h"
#include "simulator/simulator.h"

namespace shardd::test {

// Of a dispatch, the same in whatever order its keys stand, and whenever Discord's process that
// sends it has seen it: as far as the server is to tell events apart.
inline uint64_t CanonicalDigest(std::string_view type, std::string_view data) {
  constexpr std::string_view kProcessedAt = "\"processed_at_timestamp\":";
  std::string text = simulator::PermuteKeys(data, 0);
  if (const size_t at = text.find(kProcessedAt);
      type == "PRESENCE_UPDATE" && at != std::string::npos) {
    const size_t begin = at + kProcessedAt.size();
    text.erase(begin, std::min(text.find_first_of(",}", begin), text.size()) - begin);
  }
  return simulator::DigestOf(type, text);
}

}  // namespace shardd::test
