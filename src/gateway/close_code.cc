#include "gateway/close_code.h"

namespace shardd::gateway {
namespace {

struct CloseRow {
  uint16_t code;
  NextStep next;
  std::string_view reason;
};

constexpr CloseRow kCloseRows[] = {
    // A server's 1000 often means missed heartbeats, and its session is often gone
    // (discord-api-docs#2922): asking is free.
    {1000, NextStep::kResume, "closed normally by the server"},
    {1001, NextStep::kResume, "the server is going away"},
    {4000, NextStep::kResume, "unknown error on Discord's side"},
    {4001, NextStep::kResume, "Discord did not know an opcode that was sent"},
    {4002, NextStep::kResume, "Discord could not decode what was sent"},
    // Sent to every live session after the token was reset or a privileged intent taken away
    // (discord-api-docs#6970).
    {4003, NextStep::kIdentify, "not authenticated: the session was revoked"},
    {4004, NextStep::kStop, "the token is not valid: set a new one"},
    {4005, NextStep::kResume, "authenticated twice on one connection"},
    // Replaced by op 9 in 2019 (discord-api-docs#1209).
    {4006, NextStep::kIdentify, "the session is no longer valid"},
    {4007, NextStep::kIdentify, "the sequence in RESUME could not be used"},
    {4008, NextStep::kResume, "sent too fast: Discord's limit is 120 payloads a minute"},
    // Documented as "start a new session"; RESUME is accepted sometimes, and answered by op 9
    // otherwise.
    {4009, NextStep::kResume, "the session timed out"},
    {4010, NextStep::kStop,
     "invalid shard: the id is not below the count, or the count is not the multiple that Discord "
     "assigned to this bot"},
    {4011, NextStep::kStop,
     "sharding required: one shard would have more than 2500 guilds; use a larger shard count"},
    {4012, NextStep::kStop,
     "Discord no longer accepts this gateway version: shardd must be updated"},
    {4013, NextStep::kStop, "invalid intents: a bit that Discord does not define is set"},
    {4014, NextStep::kStop,
     "privileged intents that are not switched on for this application: switch them on in the "
     "Developer Portal, or "
     "leave GUILD_MEMBERS, GUILD_PRESENCES and MESSAGE_CONTENT out of the intents"},
};

constexpr CloseRow kNoCode = {0, NextStep::kResume, "closed without a code"};
constexpr CloseRow kOtherCode = {0, NextStep::kResume,
                                 "closed with a code that Discord does not document"};

const CloseRow& FindRow(std::optional<uint16_t> code) {
  if (!code) return kNoCode;
  for (const CloseRow& row : kCloseRows) {
    if (row.code == *code) return row;
  }
  return kOtherCode;
}

}  // namespace

Aftermath AfterClose(std::optional<uint16_t> code) {
  const CloseRow& row = FindRow(code);
  return {row.next, false, row.reason};
}

Aftermath AfterEnd(EndCause cause) {
  switch (cause) {
    case EndCause::kConnectionLost:
      return {NextStep::kResume, false, "connection lost"};
    case EndCause::kReconnectRequested:
      return {NextStep::kResume, false, "op 7: Discord asked for a new connection"};
    case EndCause::kInvalidSessionResumable:
      return {NextStep::kResume, true, "op 9: session invalid, but may be resumed"};
    case EndCause::kInvalidSession:
      return {NextStep::kIdentify, true, "op 9: session invalid"};
    case EndCause::kZombie:
      return {NextStep::kResume, false, "heartbeats were not acknowledged"};
    case EndCause::kGarbage:
      return {NextStep::kResume, false, "what came is not the gateway protocol"};
    case EndCause::kHelloTimeout:
      return {NextStep::kResume, false, "no HELLO in time"};
    case EndCause::kIdentifyTimeout:
      return {NextStep::kIdentify, false, "IDENTIFY was not answered in time"};
    case EndCause::kResumeTimeout:
      return {NextStep::kResume, false, "RESUME was not answered in time"};
  }
  return {NextStep::kResume, false, "connection lost"};
}

std::string DescribeClose(std::optional<uint16_t> code) {
  const CloseRow& row = FindRow(code);
  if (!code) return std::string(row.reason);
  return std::to_string(*code) + ": " + std::string(row.reason);
}

}  // namespace shardd::gateway
