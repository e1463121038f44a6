#include "simulator/traffic.h"

#include <memory>
#include <utility>

#include "simulator/protocol.h"

namespace shardd::simulator {
namespace {

// 2026-01-01: later than every guild and user of the simulated world.
constexpr uint64_t kFirstEvent = 1'767'225'600'000;

}  // namespace

// A bot's mix by the placeholder shares of public reports; no percentages for real bots are
// published.
const std::array<Traffic::Share, 9> Traffic::kMix = {{
    {"MESSAGE_CREATE", 46, &Traffic::MessageCreate},
    {"TYPING_START", 12, &Traffic::TypingStart, true},
    {"GUILD_MEMBER_UPDATE", 8, &Traffic::MemberUpdate, true},
    {"VOICE_STATE_UPDATE", 8, &Traffic::VoiceStateUpdate, true},
    {"MESSAGE_REACTION_ADD", 7, &Traffic::ReactionAdd, true},
    {"PRESENCE_UPDATE", 6, &Traffic::PresenceUpdate, true},
    {"MESSAGE_UPDATE", 5, &Traffic::MessageUpdate},
    {"MESSAGE_DELETE", 4, &Traffic::MessageDelete},
    {"INTERACTION_CREATE", 4, &Traffic::InteractionCreate},
}};

Traffic::Traffic(const Guilds& guilds, uint64_t seed)
    : guilds_(guilds), random_(Mix(seed, 0x7261)), now_(kFirstEvent), repeats_(Mix(seed, 0x6571)) {
  // Edits and reactions of the first moments refer to messages from before the start.
  for (size_t i = 0; i < recent_.size(); ++i) {
    ++now_;
    recent_[messages_++] = NewMessage(guilds_.Pick(random_));
  }
}

DispatchPtr Traffic::Next() {
  if (repeatables_ >= repeatable_.size() && repeats_.Unit() < equal_payloads_) {
    return repeatable_[repeats_.Below(repeatable_.size())];
  }
  ++now_;
  uint32_t point = random_.Below(100);
  const Share* share = kMix.data();
  while (point >= share->percent) point -= share++->percent;
  auto event = std::make_shared<Dispatch>();
  event->type = share->type;
  event->data.reserve(1024);
  (this->*share->write)(*event);
  if (share->may_repeat) repeatable_[repeatables_++ % repeatable_.size()] = event;
  return event;
}

size_t Traffic::PickGuild(Dispatch& event) {
  const size_t guild = guilds_.Pick(random_);
  event.guild_id = guilds_.ids()[guild];
  return guild;
}

const Traffic::Message& Traffic::PickMessage(Dispatch& event) {
  const Message& message = recent_[random_.Below(recent_.size())];
  event.guild_id = guilds_.ids()[message.guild];
  return message;
}

Traffic::Message Traffic::NewMessage(size_t guild) {
  Message message;
  message.guild = guild;
  message.channel = guilds_.Channel(guild, random_.Next() >> 8);
  message.id = NewId();
  message.author = PickMember(guild);
  return message;
}

void Traffic::AppendContent(std::string& out) {
  // Most chat is short, a few texts are long.
  AppendWords(out, random_, random_.Percent(8) ? 120 : 24);
  if (random_.Percent(12)) Append(out, " ", TrickyText(random_));
}

void Traffic::AppendEmbeds(std::string& out) {
  const uint32_t embeds = random_.Percent(80) ? 1 : random_.Between(2, 4);
  for (uint32_t i = 0; i < embeds; ++i) {
    if (i != 0) out += ',';
    out += R"({"type":"rich","title":")";
    AppendWords(out, random_, 8);
    out += R"(","fields":[)";
    const uint32_t fields = random_.Below(8);
    for (uint32_t k = 0; k < fields; ++k) {
      out += k == 0 ? R"({"value":")" : R"(,{"value":")";
      AppendWords(out, random_, 20);
      out += R"(","name":")";
      AppendWords(out, random_, 4);
      out += R"(","inline":true})";
    }
    out += R"(],"description":")";
    AppendWords(out, random_, 80);
    Append(out, R"(","content_scan_version":0,"color":)", random_.Below(0xFFFFFF), "}");
  }
}

void Traffic::AppendComponents(std::string& out) {
  const uint32_t buttons = random_.Between(1, 5);
  out += R"({"type":1,"id":1,"components":[)";
  for (uint32_t i = 0; i < buttons; ++i) {
    Append(out, i == 0 ? "" : ",", R"({"type":2,"style":)", random_.Between(1, 4), R"(,"label":")");
    AppendWords(out, random_, 3);
    Append(out, R"(","id":)", i + 2, R"(,"custom_id":"{\"guild_id\":\")", random_.Below(1'000'000),
           R"(\"}"})");
  }
  out += "]}";
}

