#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace shardd::simulator {

// One event, shared by all sessions that get it: only its number differs between them.
struct Dispatch {
  std::string type;
  uint64_t guild_id = 0;  // 0: belongs to no guild
  std::string data;       // JSON of `d`
  // Not 0: `data` is empty, and the whole payload is filled up to this size while it is compressed.
  size_t bomb_bytes = 0;
};

using DispatchPtr = std::shared_ptr<const Dispatch>;

}  // namespace shardd::simulator
