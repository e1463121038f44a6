#include "support/shardd_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace shardd::test {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

ShardDProcess::ShardDProcess(const std::vector<std::string>& arguments,
                             const Variables& variables) {
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);

  std::vector<std::string> argv_texts = {SHARDD_BINARY};
  argv_texts.insert(argv_texts.end(), arguments.begin(), arguments.end());
  const auto decides = [](const std::string& flag) {
    return flag.starts_with("--data-dir") || flag.starts_with("--simulate");
  };
  if (std::ranges::none_of(arguments, decides) && !variables.contains("STATE_DIRECTORY")) {
    data_dir_ = (std::filesystem::temp_directory_path() / "shardd-test-XXXXXX").string();
    if (mkdtemp(data_dir_.data()) == nullptr) throw std::runtime_error("mkdtemp");
    argv_texts.insert(argv_texts.end(), {"--data-dir", data_dir_});
  }
  std::vector<std::string> env_texts;
  for (const char* name :
       {"PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"}) {
    if (const char* value = std::getenv(name)) env_texts.push_back(std::string(name) + "=" + value);
  }
  for (const auto& [name, value] : variables) env_texts.push_back(name + "=" + value);
  std::vector<char*> argv = Pointers(argv_texts);
  std::vector<char*> env = Pointers(env_texts);
  const int failed = posix_spawn(&pid_, SHARDD_BINARY, &actions, nullptr, argv.data(), env.data());
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  close(err[1]);
  if (failed != 0) throw std::runtime_error("cannot start " SHARDD_BINARY);
  out_reader_ = std::thread([this, fd = out[0]] { Collect(fd, out_); });
  err_reader_ = std::thread([this, fd = err[0]] { Collect(fd, err_); });
}

ShardDProcess::~ShardDProcess() {
  if (!exit_code_.has_value()) {
    Signal(SIGKILL);
    WaitForExit();
  }
  out_reader_.join();
  err_reader_.join();
  std::error_code ignored;
  if (!data_dir_.empty()) std::filesystem::remove_all(data_dir_, ignored);
}

void ShardDProcess::Collect(int fd, std::string& into) {
  char buffer[4096];
  ssize_t size;
  while ((size = read(fd, buffer, sizeof buffer)) > 0) {
    const std::lock_guard lock(mutex_);
    into.append(buffer, static_cast<size_t>(size));
  }
  close(fd);
}

std::string ShardDProcess::out() {
  const std::lock_guard lock(mutex_);
  return out_;
}

std::string ShardDProcess::err() {
  const std::lock_guard lock(mutex_);
  return err_;
}

std::string ShardDProcess::FindAfter(const std::string& label) {
  std::string found;
  Eventually([&] {
    const std::string text = out();
    const size_t start = text.find(label);
    const size_t end = start == std::string::npos ? start : text.find('\n', start);
    if (end == std::string::npos) return WaitForExit(std::chrono::milliseconds(0)).has_value();
    found = text.substr(start + label.size(), end - start - label.size());
    return true;
  });
  return found;
}

std::string ShardDProcess::address() { return FindAfter("listening on "); }
std::string ShardDProcess::admin_address() { return FindAfter("health on "); }

void ShardDProcess::Signal(int signal) {
  if (!exit_code_.has_value()) kill(pid_, signal);
}

std::optional<int> ShardDProcess::WaitForExit(std::chrono::milliseconds timeout) {
  Eventually(
      [&] {
        if (exit_code_.has_value()) return true;
        int status = 0;
        if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
        exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return true;
      },
      timeout);
  return exit_code_;
}

bool ShardDProcess::WaitForLog(const std::string& text, std::chrono::milliseconds timeout) {
  return Eventually([&] { return err().find(text) != std::string::npos; }, timeout);
}

uint64_t ShardDProcess::StatusKib(const std::string& line) const {
  std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
  for (std::string word; status >> word;) {
    if (word != line + ":") continue;
    uint64_t kib = 0;
    status >> kib;
    return kib;
  }
  return 0;
}

}  // namespace shardd::test
