#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "shardd/v1/shardd.pb.h"
#include "simulator/simulator.h"
#include "support/event_stream.h"

namespace shardd::test {

inline bool IsOwn(const v1::Event& event) { return event.type().starts_with("SHARDD_"); }

// Events of Discord's, by (shard, session number), in the order in which they came.
using Sessions = std::map<std::pair<uint32_t, uint32_t>, std::vector<v1::Event>>;
Sessions BySession(const EventStream& stream);

// As the READY that must come first says; empty: another event did.
std::string SessionIdOf(const std::vector<v1::Event>& events);

// Waits until the subscriber has the newest event of every one of these shards' sessions.
bool CatchUp(const simulator::Simulator& discord, const EventStream& stream, uint32_t shard_count);

// Everything that each session was sent has come, byte for byte, without hole or double; of a
// session that has ended, up to where it ended. REQUIRES: a stream from the beginning, CatchUp().
void ExpectExact(const simulator::Simulator& discord, const EventStream& stream);

}  // namespace shardd::test
