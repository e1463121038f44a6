#include "events/snapshots.h"

#include <google/protobuf/io/coded_stream.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "common/log.h"
#include "common/status.h"
#include "events/event_type.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::events {
namespace {

using google::protobuf::io::CodedOutputStream;

// After a failure of the disk.
constexpr std::chrono::seconds kTryAgainAfter{1};
constexpr std::chrono::seconds kCompactAgainAfter{30};
// The file is written anew when more than this of it, and more than half, is superfluous.
constexpr uint64_t kMostGarbage = uint64_t{8} << 20;
// Guilds in one mark.
constexpr size_t kGuildsInMark = 4096;
// Events between two positions in the file, of which none was worth keeping.
constexpr uint64_t kEventsBetweenPositions = 64 << 10;
// Records that are looked at under the lock in one go.
constexpr size_t kMostLooks = 64 << 10;
// Of max_bytes: compaction that would free less is not worth it.
constexpr uint64_t kLeastFreedShare = 32;
// Of max_bytes: for the ids of guilds that are left out.
constexpr uint64_t kLeftOutShare = 32;

// `snapshot` = true, as it stands in a record.
constexpr char kSnapshotField[] = {v1::Event::kSnapshotFieldNumber << 3, 1};
static_assert(v1::Event::kSnapshotFieldNumber < 16);

// A record of the log with `snapshot` set, in front of its data, which stays last.
struct MarkedRecord {
  std::string head;
  std::string_view rest;  // of the log's record

  // REQUIRES: entry.data_position <= record.size().
  MarkedRecord(std::string_view record, const IndexEntry& entry) {
    constexpr size_t kTagBytes = 1;
    const size_t body =
        OffsetPosition(reinterpret_cast<const uint8_t*>(record.data()), record.size()) - kTagBytes;
    const size_t data_field =
        entry.data_position - CodedOutputStream::VarintSize32(entry.data_size()) - kTagBytes;
    const auto size = static_cast<uint32_t>(record.size() - body + sizeof kSnapshotField);
    uint8_t length[5];
    const uint8_t* const end = CodedOutputStream::WriteVarint32ToArray(size, length);
    head += record.front();
    head.append(reinterpret_cast<const char*>(length), static_cast<size_t>(end - length));
    head += record.substr(body, data_field - body);
    head.append(kSnapshotField, sizeof kSnapshotField);
    rest = record.substr(data_field);
  }
  size_t size() const { return head.size() + rest.size(); }
};

// All numbers that stand in quotes and are as long as snowflakes.
std::unordered_set<uint64_t> QuotedIds(std::string_view json) {
  std::unordered_set<uint64_t> ids;
  for (size_t at = json.find('"'); at != json.npos; at = json.find('"', at)) {
    const char* const begin = json.data() + at + 1;
    uint64_t id = 0;
    const auto [end, error] = std::from_chars(begin, json.data() + json.size(), id);
    ++at;
    if (error == std::errc() && end - begin >= 15 && end < json.data() + json.size() &&
        *end == '"') {
      ids.insert(id);
    }
  }
  return ids;
}

bool IsLoss(const std::optional<Missing>& missing) {
  return missing.has_value() && missing->reason != MissingReason::kTruncated;
}

}  // namespace

Snapshots::Snapshots(Options options)
    : options_(std::move(options)),
      index_(
          [this](const SnapshotRecord& create) -> std::optional<std::unordered_set<uint64_t>> {
            IndexEntry entry;
            std::string record;
            if (!file_->Read(create.position, create.length, &entry, &record).ok()) return {};
            return QuotedIds(std::string_view(record).substr(entry.data_position));
          },
          options_.max_bytes / kLeftOutShare / sizeof(uint64_t)) {}

Snapshots::~Snapshots() {
  const std::lock_guard follow(follow_mutex_);
  if (written_position_ != position_) WriteMark(SnapshotMark::kPosition, position_);
}

