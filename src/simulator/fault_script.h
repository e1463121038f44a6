#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <vector>

#include "common/clock.h"
#include "simulator/simulator.h"

namespace shardd::simulator {

// Faults by the clock, each for one connected session in turn: discord-sim's `--...-every` flags.
// Thread-compatible.
class FaultScript {
 public:
  using Fault = std::function<void(Simulator&, const Target&)>;

  // Every so often from the call of Start() on. REQUIRES: period > 0.
  void Every(std::chrono::milliseconds period, Fault fault);
  void Start(SteadyTime now);
  bool empty() const { return entries_.empty(); }
  // When the next one is due. REQUIRES: not empty.
  SteadyTime Next() const;
  // Does what is due; a fault that is late is done once, however late.
  void Run(Simulator& simulator, SteadyTime now);

 private:
  struct Entry {
    std::chrono::milliseconds period;
    Fault fault;
    SteadyTime due;
    size_t turn = 0;
  };
  std::vector<Entry> entries_;
};

}  // namespace shardd::simulator
