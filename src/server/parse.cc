#include "server/parse.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <span>

#include "absl/strings/str_cat.h"
#include "common/shard_id.h"

namespace shardd::server {
namespace {

absl::Status Invalid(std::string message) { return absl::InvalidArgumentError(message); }

absl::Status NotA(std::string_view text, std::string_view what) {
  if (text.empty()) return Invalid(absl::StrCat("is empty: give ", std::string(what)));
  return Invalid(absl::StrCat("'", std::string(text), "' is not ", std::string(what)));
}

struct Unit {
  std::string_view suffix;
  uint64_t factor;
};

// A number and one of the units, the first of which stands for no suffix. nullopt: not of this
// form; the maximum: too large.
absl::StatusOr<uint64_t> ParseWithUnit(std::string_view text, std::span<const Unit> units,
                                       std::string_view what) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (end == text.data()) return NotA(text, what);
  const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  for (const Unit& unit : units) {
    if (suffix != unit.suffix) continue;
    uint64_t product = 0;
    if (error != std::errc() || __builtin_mul_overflow(number, unit.factor, &product)) {
      return Invalid(absl::StrCat("'", std::string(text), "' is too large"));
    }
    return product;
  }
  return NotA(text, what);
}

absl::StatusOr<uint64_t> InRange(std::string_view text, uint64_t value, uint64_t least,
                                 uint64_t most, std::string_view unit) {
  if (value < least) {
    return Invalid(absl::StrCat("'", std::string(text), "' is too small: the least is ", least,
                                std::string(unit)));
  }
  if (value > most) {
    return Invalid(absl::StrCat("'", std::string(text), "' is too large: the most is ", most,
                                std::string(unit)));
  }
  return value;
}

}  // namespace

absl::StatusOr<uint64_t> ParseNumber(std::string_view text, uint64_t least, uint64_t most) {
  constexpr Unit kUnits[] = {{"", 1}};
  const auto value = ParseWithUnit(text, kUnits, "a whole number without sign");
  if (!value.ok()) return value;
  return InRange(text, *value, least, most, "");
}

absl::StatusOr<bool> ParseBool(std::string_view text) {
  if (text == "true" || text == "1" || text == "yes") return true;
  if (text == "false" || text == "0" || text == "no") return false;
  return NotA(text, "true or false");
}

absl::StatusOr<double> ParseReal(std::string_view text, double most) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) ||
      value < 0) {
    return NotA(text, "a number of 0 or more");
  }
  if (value > most) {
    return Invalid(absl::StrCat("'", std::string(text), "' is too large: the most is ", most));
  }
  return value;
}