absl::StatusOr<std::unique_ptr<Snapshots>> Snapshots::Open(Options options) {
  std::unique_ptr<Snapshots> snapshots(new Snapshots(std::move(options)));
  if (auto status = snapshots->Load(); !status.ok()) return status;
  return snapshots;
}

void Snapshots::Remove(const std::string& path) {
  unlink(path.c_str());
  unlink((path + ".new").c_str());
}

absl::Status Snapshots::Load() {
  const Log& log = *options_.log;
  unlink((options_.path + ".new").c_str());
  auto file = SnapshotFile::Open(options_.path, log.id().id);
  if (file.ok()) {
    file_ = *std::move(file);
    const uint64_t cut =
        file_->Replay([this](const IndexEntry& entry, std::string_view record, uint64_t position,
                             bool intact) { ApplyFrame(entry, record, position, intact); });
    const bool has_position = file_->end() > SnapshotFile::kHeaderBytes;
    if (has_position && position_ <= log.end()) {
      written_position_ = position_;
      if (cut > 0) {
        log::Info("the snapshot of the guilds ends in the middle of an event; it goes on before it",
                  {{"file", options_.path}, {"bytes", cut}});
      }
      KeepToBound();
      return absl::OkStatus();
    }
    if (has_position) {
      log::Warn("the snapshot of the guilds is ahead of the log, and starts afresh",
                {{"file", options_.path}, {"position", position_}, {"log_end", log.end()}});
    }
  } else if (!absl::IsNotFound(file.status())) {
    return file.status();
  } else if (access(options_.path.c_str(), F_OK) == 0) {
    log::Warn("the snapshot of the guilds cannot be used, and starts afresh",
              {{"file", options_.path}, {"reason", Message(file.status())}});
  }
  auto made = SnapshotFile::Create(options_.path, log.id().id);
  if (!made.ok()) return made.status();
  file_ = *std::move(made);
  index_.Clear();
  position_ = log.oldest();
  written_position_ = 0;
  return absl::OkStatus();
}

void Snapshots::ApplyFrame(const IndexEntry& entry, std::string_view record, uint64_t position,
                           bool intact) {
  if (entry.offset < position_) return;
  position_ = entry.offset;
  if (entry.kind == EntryKind::kControl) {
    if (intact) ApplyMark(entry, record);
    return;
  }
  const uint8_t number = FindSnapshotType(entry.type_hash);
  if (!entry.has_record() || number == kNoSnapshotType) return;
  position_ = entry.next_offset();
  const SnapshotType& type = SnapshotTypeAt(number);
  if (!intact) {
    Forget({{.id = entry.shard_id, .count = entry.shard_count}, entry.guild_id});
    return;
  }
  SnapshotFacts facts;
  if (type.family == SnapshotFamily::kAvailability) {
    facts.unavailable = (entry.flags & SnapshotFile::kUnavailable) != 0;
  } else {
    facts = facts_.Read(type, record.substr(entry.data_position));
  }
  // That a guild has gone was wanted when it was written, by what may have been dropped since.
  if (type.role != SnapshotRole::kGuildDelete && !index_.Wants(entry, type, facts)) return;
  if (!index_.Apply(entry, number, facts, position)) index_.LeaveOut(entry.guild_id);
}

void Snapshots::ApplyMark(const IndexEntry& entry, std::string_view record) {
  switch (static_cast<SnapshotMark>(entry.flags)) {
    case SnapshotMark::kPosition:
      break;
    case SnapshotMark::kLeaveOut:
      for (size_t at = 0; at + sizeof(uint64_t) <= record.size(); at += sizeof(uint64_t)) {
        uint64_t guild = 0;
        std::memcpy(&guild, record.data() + at, sizeof guild);
        index_.LeaveOut(guild);
      }
      break;
    case SnapshotMark::kLeaveOutAll:
      index_.LeaveOutAll();
      break;
    case SnapshotMark::kForgetOtherCounts:
      for (size_t at = 0; at + sizeof(uint64_t) <= record.size(); at += sizeof(uint64_t)) {
        uint64_t guild = 0;
        std::memcpy(&guild, record.data() + at, sizeof guild);
        index_.ForgetGuild(guild);
      }
      index_.ForgetOtherCounts(entry.shard_count);
      break;
    case SnapshotMark::kForgetReady:
      index_.ForgetReady({.id = entry.shard_id, .count = entry.shard_count});
      break;
    case SnapshotMark::kSwitched:
      index_.SwitchTo(entry.shard_count);
      break;
  }
}

