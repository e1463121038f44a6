#include "simulator/http.h"

#include <algorithm>
#include <charconv>

namespace shardd::simulator::http {
namespace {

constexpr size_t kLargestHead = 16 * 1024;
constexpr size_t kLargestBody = 4 * 1024 * 1024;

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// The part before `separator`, which is taken off `rest` with it; all of it where there is none.
std::string_view Take(std::string_view& rest, std::string_view separator) {
  const size_t at = rest.find(separator);
  const std::string_view part = rest.substr(0, at);
  rest = at == std::string_view::npos ? std::string_view() : rest.substr(at + separator.size());
  return part;
}

std::string Decode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, code, 16).ptr ==
            text.data() + i + 3) {
      decoded += static_cast<char>(code);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

std::string_view Phrase(unsigned status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 429:
      return "Too Many Requests";
    case 500:
      return "Internal Server Error";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    default:
      return "Status";
  }
}

std::string_view Find(const std::map<std::string, std::string>& map, const std::string& key) {
  const auto found = map.find(key);
  return found == map.end() ? std::string_view() : std::string_view(found->second);
}

bool ParseHead(std::string_view head, Request& request) {
  std::string_view line = Take(head, "\r\n");
  request.method = Take(line, " ");
  std::string_view target = Take(line, " ");
  if (!line.starts_with("HTTP/1.") || !target.starts_with("/")) return false;
  const bool http_1_0 = line == "HTTP/1.0";
  request.path = Take(target, "?");
  while (!target.empty()) {
    std::string_view value = Take(target, "&");
    const std::string_view key = Take(value, "=");
    request.query[Decode(key)] = Decode(value);
  }
  while (!head.empty()) {
    std::string_view value = Take(head, "\r\n");
    const std::string_view name = Take(value, ":");
    request.headers[Lower(name)] = Trim(value);
  }
  request.keep_alive = !http_1_0 && Lower(request.Header("connection")) != "close";
  return true;
}

}  // namespace

std::string_view Request::Header(const std::string& name) const { return Find(headers, name); }
std::string_view Request::Query(const std::string& name) const { return Find(query, name); }

bool Request::IsWebSocketUpgrade() const {
  return method == "GET" && Lower(Header("upgrade")) == "websocket" &&
         !Header("sec-websocket-key").empty();
}

ParseResult Parse(std::string& buffer, Request& request) {
  const size_t end = buffer.find("\r\n\r\n");
  if (end == std::string::npos) {
    return buffer.size() > kLargestHead ? ParseResult::kBad : ParseResult::kNeedMore;
  }
  request = {};
  if (!ParseHead(std::string_view(buffer).substr(0, end), request)) return ParseResult::kBad;
  size_t length = 0;
  if (const auto text = request.Header("content-length"); !text.empty()) {
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), length);
    if (parsed.ptr != text.data() + text.size() || length > kLargestBody) return ParseResult::kBad;
  }
  const size_t body = end + 4;
  if (buffer.size() - body < length) return ParseResult::kNeedMore;
  request.body = buffer.substr(body, length);
  buffer.erase(0, body + length);
  return ParseResult::kRequest;
}

std::string Format(const Response& response, bool keep_alive) {
  std::string text = "HTTP/1.1 " + std::to_string(response.status) + ' ';
  text += Phrase(response.status);
  text += "\r\nContent-Type: " + response.content_type;
  text += "\r\nContent-Length: " + std::to_string(response.body.size());
  text += keep_alive ? "\r\nConnection: keep-alive" : "\r\nConnection: close";
  for (const auto& [name, value] : response.headers) text += "\r\n" + name + ": " + value;
  return text + "\r\n\r\n" + response.body;
}

std::string FormatUpgrade(std::string_view accept_key) {
  std::string text =
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Accept: ";
  text += accept_key;
  return text + "\r\n\r\n";
}

}  // namespace shardd::simulator::http
