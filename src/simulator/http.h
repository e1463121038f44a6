#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// As much of HTTP/1.1 as API clients and WebSocket handshakes need.
namespace shardd::simulator::http {

struct Request {
  std::string method;
  std::string path;                            // without the query
  std::map<std::string, std::string> query;    // decoded
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  bool keep_alive = true;

  std::string_view Header(const std::string& name) const;
  std::string_view Query(const std::string& name) const;
  bool IsWebSocketUpgrade() const;
};

struct Response {
  unsigned status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
};

enum class ParseResult { kRequest, kNeedMore, kBad };

// Takes one request from the front of `buffer`, if it is whole. Bodies need a Content-Length; head
// and body are bounded.
ParseResult Parse(std::string& buffer, Request& request);

std::string Format(const Response& response, bool keep_alive);

// The 101 answer.
std::string FormatUpgrade(std::string_view accept_key);

}  // namespace shardd::simulator::http