void Snapshots::CatchUp() {
  const std::lock_guard follow(follow_mutex_);
  FollowUnlessJustFailed();
}

void Snapshots::FollowUnlessJustFailed() {
  if (SteadyClock::now() < try_again_at_) return;
  if (!Follow()) try_again_at_ = SteadyClock::now() + kTryAgainAfter;
  const std::lock_guard lock(mutex_);
  has_caught_up_ = true;
}

bool Snapshots::Follow() {
  ForgetDamaged();
  while (true) {
    const uint64_t before = position_;
    const View view = options_.log->LookWithAsides(before);
    const uint64_t first = view.size() > 0 ? view.entry(0).offset : view.next();
    if (IsLoss(view.missing) && !LeaveOutAll(std::max(before, first))) return false;
    for (uint32_t i = 0; i < view.size(); ++i) {
      const IndexEntry& entry = view.entry(i);
      bool taken = true;
      if (entry.kind == EntryKind::kLost) {
        taken = LeaveOutAll(entry.offset + 1);
      } else if (entry.has_record() && (!entry.is_aside() || (entry.flags & kDamaged) == 0) &&
                 FindSnapshotType(entry.type_hash) != kNoSnapshotType) {
        taken = Take(entry, view.record(i));
      }
      if (!taken) {
        NotePosition(entry.offset);
        return false;
      }
    }
    if (view.next() <= before) break;
    NotePosition(view.next());
  }
  ForgetOldGeneration();
  // Before the log recycles what lies behind it.
  const Log& log = *options_.log;
  const uint64_t most = std::min(kEventsBetweenPositions, (log.end() - log.oldest()) / 4);
  if (position_ - written_position_ > most) WriteMark(SnapshotMark::kPosition, position_);
  const uint64_t garbage = Garbage();
  if (garbage > kMostGarbage && garbage > index_.live_bytes()) Compact();
  return true;
}

void Snapshots::NotePosition(uint64_t position) {
  const std::lock_guard lock(mutex_);
  position_ = std::max(position_, position);
}

bool Snapshots::Take(const IndexEntry& event, std::string_view record) {
  const uint8_t number = FindSnapshotType(event.type_hash);
  const SnapshotType& type = SnapshotTypeAt(number);
  if (event.data_position > record.size() || TypeOf(record) != type.name) return true;
  if (type.role == SnapshotRole::kReady) {
    if (IsOfAnOldGeneration(event)) return true;
    const bool is_switch = event.is_aside() && event.shard_count != index_.home_count();
    if (is_switch && !SwitchTo(event.shard_count, event.offset)) return false;
  }
  const SnapshotFacts facts = facts_.Read(type, record.substr(event.data_position));
  {
    const std::lock_guard lock(mutex_);
    if (!index_.Wants(event, type, facts)) return true;
  }
  const MarkedRecord marked(record, event);
  IndexEntry frame = event;
  frame.flags = facts.unavailable ? SnapshotFile::kUnavailable : 0;
  frame.data_position =
      static_cast<uint16_t>(event.data_position + (marked.size() - record.size()));

  const uint64_t bytes = SnapshotFile::kFrameBytes + marked.size();
  uint64_t frees = index_.Frees(event, type, facts);
  const auto live_with_it = [&] { return index_.live_bytes() + bytes - frees; };
  const uint64_t behind = event.next_offset();
  if (live_with_it() > Usable(options_.max_bytes)) return LeaveOut(event, behind);
  const auto has_room = [&] {
    return file_->end() + bytes + live_with_it() + Reserved() <= options_.max_bytes;
  };
  if (!has_room()) MakeRoom();
  if (!has_room() && type.role == SnapshotRole::kGuildCreate && frees > 0) {
    // The older one has to go first. Should the process end before the new one is written, it is
    // taken again.
    if (!LeaveOut(event, event.offset)) return false;
    MakeRoom();
    frees = 0;
  }
  if (!has_room()) return LeaveOut(event, behind);

  const uint64_t position = file_->end();
  if (auto status = file_->Append(frame, {marked.head, marked.rest}); !status.ok()) {
    NoteFailure(status);
    return LeaveOut(event, behind);
  }
  written_position_ = behind;
  bool fits = false;
  {
    const std::lock_guard lock(mutex_);
    position_ = behind;
    fits = index_.Apply(frame, number, facts, position);
  }
  if (type.role == SnapshotRole::kReady) has_new_ready_ = true;
  return fits || LeaveOut(event, behind);
}

