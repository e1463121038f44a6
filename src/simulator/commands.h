#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "common/clock.h"
#include "simulator/dispatch.h"
#include "simulator/protocol.h"
#include "simulator/session.h"

namespace shardd::simulator {

class Gateway;

// Does what bots ask for over their sessions: op 3, 4, 8, 31 and 43. A request that names no guild
// of the session, or does not make sense, is counted and gets no answer.
// https://discord.com/developers/docs/events/gateway-events#send-events. Loop-bound.
class Commands {
 public:
  explicit Commands(Gateway& gateway) : gateway_(gateway) {}

  // `raw`: the same `data` as it was sent.
  void Perform(Session& session, Op op, const boost::json::object& data, std::string_view raw);
  // The next chunk of a member list that the session has asked for.
  // REQUIRES: session.member_lists is not empty.
  DispatchPtr NextChunk(Session& session);

 private:
  bool UpdatePresence(Session& session, std::string_view raw);
  bool UpdateVoiceState(Session& session, const boost::json::object& data);
  bool RequestMembers(Session& session, const boost::json::object& data);
  bool RequestSounds(Session& session, const boost::json::object& data);
  bool RequestChannelInfo(Session& session, const boost::json::object& data);
  // Whether a whole member list may be asked for now; says RATE_LIMITED if not.
  bool AdmitAllMembers(Session& session, uint64_t guild_id, std::string_view nonce);

  Gateway& gateway_;
  // By guild, over all sessions: when all members were last asked for.
  std::unordered_map<uint64_t, SteadyTime> all_members_asked_;
};

}  // namespace shardd::simulator
