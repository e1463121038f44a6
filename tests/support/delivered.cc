#include "support/delivered.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <set>

#include "support/shardd_process.h"

namespace shardd::test {

Sessions BySession(const EventStream& stream) {
  Sessions sessions;
  for (auto& event : stream.events()) {
    if (!IsOwn(event)) sessions[{event.shard_id(), event.session()}].push_back(std::move(event));
  }
  return sessions;
}

std::string SessionIdOf(const std::vector<v1::Event>& events) {
  if (events.empty() || events.front().type() != "READY") return "";
  return std::string(boost::json::parse(events.front().data()).at("session_id").as_string());
}

bool CatchUp(const simulator::Simulator& discord, const EventStream& stream, uint32_t shard_count) {
  return Eventually([&] {
    const Sessions received = BySession(stream);
    for (uint32_t id = 0; id < shard_count; ++id) {
      const auto session = discord.Session({id, shard_count});
      if (!session.has_value() || !session->connected) return false;
      uint64_t newest = 0;
      for (const auto& [key, events] : received) {
        if (key.first != id || SessionIdOf(events) != session->session_id) continue;
        newest = std::max(newest, events.back().sequence());
      }
      if (newest < session->sequence) return false;
    }
    return true;
  });
}

void ExpectExact(const simulator::Simulator& discord, const EventStream& stream) {
  uint64_t next_offset = 0;
  for (const auto& batch : stream.batches()) {
    EXPECT_FALSE(batch.has_gap());
    for (const auto& event : batch.events()) ASSERT_EQ(event.offset(), next_offset++);
  }
  std::set<std::string> seen;
  for (const auto& [key, events] : BySession(stream)) {
    SCOPED_TRACE("shard " + std::to_string(key.first) + " session " + std::to_string(key.second));
    const std::string session_id = SessionIdOf(events);
    ASSERT_NE(session_id, "") << "the first event is " << events.front().type();
    EXPECT_TRUE(seen.insert(session_id).second) << "two numbers for one session";
    const auto sent = discord.Sent(session_id);
    ASSERT_LE(events.size(), sent.size());
    for (size_t i = 0; i < events.size(); ++i) {
      ASSERT_EQ(events[i].sequence(), sent[i].sequence);
      ASSERT_EQ(events[i].type(), sent[i].type);
      ASSERT_EQ(events[i].data(), sent[i].data);
      ASSERT_EQ(events[i].data_bytes(), sent[i].data.size());
      ASSERT_EQ(events[i].guild_id(), sent[i].guild_id) << sent[i].type;
      ASSERT_GT(events[i].received_unix_nanos(), 0);
    }
  }
}

}  // namespace shardd::test