// A shard that identifies once more although a rescale has taken over is on its way out.
bool Snapshots::IsOfAnOldGeneration(const IndexEntry& ready) const {
  const uint32_t home_count = index_.home_count();
  if (ready.is_aside() || home_count == 0 || ready.shard_count == home_count) return false;
  return options_.log->state().shard_count == home_count;
}

// `offset`: of the event behind the READYs.
bool Snapshots::SwitchTo(uint32_t shard_count, uint64_t offset) {
  {
    const std::lock_guard lock(mutex_);
    behind_switch_ = offset + 1;
  }
  return WriteMark(SnapshotMark::kSwitched, offset, {.id = 0, .count = shard_count});
}

// The event cannot be kept, so nothing can be told any more of what it is about.
bool Snapshots::LeaveOut(const IndexEntry& event, uint64_t position) {
  if (event.guild_id != 0) {
    return WriteMark(SnapshotMark::kLeaveOut, position, {}, {event.guild_id});
  }
  return WriteMark(SnapshotMark::kForgetReady, position,
                   {.id = event.shard_id, .count = event.shard_count});
}

bool Snapshots::LeaveOutAll(uint64_t position) {
  if (index_.guild_count() > 0) {
    log::Warn(
        "the log has lost events before the snapshot of the guilds saw them: guilds are left out "
        "of it until their next GUILD_CREATE",
        {{"guilds", index_.guild_count()}});
  }
  return WriteMark(SnapshotMark::kLeaveOutAll, position);
}

// The file says so itself when it is read again.
void Snapshots::ForgetDamaged() {
  const std::lock_guard lock(mutex_);
  for (const Damaged& each : damaged_) Forget(each);
  damaged_.clear();
}

void Snapshots::Forget(const Damaged& damaged) {
  log::Warn("an event in the snapshot was changed on disk: what it tells of is left out",
            {{"file", options_.path}, {"guild", damaged.guild}});
  if (damaged.guild == 0) {
    index_.ForgetReady(damaged.shard);
  } else {
    index_.LeaveOut(damaged.guild);
  }
}

absl::Status Snapshots::AppendMark(SnapshotFile& file, SnapshotMark mark, uint64_t position,
                                   ShardId shard, const std::vector<uint64_t>& guilds) {
  IndexEntry entry;
  entry.kind = EntryKind::kControl;
  entry.flags = static_cast<uint8_t>(mark);
  entry.shard_id = static_cast<uint16_t>(shard.id);
  entry.shard_count = static_cast<uint16_t>(shard.count);
  entry.offset = position;
  return file.Append(entry, {std::string_view(reinterpret_cast<const char*>(guilds.data()),
                                              guilds.size() * sizeof(uint64_t))});
}

