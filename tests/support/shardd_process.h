#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace shardd::test {

// The real shardd binary, run as a user runs it. What it prints is kept. Ends it (SIGKILL) when it
// goes out of scope.
class ShardDProcess {
 public:
  using Variables = std::map<std::string, std::string>;

  // Without a --data-dir the process gets a temporary one, which goes with this object. It gets
  // `variables` and nothing else of this one's environment but PATH and what the
  // sanitizers read.
  explicit ShardDProcess(const std::vector<std::string>& arguments,
                         const Variables& variables = {});
  ~ShardDProcess();
  ShardDProcess(const ShardDProcess&) = delete;
  ShardDProcess& operator=(const ShardDProcess&) = delete;

  // Where it listens; empty: it ended, or did not say within 20 s.
  std::string address();
  std::string admin_address();

  void Signal(int signal);
  // The exit code, 128 + n for a signal; none: it still runs after `timeout`.
  std::optional<int> WaitForExit(std::chrono::milliseconds timeout = std::chrono::seconds(20));

  std::string out();
  std::string err();
  // Waits until standard error holds `text`.
  bool WaitForLog(const std::string& text,
                  std::chrono::milliseconds timeout = std::chrono::seconds(10));
  pid_t pid() const { return pid_; }
  // A line of /proc/PID/status, such as RssAnon or VmHWM, in KiB; 0: there is none.
  uint64_t StatusKib(const std::string& line) const;

 private:
  void Collect(int fd, std::string& into);
  std::string FindAfter(const std::string& label);

  std::string data_dir_;  // empty: not ours
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
  std::mutex mutex_;
  std::string out_;
  std::string err_;
  std::thread out_reader_;
  std::thread err_reader_;
};

// Calls `condition` until it holds, for at most `timeout`; the last answer.
template <typename Condition>
bool Eventually(Condition condition, std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return condition();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace shardd::test
