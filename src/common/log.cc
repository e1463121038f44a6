#include "common/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>

#include "common/json_escape.h"

namespace shardd::log {
namespace {

constexpr char kTextPattern[] = "%Y-%m-%dT%H:%M:%S.%e%z %^%-5l%$ %v";
// The message itself is the inside of the JSON object.
constexpr char kJsonPattern[] = R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})";

std::atomic<Format> format = Format::kText;

spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = std::make_shared<spdlog::logger>(
        "shardd", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern(kTextPattern);
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarn:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string Text(std::string_view message, std::initializer_list<Field> fields) {
  std::string line(message);
  for (const Field& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    const bool quote =
        field.value.empty() || field.value.find_first_of(" \"=\n\t\r") != std::string::npos;
    line += quote ? '"' + JsonEscape(field.value) + '"' : field.value;
  }
  return line;
}

std::string Json(std::string_view message, std::initializer_list<Field> fields) {
  std::string line = "\"message\":\"" + JsonEscape(message) + '"';
  for (const Field& field : fields) {
    line += ",\"" + JsonEscape(field.key) + "\":";
    line += field.quoted ? '"' + JsonEscape(field.value) + '"' : field.value;
  }
  return line;
}

}  // namespace

void Configure(Level level, Format new_format) {
  format = new_format;
  Logger().set_level(ToSpdlog(level));
  Logger().set_pattern(new_format == Format::kJson ? kJsonPattern : kTextPattern);
}

void Write(Level level, std::string_view message, std::initializer_list<Field> fields) {
  const auto spdlog_level = ToSpdlog(level);
  if (!Logger().should_log(spdlog_level)) return;
  const std::string line = format == Format::kJson ? Json(message, fields) : Text(message, fields);
  Logger().log(spdlog_level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace shardd::log