void Traffic::AppendReference(const Message& message, std::string& out) {
  if (random_.Percent(70)) {
    // A reply: the message it answers stands here whole.
    const Message older = recent_[random_.Below(recent_.size())];
    out += R"("referenced_message":{)";
    AppendMessage(older, false, true, out);
    Append(out, R"(},"pinned":false,"nonce":")", message.id,
           R"(","message_reference":{"type":0,"message_id":")", older.id, R"(","guild_id":")",
           guilds_.ids()[older.guild], R"(","channel_id":")", older.channel, R"("},)");
  } else {
    // A crosspost or forward, of another guild as a rule.
    const size_t other = guilds_.Pick(random_);
    Append(out, R"("pinned":false,"nonce":null,"message_reference":{"type":1,"message_id":")",
           NewId(), R"(","guild_id":")", guilds_.ids()[other], R"(","channel_id":")",
           guilds_.Channel(other, random_.Next() >> 8), R"("},)");
  }
}

void Traffic::AppendMessage(const Message& message, bool edited, bool nested, std::string& out) {
  const uint64_t sent = (message.id >> 22) + kDiscordEpoch;
  const bool reply = !nested && random_.Percent(18);
  Append(out, R"("type":)", reply ? 19 : 0, R"(,"tts":false,"timestamp":")");
  AppendTime(out, sent);
  out += "\",";
  if (reply) {
    AppendReference(message, out);
  } else {
    Append(out, R"("pinned":false,"nonce":")", message.id, R"(",)");
  }
  out += R"("mentions":[)";
  if (random_.Percent(8)) {
    out += R"({"member":{)";
    const User mentioned = PickMember(message.guild);
    AppendMember(out, guilds_, message.guild, mentioned, false);
    out += "},";
    std::string user;
    AppendUser(user, mentioned);
    out.append(user, 1);
  }
  out += R"(],"mention_roles":[],"mention_everyone":false,)";
  if (!nested) {
    out += R"("member":{)";
    AppendMember(out, guilds_, message.guild, message.author, false);
    out += "},";
  }
  Append(out, R"("id":")", message.id, R"(","flags":0,"embeds":[)");
  if (random_.Percent(14)) AppendEmbeds(out);
  out += R"(],"edited_timestamp":)";
  if (edited) {
    out += '"';
    AppendTime(out, now_);
    out += '"';
  } else {
    out += "null";
  }
  out += R"(,"content":")";
  AppendContent(out);
  out += R"(","components":[)";
  if (random_.Percent(6)) AppendComponents(out);
  Append(out, R"(],"channel_type":0,"channel_id":")", message.channel, R"(","author":)");
  AppendUser(out, message.author);
  out += R"(,"attachments":[)";
  if (random_.Percent(8)) {
    const uint64_t id = NewId();
    Append(out, R"({"width":1280,"url":"https://cdn.discordapp.com/attachments/)", message.channel,
           "/", id, R"(/image.png?ex=)");
    AppendHex(out, id);
    Append(out, R"(&","size":)", random_.Below(2'000'000),
           R"(,"proxy_url":"https://media.discordapp.net/attachments/)", message.channel, "/", id,
           R"(/image.png","placeholder_version":1,"id":")", id,
           R"(","height":720,"filename":"image.png","content_type":"image/png"})");
  }
  out += ']';
}

void Traffic::MessageCreate(Dispatch& event) {
  const Message message = NewMessage(PickGuild(event));
  event.data += '{';
  AppendMessage(message, false, false, event.data);
  Append(event.data, R"(,"guild_id":")", event.guild_id, "\"}");
  recent_[messages_++ % recent_.size()] = message;
}

void Traffic::MessageUpdate(Dispatch& event) {
  const Message message = PickMessage(event);
  event.data += '{';
  AppendMessage(message, true, false, event.data);
  Append(event.data, R"(,"guild_id":")", event.guild_id, "\"}");
}

void Traffic::MessageDelete(Dispatch& event) {
  const Message& message = PickMessage(event);
  Append(event.data, R"({"id":")", message.id, R"(","channel_id":")", message.channel,
         R"(","guild_id":")", event.guild_id, "\"}");
}

void Traffic::ReactionAdd(Dispatch& event) {
  const Message& message = PickMessage(event);
  const User user = PickMember(message.guild);
  Append(event.data, R"({"user_id":")", user.id, R"(","type":0,"message_id":")", message.id,
         R"(","message_author_id":")", message.author.id, R"(","member":{)");
  AppendMember(event.data, guilds_, message.guild, user, true);
  Append(event.data, R"(},"emoji":{"name":")", Emoji(random_.Next()),
         R"(","id":null},"channel_id":")", message.channel, R"(","burst":false,"guild_id":")",
         event.guild_id, "\"}");
}

