#include "gateway/intents.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace shardd::gateway {
namespace {

struct Intent {
  std::string_view name;
  int bit;
};

// Current names first, then those that Discord has renamed and libraries still use.
constexpr Intent kIntents[] = {
    {"GUILDS", 0},
    {"GUILD_MEMBERS", 1},
    {"GUILD_MODERATION", 2},
    {"GUILD_EXPRESSIONS", 3},
    {"GUILD_INTEGRATIONS", 4},
    {"GUILD_WEBHOOKS", 5},
    {"GUILD_INVITES", 6},
    {"GUILD_VOICE_STATES", 7},
    {"GUILD_PRESENCES", 8},
    {"GUILD_MESSAGES", 9},
    {"GUILD_MESSAGE_REACTIONS", 10},
    {"GUILD_MESSAGE_TYPING", 11},
    {"DIRECT_MESSAGES", 12},
    {"DIRECT_MESSAGE_REACTIONS", 13},
    {"DIRECT_MESSAGE_TYPING", 14},
    {"MESSAGE_CONTENT", 15},
    {"GUILD_SCHEDULED_EVENTS", 16},
    {"AUTO_MODERATION_CONFIGURATION", 20},
    {"AUTO_MODERATION_EXECUTION", 21},
    {"GUILD_MESSAGE_POLLS", 24},
    {"DIRECT_MESSAGE_POLLS", 25},
    {"GUILD_BANS", 2},
    {"GUILD_EMOJIS_AND_STICKERS", 3},
    {"GUILD_EMOJIS", 3},
};

constexpr uint64_t AllIntents() {
  uint64_t all = 0;
  for (const Intent& intent : kIntents) all |= uint64_t{1} << intent.bit;
  return all;
}

constexpr uint64_t kPrivileged = (1u << 1) | (1u << 8) | (1u << 15);
static_assert(AllIntents() == 53608447);
static_assert((AllIntents() & ~kPrivileged) == kAllUnprivilegedIntents);

std::string Upper(std::string_view text) {
  std::string upper(text);
  for (char& c : upper) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return upper;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

absl::Status UnknownName(std::string_view part) {
  std::string message = "unknown intent '" + std::string(part) + "'";
  if (part.size() <= 64) {
    const std::string upper = Upper(part);
    const auto* closest = std::ranges::min_element(
        kIntents, {}, [&](const Intent& intent) { return EditDistance(upper, intent.name); });
    if (EditDistance(upper, closest->name) <= 4) {
      message += ", did you mean " + std::string(closest->name) + "?";
    }
  }
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<uint64_t> ParseNumber(std::string_view part) {
  uint64_t number = 0;
  const auto [end, ec] = std::from_chars(part.data(), part.data() + part.size(), number);
  if (ec != std::errc() || end != part.data() + part.size()) {
    return absl::InvalidArgumentError("intents '" + std::string(part) + "' is not a number");
  }
  if ((number & ~AllIntents()) != 0) {
    return absl::InvalidArgumentError(
        "intents " + std::to_string(number) +
        " has bits that Discord does not define: " + std::to_string(number & ~AllIntents()));
  }
  return number;
}

}  // namespace

absl::StatusOr<uint64_t> ParseIntents(std::string_view text) {
  const std::string_view whole = Trim(text);
  if (whole.empty()) return absl::InvalidArgumentError("no intents given");
  if (whole[0] >= '0' && whole[0] <= '9') return ParseNumber(whole);

  uint64_t intents = 0;
  for (size_t begin = 0; begin <= whole.size();) {
    const size_t end = std::min(whole.find(',', begin), whole.size());
    const std::string_view part = Trim(whole.substr(begin, end - begin));
    begin = end + 1;
    const std::string upper = Upper(part);
    if (upper == "ALL") {
      intents |= AllIntents();
      continue;
    }
    if (upper == "ALL-UNPRIVILEGED") {
      intents |= kAllUnprivilegedIntents;
      continue;
    }
    const auto* found = std::ranges::find(kIntents, upper, &Intent::name);
    if (found == std::end(kIntents)) return UnknownName(part);
    intents |= uint64_t{1} << found->bit;
  }
  return intents;
}

}  // namespace shardd::gateway
