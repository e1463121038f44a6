#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace shardd::simulator {

// One event, shared by all sessions that get it: only its number differs between them.
struct Dispatch {
  std::string type;
  uint64_t guild_id = 0;  // 0: belongs to no guild
  std::string data;       // JSON of `d`
};

using DispatchPtr = std::shared_ptr<const Dispatch>;

}  // namespace shardd::simulator