absl::StatusOr<std::chrono::microseconds> ParseDuration(std::string_view text,
                                                        std::chrono::microseconds most) {
  constexpr Unit kUnits[] = {{"", 1'000'000},  {"us", 1},         {"ms", 1'000},
                             {"s", 1'000'000}, {"m", 60'000'000}, {"h", 3'600'000'000}};
  const auto value = ParseWithUnit(text, kUnits, "a duration such as 500us, 10ms, 5s, 2m or 1h");
  if (!value.ok()) return value.status();
  const auto in_range = InRange(text, *value, 0, static_cast<uint64_t>(most.count()), "us");
  if (!in_range.ok()) return in_range.status();
  return std::chrono::microseconds(*in_range);
}

absl::StatusOr<uint64_t> ParseSize(std::string_view text, uint64_t least, uint64_t most) {
  constexpr Unit kUnits[] = {
      {"", 1}, {"KiB", uint64_t{1} << 10}, {"MiB", uint64_t{1} << 20}, {"GiB", uint64_t{1} << 30}};
  const auto value = ParseWithUnit(text, kUnits, "a size such as 1048576, 64KiB, 512MiB or 2GiB");
  if (!value.ok()) return value;
  return InRange(text, *value, least, most, " bytes");
}

absl::StatusOr<gateway::IdentifyReserve> ParseReserve(std::string_view text) {
  gateway::IdentifyReserve reserve;
  if (text.ends_with('%')) {
    text.remove_suffix(1);
    const auto percent = ParseReal(text, 100);
    if (!percent.ok()) return percent.status();
    reserve.percent = *percent;
    return reserve;
  }
  constexpr uint64_t kMost = 1'000'000;
  const auto starts = ParseNumber(text, 0, kMost);
  if (!starts.ok()) return starts.status();
  reserve.starts = static_cast<uint32_t>(*starts);
  return reserve;
}

absl::StatusOr<std::vector<uint32_t>> ParseShardIds(std::string_view text) {
  constexpr std::string_view kWhat = "a list of shard ids such as 0-3,7";
  std::vector<uint32_t> ids;
  std::set<uint32_t> seen;
  std::string_view rest = text;
  while (true) {
    const std::string_view part = rest.substr(0, rest.find(','));
    const size_t dash = part.find('-');
    const auto first = ParseNumber(part.substr(0, dash), 0, kMaxShardCount - 1);
    if (!first.ok()) return NotA(text, kWhat);
    auto last = first;
    if (dash != std::string_view::npos) {
      last = ParseNumber(part.substr(dash + 1), 0, kMaxShardCount - 1);
      if (!last.ok() || *last < *first) return NotA(text, kWhat);
    }
    for (uint64_t id = *first; id <= *last; ++id) {
      if (!seen.insert(static_cast<uint32_t>(id)).second) {
        return Invalid(absl::StrCat("shard ", id, " is given twice"));
      }
      ids.push_back(static_cast<uint32_t>(id));
    }
    if (part.size() == rest.size()) return ids;
    rest.remove_prefix(part.size() + 1);
  }
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseKeyValues(
    std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const auto trim = [&](std::string_view part) {
    const size_t begin = std::min(part.find_first_not_of(kBlank), part.size());
    return part.substr(begin, part.find_last_not_of(kBlank) + 1 - begin);
  };
  std::vector<std::pair<std::string, std::string>> values;
  for (int number = 1; !text.empty(); ++number) {
    const std::string_view line = trim(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    if (line.empty() || line.front() == '#') continue;
    const auto wrong = [number](std::string_view what) {
      return Invalid(absl::StrCat("line ", number, ": ", std::string(what)));
    };
    const size_t equals = line.find('=');
    const std::string_view key = trim(line.substr(0, equals));
    if (equals == std::string_view::npos || key.empty() ||
        key.find('#') != std::string_view::npos) {
      return wrong("is not of the form `key = value`");
    }
    std::string_view value = trim(line.substr(equals + 1));
    if (value.starts_with('"') || value.starts_with('\'')) {
      const size_t close = value.find(value.front(), 1);
      if (close == std::string_view::npos) return wrong("has a quote that is not closed");
      const std::string_view rest = trim(value.substr(close + 1));
      if (!rest.empty() && rest.front() != '#') return wrong("goes on after the closing quote");
      value = value.substr(1, close - 1);
    } else {
      // Only behind a blank: file names may hold a #.
      size_t comment = value.find('#');
      while (comment != std::string_view::npos && comment > 0 &&
             kBlank.find(value[comment - 1]) == std::string_view::npos) {
        comment = value.find('#', comment + 1);
      }
      value = trim(value.substr(0, comment));
    }
    if (std::any_of(values.begin(), values.end(),
                    [&](const auto& each) { return each.first == key; })) {
      return wrong(absl::StrCat("the key '", std::string(key), "' is given twice"));
    }
    values.emplace_back(key, value);
  }
  return values;
}

bool ListenAddress::is_loopback() const {
  if (is_unix() || host == "localhost" || host == "::1") return true;
  // A name may start with 127. as well, and lead anywhere.
  in_addr ipv4;
  return host.starts_with("127.") && inet_pton(AF_INET, host.c_str(), &ipv4) == 1;
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text) {
  constexpr std::string_view kWhat = "an address such as 127.0.0.1:50051, [::1]:50051 or unix:PATH";
  constexpr std::string_view kUnix = "unix:";
  ListenAddress address;
  address.text = text;
  if (text.starts_with(kUnix)) {
    if (text.size() == kUnix.size()) return NotA(text, kWhat);
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return NotA(text, kWhat);
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return NotA(text, kWhat);
  }
  const auto port = ParseNumber(text.substr(colon + 1), 0, 65535);
  if (host.empty() || !port.ok()) return NotA(text, kWhat);
  address.host = host;
  address.port = static_cast<uint16_t>(*port);
  return address;
}

}  // namespace shardd::server