void Traffic::TypingStart(Dispatch& event) {
  const size_t guild = PickGuild(event);
  const User user = PickMember(guild);
  Append(event.data, R"({"user_id":")", user.id, R"(","timestamp":)", now_ / 1000,
         R"(,"member":{)");
  AppendMember(event.data, guilds_, guild, user, true);
  Append(event.data, R"(},"channel_id":")", guilds_.Channel(guild, random_.Next() >> 8),
         R"(","guild_id":")", event.guild_id, "\"}");
}

void Traffic::MemberUpdate(Dispatch& event) {
  const size_t guild = PickGuild(event);
  event.data += '{';
  AppendMember(event.data, guilds_, guild, PickMember(guild), true);
  Append(event.data, R"(,"guild_id":")", event.guild_id, R"(","unusual_dm_activity_until":null})");
}

void Traffic::VoiceStateUpdate(Dispatch& event) {
  const size_t guild = PickGuild(event);
  const User user = PickMember(guild);
  event.data += R"({"member":{)";
  AppendMember(event.data, guilds_, guild, user, true);
  Append(event.data, R"(},"user_id":")", user.id, R"(","suppress":false,"session_id":")");
  AppendHex(event.data, random_.Next());
  Append(event.data, R"(","self_video":false,"self_mute":)", random_.Percent(30) ? "true" : "false",
         R"(,"self_deaf":false,"request_to_speak_timestamp":null,"mute":false,"guild_id":")",
         event.guild_id, R"(","deaf":false,"channel_id":)");
  if (random_.Percent(30)) {
    event.data += "null}";
  } else {
    Append(event.data, "\"", guilds_.Channel(guild, 3), "\"}");
  }
}

void Traffic::PresenceUpdate(Dispatch& event) {
  const size_t guild = PickGuild(event);
  Append(event.data, R"({"user":{"id":")", PickMember(guild).id,
         R"("},"status":"online","processed_at_timestamp":)", now_, R"(,"guild_id":")",
         event.guild_id,
         R"(","game":null,"client_status":{"desktop":"online"},"broadcast":null,"activities":[)");
  if (random_.Percent(50)) {
    event.data += R"({"type":0,"timestamps":{"start":)";
    Append(event.data, now_ - random_.Below(10'000'000), R"(},"name":")");
    AppendWords(event.data, random_, 3);
    event.data += R"(","id":")";
    AppendHex(event.data, random_.Next(), 16);
    Append(event.data, R"(","created_at":)", now_, "}");
  }
  event.data += "]}";
}

void Traffic::InteractionCreate(Dispatch& event) {
  const size_t guild = PickGuild(event);
  const bool component = random_.Percent(45);
  std::string& out = event.data;
  Append(out, R"({"version":1,"type":)", component ? 3 : 2, R"(,"token":")");
  AppendHex(out, random_.Next(), 200);
  out += "\",";
  if (component) {
    // The message that the button belongs to, with everything in it; its reference may name another
    // guild.
    const Message message = NewMessage(guild);
    out += R"("message":{)";
    AppendMessage(message, false, false, out);
    Append(out, R"(,"application_id":")", kBotUserId, R"("},)");
  }
  out += R"("member":{)";
  AppendMember(out, guilds_, guild, PickMember(guild), true);
  Append(
      out, R"(,"permissions":"2248473465835073"},"locale":"en-US","id":")", NewId(),
      R"(","guild_locale":"en-US","guild_id":")", event.guild_id,
      R"(","guild":{"locale":"en-US","id":")", event.guild_id,
      R"(","features":["COMMUNITY","NEWS"]},"entitlements":[],"entitlement_sku_ids":[],"data":)");
  if (component) {
    Append(out, R"({"id":2,"custom_id":"{\"guild_id\":\")", random_.Below(1'000'000),
           R"(\"}","component_type":2})");
  } else {
    out += R"({"type":1,"options":[{"value":")";
    AppendContent(out);
    Append(out, R"(","type":3,"name":"text"}],"name":"say","id":")", kBotUserId + 17, "\"}");
  }
  const uint64_t channel = guilds_.Channel(guild, random_.Next() >> 8);
  Append(out, R"(,"context":0,"channel_id":")", channel,
         R"(","channel":{"type":0,"topic":null,"theme_color":null,"rate_limit_per_user":0,)",
         R"("position":4,"permissions":"2248473465835073","parent_id":null,"nsfw":false,)",
         R"("name":"general","last_message_id":")", NewId(), R"(","id":")", channel,
         R"(","guild_id":")", event.guild_id,
         R"(","flags":0},"authorizing_integration_owners":{"0":")", event.guild_id,
         R"("},"attachment_size_limit":10485760,"application_id":")", kBotUserId,
         R"(","app_permissions":"2248473465835073"})");
}

}  // namespace shardd::simulator
