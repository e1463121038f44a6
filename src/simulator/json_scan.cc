#include "simulator/json_scan.h"

#include <algorithm>
#include <vector>

#include "simulator/random.h"

namespace shardd::simulator {
namespace {

constexpr int kDeepest = 256;
constexpr std::string_view kWhiteSpace = " \t\r\n";

// Walks over JSON text by its structure: brackets and strings. Numbers and words are taken as
// whatever stands between, since the texts are our own or have been parsed.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  size_t at() const { return at_; }
  bool AtEnd() const { return at_ == text_.size(); }
  std::string_view Since(size_t begin) const { return text_.substr(begin, at_ - begin); }
  void SkipSpace() {
    while (!AtEnd() && kWhiteSpace.find(text_[at_]) != std::string_view::npos) ++at_;
  }
  char Peek() const { return AtEnd() ? '\0' : text_[at_]; }
  bool Take(char c) {
    if (Peek() != c) return false;
    ++at_;
    return true;
  }
  bool SkipString() {
    if (!Take('"')) return false;
    while (!AtEnd()) {
      const char c = text_[at_++];
      if (c == '"') return true;
      if (c == '\\' && !AtEnd()) ++at_;
    }
    return false;
  }
  // A number, true, false or null.
  bool SkipWord() {
    const size_t begin = at_;
    while (!AtEnd() &&
           std::string_view(",:]}[{\" \t\r\n").find(text_[at_]) == std::string_view::npos)
      ++at_;
    return at_ > begin;
  }
  // One value of any kind, without recursion.
  bool SkipValue() {
    if (Peek() == '"') return SkipString();
    if (Peek() != '{' && Peek() != '[') return SkipWord();
    size_t depth = 0;
    while (!AtEnd()) {
      const char c = text_[at_];
      if (c == '"') {
        if (!SkipString()) return false;
        continue;
      }
      ++at_;
      if (c == '{' || c == '[') ++depth;
      if ((c == '}' || c == ']') && --depth == 0) return true;
    }
    return false;
  }

 private:
  const std::string_view text_;
  size_t at_ = 0;
};

// FNV-1a, spread by the seed.
uint64_t Place(std::string_view key, uint64_t seed) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : key) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return Mix(seed, hash);
}

bool PermuteValue(Scanner& scanner, uint64_t seed, int depth, std::string& out);

bool PermuteObject(Scanner& scanner, uint64_t seed, int depth, std::string& out) {
  struct Member {
    uint64_t place = 0;
    std::string text;
  };
  std::vector<Member> members;
  scanner.Take('{');
  const size_t inside = scanner.at();
  scanner.SkipSpace();
  if (scanner.Take('}')) {
    out += '{';
    out += scanner.Since(inside);
    return true;
  }
  do {
    // The space in front of the first key has been passed over already.
    const size_t begin = members.empty() ? inside : scanner.at();
    scanner.SkipSpace();
    const size_t key = scanner.at();
    if (!scanner.SkipString()) return false;
    Member member;
    member.place = Place(scanner.Since(key), seed);
    scanner.SkipSpace();
    if (!scanner.Take(':')) return false;
    scanner.SkipSpace();
    member.text = scanner.Since(begin);
    if (!PermuteValue(scanner, seed, depth + 1, member.text)) return false;
    const size_t behind = scanner.at();
    scanner.SkipSpace();
    member.text += scanner.Since(behind);
    members.push_back(std::move(member));
  } while (scanner.Take(','));
  if (!scanner.Take('}')) return false;
  std::stable_sort(members.begin(), members.end(),
                   [](const Member& a, const Member& b) { return a.place < b.place; });
  char separator = '{';
  for (const Member& member : members) {
    out += separator;
    out += member.text;
    separator = ',';
  }
  out += '}';
  return true;
}

bool PermuteArray(Scanner& scanner, uint64_t seed, int depth, std::string& out) {
  scanner.Take('[');
  out += '[';
  const size_t inside = scanner.at();
  scanner.SkipSpace();
  if (scanner.Take(']')) {
    out += scanner.Since(inside);
    return true;
  }
  out += scanner.Since(inside);
  while (true) {
    if (!PermuteValue(scanner, seed, depth + 1, out)) return false;
    const size_t behind = scanner.at();
    scanner.SkipSpace();
    const bool more = scanner.Take(',');
    if (!more && !scanner.Take(']')) return false;
    if (more) scanner.SkipSpace();
    out += scanner.Since(behind);
    if (!more) return true;
  }
}

bool PermuteValue(Scanner& scanner, uint64_t seed, int depth, std::string& out) {
  if (depth > kDeepest) return false;
  if (scanner.Peek() == '{') return PermuteObject(scanner, seed, depth, out);
  if (scanner.Peek() == '[') return PermuteArray(scanner, seed, depth, out);
  const size_t begin = scanner.at();
  if (!scanner.SkipValue()) return false;
  out += scanner.Since(begin);
  return true;
}

}  // namespace

std::optional<std::string_view> MemberOf(std::string_view object, std::string_view key) {
  Scanner scanner(object);
  scanner.SkipSpace();
  if (!scanner.Take('{')) return std::nullopt;
  do {
    scanner.SkipSpace();
    const size_t name = scanner.at();
    if (!scanner.SkipString()) return std::nullopt;
    const std::string_view quoted = scanner.Since(name);
    scanner.SkipSpace();
    if (!scanner.Take(':')) return std::nullopt;
    scanner.SkipSpace();
    const size_t value = scanner.at();
    if (!scanner.SkipValue()) return std::nullopt;
    if (quoted.substr(1, quoted.size() - 2) == key) return scanner.Since(value);
    scanner.SkipSpace();
  } while (scanner.Take(','));
  return std::nullopt;
}

std::string PermuteKeys(std::string_view json, uint64_t seed) {
  Scanner scanner(json);
  std::string out;
  out.reserve(json.size());
  scanner.SkipSpace();
  out += scanner.Since(0);
  if (!PermuteValue(scanner, seed, 0, out)) return std::string(json);
  const size_t behind = scanner.at();
  scanner.SkipSpace();
  out += scanner.Since(behind);
  return scanner.AtEnd() ? out : std::string(json);
}

}  // namespace shardd::simulator