// Marks tell what the index does, so that the file read again does it too.
bool Snapshots::WriteMark(SnapshotMark mark, uint64_t position, ShardId shard,
                          const std::vector<uint64_t>& guilds) {
  if (file_->end() + index_.live_bytes() + Reserved() > options_.max_bytes && !MakeRoom() &&
      file_->end() + Reserved() > options_.max_bytes) {
    StartAfresh();
  }
  if (auto status = AppendMark(*file_, mark, position, shard, guilds); !status.ok()) {
    NoteFailure(status);
    return false;
  }
  IndexEntry entry;
  entry.flags = static_cast<uint8_t>(mark);
  entry.shard_id = static_cast<uint16_t>(shard.id);
  entry.shard_count = static_cast<uint16_t>(shard.count);
  written_position_ = position;
  const std::lock_guard lock(mutex_);
  position_ = std::max(position_, position);
  ApplyMark(entry,
            {reinterpret_cast<const char*>(guilds.data()), guilds.size() * sizeof(uint64_t)});
  return true;
}

void Snapshots::NoteFailure(const absl::Status& status) {
  if (std::exchange(said_failure_, true)) return;
  log::Warn(
      "the snapshot of the guilds cannot be written: guilds are left out of it until there is "
      "space, and their next GUILD_CREATE comes",
      {{"error", Message(status)}});
}

// Space that is kept free of events: for marks, and for what a compaction needs beside them.
uint64_t Snapshots::Reserved() const {
  return 2 * (SnapshotFile::kHeadroom + SnapshotFile::kHeaderBytes +
              index_.left_out().size() * sizeof(uint64_t)) +
         8 * SnapshotFile::kFrameBytes;
}

// The file cannot be brought within its bound in any other way.
void Snapshots::StartAfresh() {
  const std::lock_guard lock(mutex_);
  if (auto status = file_->Clear(); !status.ok()) return NoteFailure(status);
  index_.LeaveOutAll();
  for (const auto& [shard, each] : index_.shards()) index_.ForgetReady(shard);
}

uint64_t Snapshots::Garbage() const {
  return file_->end() - SnapshotFile::kHeaderBytes - index_.live_bytes();
}

bool Snapshots::MakeRoom() {
  return Garbage() >= options_.max_bytes / kLeastFreedShare && Compact();
}

void Snapshots::KeepToBound() {
  const uint64_t usable = Usable(options_.max_bytes);
  std::vector<uint64_t> guilds;
  uint64_t live = index_.live_bytes();
  for (const auto& [shard, each] : index_.shards()) {
    for (const auto& [id, guild] : each.guilds) {
      if (live <= usable) break;
      guilds.push_back(id);
      live -= SnapshotFile::kFrameBytes + guild.create.length + guild.tail_bytes;
    }
  }
  if (!guilds.empty()) {
    log::Warn("the snapshot of the guilds does not fit into --snapshot-bytes: guilds are left out",
              {{"guilds", guilds.size()}});
  }
  for (const uint64_t guild : guilds) index_.LeaveOut(guild);
  if (live > usable) return StartAfresh();
  const bool is_over = file_->end() + live + Reserved() > options_.max_bytes;
  // That writes down what is left out, too.
  if (is_over && MakeRoom()) return;
  for (size_t at = 0; at < guilds.size(); at += kGuildsInMark) {
    const auto begin = guilds.begin() + static_cast<ptrdiff_t>(at);
    const auto end = begin + static_cast<ptrdiff_t>(std::min(kGuildsInMark, guilds.size() - at));
    if (!WriteMark(SnapshotMark::kLeaveOut, position_, {}, {begin, end})) return StartAfresh();
  }
  if (file_->end() + Reserved() > options_.max_bytes) StartAfresh();
}

