#include "gateway/close_code.h"

namespace shardd::gateway {
namespace {

struct CloseRow {
  uint16_t code;
  Aftermath aftermath;
};

constexpr Aftermath Resume(std::string_view reason, Pause pause = Pause::kNone) {
  return {NextStep::kResume, pause, false, reason};
}
constexpr Aftermath Identify(std::string_view reason, Pause pause = Pause::kNone) {
  return {NextStep::kIdentify, pause, false, reason};
}
constexpr Aftermath Stop(std::string_view reason) {
  return {NextStep::kStop, Pause::kNone, false, reason};
}
constexpr Aftermath StopKeepingSession(std::string_view reason) {
  return {NextStep::kStop, Pause::kNone, false, reason, /*keeps_session=*/true};
}
constexpr Aftermath DieAndResume(std::string_view reason) {
  return {NextStep::kResume, Pause::kNone, true, reason};
}

// "Docs" is Discord's own table, linked in the header. Where it asks for a new session and RESUME
// may still be accepted, RESUME is tried first: a refused one is answered by op 9 and costs
// nothing.
constexpr CloseRow kCloseRows[] = {
    // RFC 6455, section 7.4.1. A server's 1000 often means missed heartbeats, and its session is
    // often gone (discord-api-docs#2922).
    {1000, Resume("closed normally by the server")},
    // RFC 6455, section 7.4.1: Discord's edge during deploys. Keeps the session.
    {1001, Resume("the server is going away")},
    // Docs: reconnect.
    {4000, Resume("unknown error on Discord's side")},
    // Docs: reconnect. RESUME may be answered by op 9 (discord-api-docs#4376).
    {4001, Resume("Discord did not know an opcode that was sent")},
    // Docs: reconnect. Also for payloads over 4096 bytes.
    {4002, Resume("Discord could not decode what was sent")},
    // Docs: reconnect. Sent to every live session after the token was reset or a privileged intent
    // taken away (discord-api-docs#6970): the session is gone.
    {4003, Identify("not authenticated: the session was revoked")},
    // Docs: do not reconnect. A session belongs to the bot, and may well outlive a token that was
    // mistyped.
    {4004, StopKeepingSession("the token is not valid: set a new one")},
    // Docs: reconnect. The session that the first IDENTIFY made may stand.
    {4005, Resume("authenticated twice on one connection")},
    // Not in the docs any more; replaced by op 9 in 2019 (discord-api-docs#1209).
    {4006, Identify("the session is no longer valid")},
    // Docs: reconnect and start a new session.
    {4007, Identify("the sequence in RESUME could not be used")},
    // Docs: reconnect; more than 120 payloads in 60 s ("Rate Limiting").
    {4008, Resume("sent too fast: Discord's limit is 120 payloads a minute", Pause::kSendWindow)},
    // Docs: reconnect and start a new one; RESUME is accepted sometimes (discord.js and hikari
    // try).
    {4009, Resume("the session timed out")},
    // Docs: do not reconnect. For large bots see "Sharding for Large Bots" (discord-api-docs#387).
    {4010,
     Stop(
         "invalid shard: the id is not below the count, or the count is above Discord's limit or "
         "not the multiple that Discord assigned to this bot; call Rescale with a shard_count that "
         "Discord recommends (recommended_shards in Stats)")},
    // Docs: do not reconnect; shard instead ("Sharding").
    {4011,
     Stop("sharding required: one shard would have more than 2500 guilds; call Rescale with a "
          "larger shard_count (recommended_shards in Stats, or more)")},
    // Docs: do not reconnect.
    {4012, Stop("Discord no longer accepts this gateway version: shardd must be updated")},
    // Docs: do not reconnect ("Gateway Intents").
    {4013, Stop("invalid intents: a bit that Discord does not define is set")},
    // Docs: do not reconnect ("Privileged Intents").
    {4014, Stop("privileged intents that are not switched on for this application: switch them on "
                "in the Developer Portal, or leave GUILD_MEMBERS, GUILD_PRESENCES and "
                "MESSAGE_CONTENT out of the intents")},
};

// RFC 6455, section 7.1.5: the other side's 1005.
constexpr Aftermath kNoCode = Resume("closed without a code");
// Any other 1xxx comes from what lies between (Cloudflare, a proxy) and says nothing of the
// session.
constexpr Aftermath kOtherCode = Resume("closed with a code that Discord does not document");

}  // namespace

Aftermath AfterClose(std::optional<uint16_t> code) {
  if (!code) return kNoCode;
  for (const CloseRow& row : kCloseRows) {
    if (row.code == *code) return row.aftermath;
  }
  return kOtherCode;
}

Aftermath AfterEnd(EndCause cause) {
  switch (cause) {
    // Docs, "Disconnecting": a connection that drops keeps its session.
    case EndCause::kConnectionLost:
      return Resume("connection lost");
    // Docs, "Initiating a Disconnect" and op 7.
    case EndCause::kReconnectRequested:
      return Resume("op 7: Discord asked for a new connection");
    // Docs, op 9; the pause is from discord-api-docs#244 and #313.
    case EndCause::kInvalidSessionResumable:
      return Resume("op 9: session invalid, but may be resumed", Pause::kInvalidSession);
    case EndCause::kInvalidSession:
      return Identify("op 9: session invalid", Pause::kInvalidSession);
    // Docs, "Heartbeat Interval": zombied connections are closed and resumed.
    case EndCause::kZombie:
      return Resume("heartbeats were not acknowledged");
    case EndCause::kGarbage:
      return Resume("what came is not the gateway protocol");
    case EndCause::kOversize:
      return Resume("a payload is larger than --max-message-bytes");
    case EndCause::kSequenceGap:
      return Resume("events are missing");
    case EndCause::kSilence:
      return Resume("heartbeats go on, but no event comes");
    case EndCause::kException:
      return DieAndResume("an internal error of shardd");
    case EndCause::kStalled:
      return DieAndResume("the worker thread stood still");
    case EndCause::kHelloTimeout:
      return Resume("no HELLO in time");
    case EndCause::kIdentifyTimeout:
      return Identify("IDENTIFY was not answered in time");
    case EndCause::kResumeTimeout:
      return Resume("RESUME was not answered in time");
  }
  return Resume("connection lost");
}

std::string DescribeClose(std::optional<uint16_t> code) {
  const std::string reason(AfterClose(code).reason);
  return code ? std::to_string(*code) + ": " + reason : reason;
}

}  // namespace shardd::gateway
