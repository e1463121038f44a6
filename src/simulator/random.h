#pragma once

#include <cstdint>

namespace shardd::simulator {

// SplitMix64: the same numbers from a seed with every standard library, which <random>'s
// distributions do not promise. Thread-compatible.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  // Even over [0, n). REQUIRES: n > 0.
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(((Next() >> 32) * n) >> 32); }

  // Even over [low, high].
  uint32_t Between(uint32_t low, uint32_t high) { return low + Below(high - low + 1); }

  bool Percent(uint32_t percent) { return Below(100) < percent; }

  // Even over [0, 1).
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// A number that depends on all of its inputs, for things that are recomputed rather than
// remembered.
inline uint64_t Mix(uint64_t a, uint64_t b, uint64_t c = 0) {
  Random random(a ^ (b * 0xD6E8FEB86659FD93) ^ (c * 0xCA5A826395121157));
  random.Next();
  return random.Next();
}

}  // namespace shardd::simulator