bool Snapshots::Compact() {
  if (SteadyClock::now() < compact_again_at_) return false;
  const std::string path = options_.path + ".new";
  const auto failed = [&](const absl::Status& status) {
    unlink(path.c_str());
    compact_again_at_ = SteadyClock::now() + kCompactAgainAfter;
    NoteFailure(status);
    return false;
  };
  auto made = SnapshotFile::Create(path, options_.log->id().id);
  if (!made.ok()) return failed(made.status());
  SnapshotFile& file = **made;
  const std::vector<SnapshotIndex::Entry> entries = index_.Records();
  std::vector<uint64_t> positions;
  positions.reserve(entries.size());
  std::vector<Damaged> damaged;
  std::string record;
  for (const SnapshotIndex::Entry& each : entries) {
    IndexEntry frame;
    if (!file_->Read(each.record->position, each.record->length, &frame, &record).ok()) {
      damaged.push_back({each.shard, each.guild});
      continue;
    }
    positions.push_back(file.end());
    if (auto status = file.Append(frame, {record}); !status.ok()) return failed(status);
  }
  if (!damaged.empty()) {
    // The file as it is says so itself when it is read again.
    {
      const std::lock_guard lock(mutex_);
      for (const Damaged& each : damaged) Forget(each);
    }
    return Compact();
  }
  std::vector<uint64_t> left_out(index_.left_out().begin(), index_.left_out().end());
  for (size_t at = 0; at < left_out.size(); at += kGuildsInMark) {
    const auto begin = left_out.begin() + static_cast<ptrdiff_t>(at);
    const auto end = begin + static_cast<ptrdiff_t>(std::min(kGuildsInMark, left_out.size() - at));
    auto status = AppendMark(file, SnapshotMark::kLeaveOut, position_, {}, {begin, end});
    if (!status.ok()) return failed(status);
  }
  if (index_.has_switched()) {
    const ShardId count{.id = 0, .count = index_.home_count()};
    auto status = AppendMark(file, SnapshotMark::kSwitched, position_, count, {});
    if (!status.ok()) return failed(status);
  }
  if (auto status = AppendMark(file, SnapshotMark::kPosition, position_, {}, {}); !status.ok()) {
    return failed(status);
  }
  if (auto status = file.Rename(options_.path); !status.ok()) return failed(status);
  written_position_ = position_;
  said_failure_ = false;
  // Closed behind the lock, since that may wait for the disk; or by the last reader.
  std::shared_ptr<SnapshotFile> old = *std::move(made);
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < entries.size(); ++i) entries[i].record->position = positions[i];
  file_.swap(old);
  return true;
}

void Snapshots::ForgetOtherCounts(uint32_t shard_count) {
  const std::lock_guard follow(follow_mutex_);
  ForgetCountsBut(shard_count);
}

void Snapshots::ForgetCountsBut(uint32_t shard_count) {
  if (!index_.HasOtherCounts(shard_count)) return;
  // Should it fail, it is tried again.
  WriteMark(SnapshotMark::kForgetOtherCounts, position_, {.id = 0, .count = shard_count});
}

void Snapshots::ForgetOldGeneration() {
  // Only a READY changes what is to go; the log's state, which is costly, is not asked for without.
  if (!std::exchange(has_new_ready_, false)) return;
  const auto& shards = index_.shards();
  // Nearly always there is one count alone; the state need not be copied to see that.
  const auto is_of_first = [&](const auto& each) {
    return each.first.count == shards.begin()->first.count;
  };
  if (std::ranges::all_of(shards, is_of_first)) return;
  const State state = options_.log->state();
  if (state.generation == 0) return;
  const bool has_begun = std::ranges::any_of(shards, [&](const auto& each) {
    return each.first.count == state.shard_count && each.second.ready.has_value();
  });
  if (!has_begun) return;
  ForgetCountsBut(state.shard_count);
  // The disk has refused: tried again.
  if (index_.HasOtherCounts(state.shard_count)) has_new_ready_ = true;
  ForgetGuildsOfOthers(state);
}

