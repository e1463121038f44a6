#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace shardd::gateway {

// Every documented intent that is not privileged (all but GUILD_MEMBERS, GUILD_PRESENCES,
// MESSAGE_CONTENT): https://discord.com/developers/docs/events/gateway#gateway-intents.
inline constexpr uint64_t kAllUnprivilegedIntents = 53575421;

// Without it Discord sends no GUILD_CREATE, nor anything else of guilds as such.
inline constexpr uint64_t kGuildsIntent = 1;

// "GUILDS,guild_messages" (Discord's names, in any case, with old names accepted),
// "all-unprivileged", "all", or a number. INVALID_ARGUMENT names the part that is not known and,
// where one is close, the name that may be meant.
absl::StatusOr<uint64_t> ParseIntents(std::string_view text);

}  // namespace shardd::gateway
