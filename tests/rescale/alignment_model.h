#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "rescale/alignment.h"

namespace shardd::rescale::test {

// A Discord that sends the same events over two generations of shards, each in its own time, while
// one takes over from the other; and what comes of it.
struct ModelOptions {
  uint64_t seed = 1;
  uint32_t old_count = 1;
  uint32_t new_count = 1;
  uint32_t guilds = 3;
  uint32_t events = 120;
  std::chrono::milliseconds span{20'000};        // over which they happen
  std::chrono::milliseconds largest_lag{2'000};  // of either side: random, from event to event
  double equal_share = 0.03;   // of events without a key of their own, equal to a recent one
  double plain_share = 0.4;    // of events without a key of their own
  bool all_equal = false;      // all of these have the same content
  double one_sided_share = 0;  // that only one side gets
  double swap_share = 0;       // neighbours of a guild that one side gets the other way round
  double interaction_share = 0.04;
  uint32_t drops = 0;  // connections of either side that are lost and resumed
  bool loses_old_session = false;
  bool loses_new_session = false;
  uint32_t joins = 0;    // guilds that come in the overlap
  uint32_t outages = 0;  // guilds that go out of order, before or in the overlap
  bool cancels = false;
  AlignmentOptions alignment{.max_unmatched_share = 1};
};

struct ModelResult {
  bool switched = false;
  uint64_t lost = 0;
  uint64_t doubled = 0;
  uint64_t reordered = 0;
  uint64_t late = 0;  // events that one side alone had brought, and that came behind later ones
  Alignment::Counts counts;
  std::string told;  // what went wrong first
};

ModelResult RunModel(const ModelOptions& options);

}  // namespace shardd::rescale::test