// Of shards that this server does not have no READY will come to end their guilds. Once a
// generation, when all that it has are READY, and so are known.
void Snapshots::ForgetGuildsOfOthers(const State& state) {
  if (state.generation == forgotten_for_generation_) return;
  const auto& shards = index_.shards();
  for (const auto& [id, shard] : state.shards) {
    if (id.count != state.shard_count || !shard.wanted) continue;
    const auto found = shards.find(id);
    if (found == shards.end() || !found->second.ready.has_value()) return;
  }
  std::vector<uint64_t> guilds;
  const auto add_if_other = [&](uint64_t guild) {
    const ShardId now{.id = ShardForGuild(guild, state.shard_count), .count = state.shard_count};
    if (!state.shards.contains(now)) guilds.push_back(guild);
  };
  for (const auto& [id, shard] : shards) {
    if (id.count == state.shard_count) continue;
    for (const auto& [guild, each] : shard.guilds) add_if_other(guild);
  }
  for (const uint64_t guild : index_.left_out()) add_if_other(guild);
  for (size_t at = 0; at < guilds.size(); at += kGuildsInMark) {
    const auto begin = guilds.begin() + static_cast<ptrdiff_t>(at);
    const auto end = begin + static_cast<ptrdiff_t>(std::min(kGuildsInMark, guilds.size() - at));
    const ShardId count{.id = 0, .count = state.shard_count};
    if (!WriteMark(SnapshotMark::kForgetOtherCounts, position_, count, {begin, end})) {
      has_new_ready_ = true;  // tried again
      return;
    }
  }
  forgotten_for_generation_ = state.generation;
}

uint64_t Snapshots::position() const {
  const std::lock_guard lock(mutex_);
  return position_;
}

bool Snapshots::has_caught_up() const {
  const std::lock_guard lock(mutex_);
  return has_caught_up_;
}

std::vector<uint64_t> Snapshots::GuildsOf(ShardId shard) const {
  const std::lock_guard lock(mutex_);
  const auto found = index_.shards().find(shard);
  if (found == index_.shards().end()) return {};
  std::vector<uint64_t> guilds;
  for (const uint64_t guild : found->second.ready_guilds) {
    if (!found->second.deleted.contains(guild)) guilds.push_back(guild);
  }
  for (const auto& [guild, each] : found->second.guilds) {
    if (!std::ranges::binary_search(found->second.ready_guilds, guild)) guilds.push_back(guild);
  }
  return guilds;
}

Snapshots::Stats Snapshots::GetStats() const {
  const std::lock_guard lock(mutex_);
  return {.guilds = static_cast<uint32_t>(index_.guild_count()),
          .readys = static_cast<uint32_t>(index_.ready_count()),
          .guilds_left_out = static_cast<uint32_t>(index_.left_out().size()),
          .bytes = index_.record_bytes(),
          .disk_bytes = file_->end(),
          .max_bytes = options_.max_bytes};
}

std::unique_ptr<Snapshots::Reading> Snapshots::Begin(std::optional<Filter> filter) {
  const std::lock_guard lock(mutex_);
  return std::unique_ptr<Reading>(new Reading(*this, position_, std::move(filter)));
}

bool Snapshots::Reading::MayMatch(const Found& found) const {
  if (!filter_.has_value()) return true;
  IndexEntry entry;
  entry.kind = EntryKind::kEvent;
  entry.shard_id = static_cast<uint16_t>(found.shard.id);
  entry.shard_count = static_cast<uint16_t>(found.shard.count);
  entry.type_hash = SnapshotTypeAt(found.record.type).hash;
  entry.offset = found.record.offset;
  entry.guild_id = found.guild;
  // Discord's events have one, whichever it is, and shardd's have none.
  entry.sequence = SnapshotTypeAt(found.record.type).role == SnapshotRole::kLoss ? 0 : 1;
  return filter_->MayMatch(entry);
}

void Snapshots::Reading::StartOver(uint64_t position) {
  position_ = position;
  shard_ = {.id = 0, .count = 0};
  part_ = Part::kReady;
}

