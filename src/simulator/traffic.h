#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "simulator/dispatch.h"
#include "simulator/guilds.h"
#include "simulator/json_text.h"
#include "simulator/random.h"

namespace shardd::simulator {

// The seeded sequence of events: the n-th is the same in every run with this seed and these guilds.
// Its clock is its own, a millisecond an event, so that nothing depends on when Next() is called.
// Thread-compatible.
class Traffic {
 public:
  // Keeps a reference. REQUIRES: there are guilds.
  Traffic(const Guilds& guilds, uint64_t seed);

  DispatchPtr Next();
  // This share of the calls gives one of the newest events that may come again once more. The
  // sequence itself stays as it is.
  void SetEqualPayloads(double share) { equal_payloads_ = share; }

 private:
  // A message that later events edit, delete or react to.
  struct Message {
    size_t guild = 0;
    uint64_t channel = 0;
    uint64_t id = 0;
    User author;
  };

  using Writer = void (Traffic::*)(Dispatch&);
  struct Share {
    const char* type;
    uint32_t percent;
    Writer write;
    bool may_repeat = false;  // it has no id of its own
  };
  static const std::array<Share, 9> kMix;

  void MessageCreate(Dispatch& event);
  void MessageUpdate(Dispatch& event);
  void MessageDelete(Dispatch& event);
  void ReactionAdd(Dispatch& event);
  void TypingStart(Dispatch& event);
  void MemberUpdate(Dispatch& event);
  void VoiceStateUpdate(Dispatch& event);
  void PresenceUpdate(Dispatch& event);
  void InteractionCreate(Dispatch& event);

  // The inside of a message object. `nested`: one that stands in another event, which has neither
  // member nor reply.
  void AppendMessage(const Message& message, bool edited, bool nested, std::string& out);
  void AppendReference(const Message& message, std::string& out);
  void AppendEmbeds(std::string& out);
  void AppendContent(std::string& out);
  void AppendComponents(std::string& out);

  // Picks the guild of an event that does not refer to a message.
  size_t PickGuild(Dispatch& event);
  const Message& PickMessage(Dispatch& event);
  Message NewMessage(size_t guild);
  User PickMember(size_t guild) { return guilds_.Member(guild, random_.Next() >> 8); }
  uint64_t NewId() { return Snowflake(now_, random_.Next()); }

  const Guilds& guilds_;
  Random random_;
  uint64_t now_;
  std::array<Message, 256> recent_{};
  size_t messages_ = 0;  // ever made; the newest of them are in recent_

  double equal_payloads_ = 0;
  Random repeats_;
  std::array<DispatchPtr, 32> repeatable_{};
  size_t repeatables_ = 0;  // ever made
};

}  // namespace shardd::simulator
