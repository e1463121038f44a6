#include "gateway/gateway_url.h"

#include <algorithm>
#include <charconv>

namespace shardd::gateway {
namespace {

struct Scheme {
  std::string_view prefix;
  bool tls;
  uint16_t port;
};

constexpr Scheme kSchemes[] = {
    {"ws://", false, 80}, {"wss://", true, 443}, {"http://", false, 80}, {"https://", true, 443}};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsHostCharacter(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '-' ||
         c == '_';
}

bool IsAddress6Character(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || c == ':' || c == '.';
}

bool IsTargetCharacter(char c) { return c > ' ' && c < 0x7f && c != '#'; }

}  // namespace

std::string Url::authority() const {
  std::string text = host.find(':') == host.npos ? host : '[' + host + ']';
  if (port != (tls ? 443 : 80)) text += ':' + std::to_string(port);
  return text;
}

std::optional<Url> ParseUrl(std::string_view text) {
  const auto* scheme = std::ranges::find_if(
      kSchemes, [&](const Scheme& each) { return text.starts_with(each.prefix); });
  if (scheme == std::end(kSchemes)) return std::nullopt;
  text.remove_prefix(scheme->prefix.size());

  Url url{.tls = scheme->tls, .host = {}, .port = scheme->port, .target = "/"};
  const size_t authority_end = std::min(text.find_first_of("/?"), text.size());
  std::string_view authority = text.substr(0, authority_end);
  const std::string_view target = text.substr(authority_end);
  if (!std::ranges::all_of(target, IsTargetCharacter)) return std::nullopt;
  if (!target.empty()) url.target = (target[0] == '/' ? "" : "/") + std::string(target);

  if (authority.starts_with('[')) {
    const size_t bracket = authority.find(']');
    if (bracket == authority.npos) return std::nullopt;
    url.host = authority.substr(1, bracket - 1);
    if (!std::ranges::all_of(url.host, IsAddress6Character)) return std::nullopt;
    authority.remove_prefix(bracket + 1);
  } else {
    const size_t host_end = std::min(authority.find(':'), authority.size());
    url.host = authority.substr(0, host_end);
    if (!std::ranges::all_of(url.host, IsHostCharacter)) return std::nullopt;
    authority.remove_prefix(host_end);
  }
  constexpr size_t kLongestName = 253;  // RFC 1035, section 3.1
  if (url.host.empty() || url.host.size() > kLongestName) return std::nullopt;

  if (!authority.empty()) {
    if (authority[0] != ':') return std::nullopt;
    authority.remove_prefix(1);
    const auto [end, ec] =
        std::from_chars(authority.data(), authority.data() + authority.size(), url.port);
    if (ec != std::errc() || end != authority.data() + authority.size() || url.port == 0) {
      return std::nullopt;
    }
  }
  return url;
}

bool IsAcceptableResumeUrl(std::string_view resume, std::string_view main) {
  constexpr size_t kLongest = 2048;
  if (resume.size() > kLongest) return false;
  if (!resume.starts_with("ws://") && !resume.starts_with("wss://")) return false;
  const std::optional<Url> url = ParseUrl(resume);
  return url && (url->tls || !main.starts_with("wss://"));
}

std::string ConnectionUrl(std::string_view base, Compression compression) {
  std::string url(base.substr(0, std::min(base.find('?'), base.size())));
  if (!url.ends_with('/')) url += '/';
  url += "?v=10&encoding=json";
  switch (compression) {
    case Compression::kNone:
      break;
    case Compression::kZlibStream:
      url += "&compress=zlib-stream";
      break;
    case Compression::kZstdStream:
      url += "&compress=zstd-stream";
      break;
  }
  return url;
}

}  // namespace shardd::gateway