bool Snapshots::Reading::Walk(const SnapshotIndex& index, const ReadLimits& limits,
                              std::vector<Found>* found) {
  uint64_t bytes = 0;
  size_t looks = 0;
  // False: the batch is full, and the record is for the next one.
  const auto offer = [&](const SnapshotRecord& record, uint64_t guild) {
    if (++looks > kMostLooks) return false;
    const Found each = {record, shard_, guild};
    if (record.offset >= position_ || !MayMatch(each)) return true;
    if (found->size() >= limits.max_events) return false;
    if (!found->empty() && bytes + record.length > limits.max_bytes) return false;
    bytes += record.length;
    found->push_back(each);
    return true;
  };
  const auto& shards = index.shards();
  for (auto shard = shards.lower_bound(shard_); shard != shards.end(); ++shard) {
    if (shard->first != shard_) {
      shard_ = shard->first;
      part_ = Part::kReady;
    }
    if (part_ == Part::kReady) {
      if (shard->second.ready.has_value() && !offer(*shard->second.ready, 0)) return true;
      part_ = Part::kLosses;
      next_ = 0;
    }
    if (part_ == Part::kLosses) {
      const auto& losses = shard->second.losses;
      for (auto each = losses.lower_bound(next_); each != losses.end(); ++each) {
        if (!offer(each->second, 0)) return true;
        next_ = each->first + 1;
      }
      part_ = Part::kDeleted;
      next_ = 0;
    }
    if (part_ == Part::kDeleted) {
      const auto& deleted = shard->second.deleted;
      for (auto each = deleted.lower_bound(next_); each != deleted.end(); ++each) {
        if (!shard->second.Lists(each->first)) continue;
        if (!offer(each->second, each->first)) return true;
        next_ = each->first + 1;
      }
      part_ = Part::kGuilds;
      guild_ = 0;
    }
    const auto& guilds = shard->second.guilds;
    for (auto each = guilds.lower_bound(guild_); each != guilds.end(); ++each) {
      if (each->first != guild_) {
        guild_ = each->first;
        offset_ = 0;
      }
      const SnapshotIndex::Guild& guild = each->second;
      if (guild.create.offset >= position_) continue;
      if (offset_ <= guild.create.offset) {
        if (!offer(guild.create, guild_)) return true;
        offset_ = guild.create.offset + 1;
      }
      auto record = std::ranges::lower_bound(guild.tail, offset_, {}, &SnapshotRecord::offset);
      for (; record != guild.tail.end(); ++record) {
        if (!offer(*record, guild_)) return true;
        offset_ = record->offset + 1;
      }
    }
    // Behind all guilds of this shard.
    guild_ = ~uint64_t{0};
  }
  return false;
}

absl::StatusOr<SnapshotBatch> Snapshots::Reading::Next(const ReadLimits& limits) {
  SnapshotBatch batch;
  std::vector<Found> found;
  std::shared_ptr<SnapshotFile> file;
  if (at_end_) {
    batch.end = true;
    return batch;
  }
  {
    const std::lock_guard lock(snapshots_.mutex_);
    if (position_ < snapshots_.behind_switch_) {
      if (snapshots_.position_ < snapshots_.behind_switch_) {
        batch.wait = true;
        return batch;
      }
      StartOver(snapshots_.position_);
    }
    at_end_ = !Walk(snapshots_.index_, limits, &found);
    file = snapshots_.file_;
  }
  batch.end = at_end_;
  std::string record;
  for (const Found& each : found) {
    IndexEntry entry;
    auto status = file->Read(each.record.position, each.record.length, &entry, &record);
    if (status.ok() && entry.offset != each.record.offset) {
      status = absl::DataLossError("the snapshot has started afresh");
    }
    if (!status.ok()) {
      const std::lock_guard lock(snapshots_.mutex_);
      if (snapshots_.file_ == file) snapshots_.damaged_.push_back({each.shard, each.guild});
      return status;
    }
    if (filter_.has_value() && !filter_->Confirm(entry, record)) continue;
    if (limits.max_event_bytes > 0 && entry.data_size() > limits.max_event_bytes) {
      batch.bytes += WithoutData(record, entry);
    } else {
      batch.bytes += record;
    }
    ++batch.count;
  }
  return batch;
}

}  // namespace shardd::events
