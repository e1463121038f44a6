#include "simulator/lag.h"

#include <algorithm>

#include "simulator/random.h"

namespace shardd::simulator {
namespace {

// From one turning point of the walk to the next.
constexpr std::chrono::milliseconds kTurn{400};

}  // namespace

std::chrono::nanoseconds LagAt(const Lag& range, uint64_t seed, SteadyTime now) {
  if (range.max.count() <= 0) return {};
  const auto since = now.time_since_epoch();
  const auto turn = static_cast<uint64_t>(since / kTurn);
  const std::chrono::duration<double> into = since % kTurn;
  const double from = Random(Mix(seed, turn)).Unit();
  const double to = Random(Mix(seed, turn + 1)).Unit();
  const double at = from + (to - from) * (into / std::chrono::duration<double>(kTurn));
  const std::chrono::nanoseconds least = range.min;
  const std::chrono::nanoseconds most = std::max(range.min, range.max);
  return least + std::chrono::nanoseconds(
                     static_cast<int64_t>(at * static_cast<double>((most - least).count())));
}

}  // namespace shardd::simulator
