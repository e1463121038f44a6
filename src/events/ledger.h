#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"

namespace shardd::events {

// The session starts of one bot in a file of fixed size, so that no crash forgets one: a ring of
// starts, and the last things that Discord said of its limit. Each record is written by one pwrite
// into space that was reserved when the file was made: it survives the process the moment that the
// call returns (though not the machine), and a full disk shows at the start.
//
// A start that cannot be read counts as one, and is repaired; where more is damaged, nothing is
// kept but that. Times come back on this process's steady clock: exact for records of the same
// boot, whatever was done to the wall clock; for others by the wall clock, and never in the future.
//
// Thread-compatible. REQUIRES: one process at a time (DataDir).
class Ledger {
 public:
  struct Options {
    std::string path;
    std::string token;             // the bot's; the file holds no part of it (HashOwner)
    std::string api_url{};         // another API is another Discord, which counts for itself
    const Clock* clock = nullptr;  // outlives the ledger
    std::string boot_id{};         // empty: the kernel's
  };
  // Makes the file where there is none. A file of another API is replaced; one of another bot,
  // which ClaimForBot does not let come here, as well.
  //   INVALID_ARGUMENT    a format that this version does not know; the file is as it was
  //   RESOURCE_EXHAUSTED  no space
  //   UNAVAILABLE         the file cannot be made, opened or read
  static absl::StatusOr<std::unique_ptr<Ledger>> Open(Options options);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  struct Limits {
    uint32_t total = 0;
    uint32_t remaining = 0;
    uint32_t max_concurrency = 1;
    SteadyTime asked_at{};
    SteadyTime renews_at{};
    bool day_had_begun = true;
    uint32_t believed = 0;
    SteadyTime rise_from{};
  };
  struct Contents {
    bool complete = true;  // false: the file was damaged beyond single starts, and is empty
    std::optional<Limits> limits;
    // Not older than `oldest` or not before limits.asked_at; by time.
    std::vector<SteadyTime> starts;
  };
  Contents Load(SteadyTime now, std::chrono::nanoseconds oldest) const;

  absl::Status WriteStart(uint32_t shard_id, SteadyTime now);
  // `starts_since`: as many of the newest starts count against `limits`. What was asked for comes
  // back as if it had been asked for now.
  absl::Status WriteLimits(const Limits& limits, uint64_t starts_since, SteadyTime now);

  // Layout, for tests. More starts than any bot has in a day.
  static constexpr size_t kCapacity = 65536;
  static constexpr size_t kRecordBytes = 64;
  static constexpr size_t kLimitsSlots = 8;
  static constexpr size_t kLimitsOffset = 512;
  static constexpr size_t kStartsOffset = 4096;
  static constexpr size_t kFileBytes = kStartsOffset + kCapacity * kRecordBytes;

 private:
  using Record = std::array<unsigned char, kRecordBytes>;
  struct Start {
    uint64_t number = 0;  // 0: none; from 1 on
    int64_t steady_nanos = 0;
    int64_t wall_nanos = 0;
    uint32_t shard_id = 0;
    uint32_t boot = 0;
  };
  struct Reading {
    uint64_t number = 0;
    uint64_t first_start = 0;  // that counts against it
    uint32_t total = 0;
    uint32_t remaining = 0;
    uint32_t believed = 0;
    uint32_t max_concurrency = 1;
    uint32_t boot = 0;
    int64_t steady_nanos = 0;  // when it was written
    int64_t wall_nanos = 0;
    // From then.
    int32_t renews_in_ms = 0;  // kNotBegun: the day had not begun
    int32_t rise_in_ms = 0;
  };

  Ledger(Options options, int fd);
  static absl::Status Make(const Options& options);
  absl::Status Read();
  absl::Status StartAfresh();
  void Repair(SteadyTime now);
  absl::Status WriteRecord(const Record& record, size_t offset) const;
  SteadyTime TimeOf(uint32_t boot, int64_t steady_nanos, int64_t wall_nanos, SteadyTime now) const;

  const Options options_;
  const int fd_;
  const uint32_t boot_;
  bool complete_ = true;
  uint64_t next_start_ = 1;
  uint64_t next_reading_ = 1;
  std::vector<Start> starts_;  // by slot; those of the file when it was opened
  std::optional<Reading> reading_;
};

}  // namespace shardd::events
