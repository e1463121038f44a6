#pragma once

#include <chrono>
#include <cstdint>

#include "common/clock.h"
#include "simulator/simulator.h"

namespace shardd::simulator {

// How late a session is at a moment: a walk within the range that changes slowly, as the queue of a
// gateway node does, and is another one for each session.
std::chrono::nanoseconds LagAt(const Lag& range, uint64_t seed, SteadyTime now);

}  // namespace shardd::simulator
