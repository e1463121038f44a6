#include "simulator/protocol.h"

#include <algorithm>
#include <array>
#include <utility>

namespace shardd::simulator::intent {
namespace {

constexpr int kNoDirect = -1;

struct Rule {
  std::string_view prefix;  // of the type; the longest that matches counts
  int guild_bit;
  int direct_bit = kNoDirect;  // the bit outside guilds, where it differs
};

constexpr std::array kRules = {
    Rule{"GUILD_CREATE", 0},
    Rule{"GUILD_UPDATE", 0},
    Rule{"GUILD_DELETE", 0},
    Rule{"GUILD_ROLE_", 0},
    Rule{"CHANNEL_CREATE", 0},
    Rule{"CHANNEL_UPDATE", 0},
    Rule{"CHANNEL_DELETE", 0},
    Rule{"CHANNEL_PINS_UPDATE", 0, 12},
    Rule{"THREAD_", 0},
    Rule{"STAGE_INSTANCE_", 0},
    Rule{"VOICE_CHANNEL_STATUS_UPDATE", 0},
    Rule{"VOICE_CHANNEL_START_TIME_UPDATE", 0},
    Rule{"GUILD_MEMBER_", 1},
    Rule{"GUILD_AUDIT_LOG_ENTRY_CREATE", 2},
    Rule{"GUILD_BAN_", 2},
    Rule{"GUILD_EMOJIS_UPDATE", 3},
    Rule{"GUILD_STICKERS_UPDATE", 3},
    Rule{"GUILD_SOUNDBOARD_SOUND", 3},
    Rule{"GUILD_INTEGRATIONS_UPDATE", 4},
    Rule{"INTEGRATION_", 4},
    Rule{"WEBHOOKS_UPDATE", 5},
    Rule{"INVITE_", 6},
    Rule{"VOICE_STATE_UPDATE", 7},
    Rule{"VOICE_CHANNEL_EFFECT_SEND", 7},
    Rule{"PRESENCE_UPDATE", 8},
    Rule{"MESSAGE_", 9, 12},
    Rule{"MESSAGE_REACTION_", 10, 13},
    Rule{"MESSAGE_POLL_VOTE_", 24, 25},
    Rule{"TYPING_START", 11, 14},
    Rule{"GUILD_SCHEDULED_EVENT_", 16},
    Rule{"AUTO_MODERATION_RULE_", 20},
    Rule{"AUTO_MODERATION_ACTION_EXECUTION", 21},
};

}  // namespace

uint64_t For(std::string_view type, bool in_guild) {
  const Rule* found = nullptr;
  for (const Rule& rule : kRules) {
    if (!type.starts_with(rule.prefix)) continue;
    if (found == nullptr || rule.prefix.size() > found->prefix.size()) found = &rule;
  }
  if (found == nullptr) return 0;
  const bool direct = !in_guild && found->direct_bit != kNoDirect;
  return uint64_t{1} << (direct ? found->direct_bit : found->guild_bit);
}

}  // namespace shardd::simulator::intent
