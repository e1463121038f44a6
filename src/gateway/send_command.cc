#include "gateway/send_command.h"

#include "gateway/payload.h"

namespace shardd::gateway {

CommandFault MakeCommand(uint32_t op, std::string_view data, Command* command) {
  command->op = static_cast<CommandOp>(op);
  switch (command->op) {
    case CommandOp::kPresenceUpdate:
    case CommandOp::kVoiceStateUpdate:
    case CommandOp::kRequestGuildMembers:
    case CommandOp::kRequestSoundboardSounds:
    case CommandOp::kRequestChannelInfo:
      break;
    default:
      return CommandFault::kOp;
  }
  // Before it is parsed, which is only worth while for what may be sent.
  std::string text = R"({"op":)" + std::to_string(op) + R"(,"d":)";
  if (text.size() + data.size() + 1 > kMaxPayloadBytes) return CommandFault::kTooLarge;
  const std::optional<CommandData> parsed = ParseCommandData(data);
  if (!parsed) return CommandFault::kNotAnObject;
  if (command->op == CommandOp::kRequestGuildMembers) {
    if (parsed->nonce_bytes > kMaxNonceBytes) return CommandFault::kNonce;
    if (parsed->asks_for_all_members) command->all_members_of = parsed->guild_id;
  }
  if (command->op == CommandOp::kVoiceStateUpdate) {
    command->voice_guild = parsed->guild_id;
    command->joins_voice = parsed->names_channel;
  }
  if (command->op == CommandOp::kPresenceUpdate && IsPresence(data)) command->presence = data;
  text += data;
  text += '}';
  command->text = std::move(text);
  return CommandFault::kNone;
}

}  // namespace shardd::gateway
