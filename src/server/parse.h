#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/identify_gate.h"

// Texts of flags, environment variables and configuration files. INVALID_ARGUMENT says what is
// wrong with the text and what would be right; the caller adds the flag's name.
namespace shardd::server {

// A decimal number without sign in [least, most].
absl::StatusOr<uint64_t> ParseNumber(std::string_view text, uint64_t least, uint64_t most);
// "true", "false", "1", "0", "yes", "no".
absl::StatusOr<bool> ParseBool(std::string_view text);
// A decimal number, with a fraction or not, in [0, most].
absl::StatusOr<double> ParseReal(std::string_view text, double most);
// A number with us, ms, s, m or h; bare: seconds.
absl::StatusOr<std::chrono::microseconds> ParseDuration(std::string_view text,
                                                        std::chrono::microseconds most);
// Bytes, or a number with KiB, MiB or GiB.
absl::StatusOr<uint64_t> ParseSize(std::string_view text, uint64_t least, uint64_t most);
// A number of session starts, or a share of them: "50", "10%", "2.5%".
absl::StatusOr<gateway::IdentifyReserve> ParseReserve(std::string_view text);
// "0-3,7": in the order given, each id once.
absl::StatusOr<std::vector<uint32_t>> ParseShardIds(std::string_view text);

// The text of a configuration file: a `key = value` in each line, in their order, each key once. A
// value may stand in single or double quotes, which are taken off; outside of them, # at the start
// or behind a blank begins a comment. A failure names the line and repeats no value, which may be a
// secret.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseKeyValues(
    std::string_view text);

// HOST:PORT, [IPV6]:PORT or unix:PATH.
struct ListenAddress {
  std::string text;  // as given, which is what gRPC takes
  std::string host;  // without brackets; empty for unix:
  uint16_t port = 0;

  bool is_unix() const { return host.empty(); }
  // Only this machine can connect: 127.0.0.0/8, ::1, localhost, a Unix socket.
  bool is_loopback() const;
};
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text);

}  // namespace shardd::server
