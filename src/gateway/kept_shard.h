#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/shard_id.h"

namespace shardd::gateway {

// What an earlier process has left of a session. It comes from a disk, so it is checked as what
// comes from Discord is.
struct KeptSession {
  std::string id;
  std::string resume_url{};           // empty: none that can be used
  uint64_t last_sequence = 0;         // 0: none
  int64_t last_event_unix_nanos = 0;  // 0: none
  std::vector<uint64_t> guilds{};     // as far as they are known
};

// What an earlier process has left of a shard.
struct KeptShard {
  ShardId shard;
  uint32_t last_session = 0;  // number of the newest session; 0: none yet
  std::optional<KeptSession> session{};
  bool is_stopped = false;  // somebody has stopped it
  // Why the session is not to be resumed, in words: it is told as lost. Empty: it may be.
  std::string give_up_because{};
};

}  // namespace shardd::gateway
