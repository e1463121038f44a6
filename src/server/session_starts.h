#pragma once

#include <memory>

#include "events/ledger.h"
#include "gateway/session_start_ledger.h"

namespace shardd::server {

// The file of session starts in --data-dir, for the identify gate, which calls under its lock.
class SessionStarts final : public gateway::SessionStartLedger {
 public:
  explicit SessionStarts(std::unique_ptr<events::Ledger> ledger) : ledger_(std::move(ledger)) {}

  Contents Load(SteadyTime now) override;
  absl::Status WriteStart(uint32_t shard_id, SteadyTime now) override;
  absl::Status WriteLimits(const gateway::SessionLimits& limits, uint64_t starts_since,
                           SteadyTime now) override;

 private:
  const std::unique_ptr<events::Ledger> ledger_;
};

}  // namespace shardd::server
