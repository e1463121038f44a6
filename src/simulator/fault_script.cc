#include "simulator/fault_script.h"

#include <algorithm>
#include <string>
#include <utility>

namespace shardd::simulator {

void FaultScript::Every(std::chrono::milliseconds period, Fault fault) {
  entries_.push_back({period, std::move(fault), SteadyTime(), 0});
}

void FaultScript::Start(SteadyTime now) {
  for (Entry& entry : entries_) entry.due = now + entry.period;
}

SteadyTime FaultScript::Next() const {
  return std::min_element(entries_.begin(), entries_.end(),
                          [](const Entry& a, const Entry& b) { return a.due < b.due; })
      ->due;
}

void FaultScript::Run(Simulator& simulator, SteadyTime now) {
  for (Entry& entry : entries_) {
    if (entry.due > now) continue;
    entry.due = now + entry.period;
    std::vector<std::string> connected;
    for (const SessionInfo& session : simulator.Sessions()) {
      if (session.connected) connected.push_back(session.session_id);
    }
    if (connected.empty()) continue;
    entry.fault(simulator, connected[entry.turn++ % connected.size()]);
  }
}

}  // namespace shardd::simulator
