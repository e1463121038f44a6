#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace shardd::test {

// A REST API on 127.0.0.1 that says what it was told to say, byte for byte: each request gets the
// next answer, and the last answer from then on. Thread-safe.
class RestStub {
 public:
  explicit RestStub(std::vector<std::string> answers)
      : answers_(answers.begin(), answers.end()),
        socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(socket_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(socket_, 16) != 0 ||
        getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("cannot listen");
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~RestStub() {
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }
  RestStub(const RestStub&) = delete;
  RestStub& operator=(const RestStub&) = delete;

  std::string api_url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/api/v10"; }
  std::vector<std::string> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  void Answer(std::string next) {
    const std::lock_guard lock(mutex_);
    answers_ = {std::move(next)};
  }

  // `head`: the status line and headers without the body's.
  static std::string Http(const std::string& head, const std::string& body) {
    return "HTTP/1.1 " + head + "\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\nConnection: close\r\n\r\n" + body;
  }
  static std::string Bot(uint32_t shards, uint32_t total, uint32_t remaining,
                         uint64_t reset_after_ms, uint32_t max_concurrency) {
    return Http("200 OK\r\nContent-Type: application/json",
                R"({"url":"ws://127.0.0.1:1","shards":)" + std::to_string(shards) +
                    R"(,"session_start_limit":{"total":)" + std::to_string(total) +
                    R"(,"remaining":)" + std::to_string(remaining) + R"(,"reset_after":)" +
                    std::to_string(reset_after_ms) + R"(,"max_concurrency":)" +
                    std::to_string(max_concurrency) + "}}");
  }

 private:
  void Serve() {
    for (int peer; (peer = accept(socket_, nullptr, nullptr)) >= 0; close(peer)) {
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const ssize_t n = recv(peer, buffer, sizeof buffer, 0);
        if (n <= 0) break;
        request.append(buffer, static_cast<size_t>(n));
      }
      std::string answer;
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(request);
        answer = answers_.front();
        if (answers_.size() > 1) answers_.pop_front();
      }
      for (size_t sent = 0; sent < answer.size();) {
        const ssize_t n = send(peer, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
        if (n <= 0) break;
        sent += static_cast<size_t>(n);
      }
      shutdown(peer, SHUT_WR);
    }
  }

  mutable std::mutex mutex_;
  std::deque<std::string> answers_;
  std::vector<std::string> requests_;
  const int socket_;
  uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace shardd::test
