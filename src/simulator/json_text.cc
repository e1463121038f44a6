#include "simulator/json_text.h"

#include <array>
#include <chrono>

namespace shardd::simulator {
namespace {

constexpr std::array kWords = {
    "the",        "a",       "to",       "and",     "is",       "it",      "you",     "that",
    "in",         "of",      "for",      "on",      "with",     "this",    "I",       "we",
    "not",        "but",     "have",     "are",     "be",       "so",      "just",    "can",
    "if",         "my",      "what",     "lol",     "yeah",     "ok",      "no",      "like",
    "get",        "do",      "how",      "when",    "game",     "server",  "update",  "patch",
    "raid",       "tonight", "someone",  "help",    "please",   "thanks",  "why",     "does",
    "anyone",     "know",    "where",    "find",    "role",     "channel", "ping",    "mods",
    "event",      "start",   "tomorrow", "stream",  "live",     "now",     "watch",   "build",
    "error",      "works",   "fixed",    "version", "download", "link",    "here",    "check",
    "pinned",     "message", "looks",    "great",   "awesome",  "nice",    "one",     "two",
    "more",       "level",   "boss",     "team",    "queue",    "rank",    "match",   "win",
    "lost",       "again",   "really",   "think",   "good",     "bad",     "maybe",   "later",
    "first",      "music",   "song",     "play",    "voice",    "join",    "mic",     "broken",
    "restart",    "phone",   "laptop",   "school",  "work",     "week",    "friend",  "morning",
    "night",      "coffee",  "pizza",    "cat",     "dog",      "picture", "art",     "draw",
    "commission", "trade",   "sell",     "buy",     "price",    "gold",    "item",    "rare",
    "drop",       "farm",    "guide",    "wiki",    "faq",      "rules",   "ban",     "bot",
    "command",    "slash",   "prefix",   "dev",     "code",     "python",  "rust",    "typescript",
    "deploy",     "docker",  "memory",   "leak",    "gateway",  "shard",   "latency", "timeout",
    "retry",
};

constexpr std::array kSyllables = {"ka",  "ri",   "mo",  "zen", "lu",  "ta",  "vex", "or",
                                   "shi", "bel",  "dra", "no",  "fin", "qua", "el",  "sto",
                                   "rm",  "wolf", "pix", "nyx", "jo",  "an"};

constexpr std::array<std::string_view, 10> kTricky = {
    R"(he said \"ok\" and left)",
    R"(look: \"guild_id\":\"123\", and \"op\":7)",
    R"({\"t\":\"READY\",\"s\":1,\"op\":0,\"d\":{\"guild_id\":\"42\"}})",
    R"(C:\\Users\\me\\\\server \\\" end)",
    R"(\u00fcber \ud83d\ude00 escaped)",
    "\xF0\x9F\x94\xA5\xF0\x9F\x94\xA5 \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB GG",
    "\xE3\x81\x93\xE3\x82\x93\xE3\x81\xAB\xE3\x81\xA1\xE3\x81\xAF \xE4\xB8\x96\xE7\x95\x8C",
    "na\xC3\xAFve caf\xC3\xA9 \xD0\xBF\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82",
    R"(}}]],\"guild_id\":null,\n```json\n{\"guild_id\": \"1\"}\n```)",
    R"(<:blob:812345678901234567> <@812345678901234568> https:\/\/example.com\/a?b=c&d=%22)",
};

constexpr std::array<std::string_view, 6> kEmoji = {"\xF0\x9F\x94\xA5",         "\xF0\x9F\x91\x8D",
                                                    "\xE2\x9D\xA4\xEF\xB8\x8F", "\xF0\x9F\x98\x82",
                                                    "\xF0\x9F\x8E\x89",         "\xE2\x9C\x85"};

void AppendDigits(std::string& out, unsigned number, int width) {
  char digits[8];
  for (int i = width - 1; i >= 0; --i, number /= 10)
    digits[i] = static_cast<char>('0' + number % 10);
  out.append(digits, width);
}

}  // namespace

void AppendTime(std::string& out, uint64_t unix_millis) {
  using std::chrono::days, std::chrono::milliseconds, std::chrono::sys_time;
  const sys_time<milliseconds> time{milliseconds(unix_millis)};
  const auto day = std::chrono::floor<days>(time);
  const std::chrono::year_month_day date(day);
  const auto in_day = static_cast<unsigned>((time - day).count());
  AppendDigits(out, static_cast<unsigned>(static_cast<int>(date.year())), 4);
  out += '-';
  AppendDigits(out, static_cast<unsigned>(date.month()), 2);
  out += '-';
  AppendDigits(out, static_cast<unsigned>(date.day()), 2);
  out += 'T';
  AppendDigits(out, in_day / 3'600'000, 2);
  out += ':';
  AppendDigits(out, in_day / 60'000 % 60, 2);
  out += ':';
  AppendDigits(out, in_day / 1000 % 60, 2);
  out += '.';
  AppendDigits(out, in_day % 1000, 3);
  out += "000+00:00";
}

void AppendHex(std::string& out, uint64_t seed, int digits) {
  Random random(seed);
  uint64_t bits = 0;
  for (int i = 0; i < digits; ++i, bits >>= 4) {
    if (i % 16 == 0) bits = random.Next();
    out += "0123456789abcdef"[bits & 15];
  }
}

void AppendWords(std::string& out, Random& random, uint32_t count) {
  const uint32_t words = random.Between(1, count);
  for (uint32_t i = 0; i < words; ++i) {
    if (i != 0) out += ' ';
    out += kWords[random.Below(kWords.size())];
  }
}

std::string_view TrickyText(Random& random) { return kTricky[random.Below(kTricky.size())]; }

void AppendName(std::string& out, uint64_t seed) {
  Random random(seed);
  const uint32_t syllables = random.Between(2, 4);
  for (uint32_t i = 0; i < syllables; ++i) out += kSyllables[random.Below(kSyllables.size())];
  if (random.Percent(40)) AppendOne(out, random.Below(10'000));
}

std::string_view Emoji(uint64_t seed) { return kEmoji[seed % kEmoji.size()]; }

}  // namespace shardd::simulator
