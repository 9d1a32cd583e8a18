#include "engine/spill_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/log.h"
#include "engine/thread_name.h"

namespace nsa::engine {
namespace {

constexpr int kReadAttempts = 3;

/// A file without a name, or −1 with errno.
int OpenNameless(const std::string& folder) {
  const int file = open(folder.c_str(), O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
  // Kernels and file systems that do not know O_TMPFILE say so in one of these ways.
  if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return file;
  std::string path = folder + "/nsa-kv-XXXXXX";
  const int named = mkostemp(path.data(), O_CLOEXEC);  // mode 0600
  if (named >= 0 && unlink(path.c_str()) != 0) {
    const int error = errno;
    close(named);
    errno = error;
    return -1;
  }
  return named;
}

}  // namespace

ssize_t FileIo::Write(int file, const std::byte* data, size_t num_bytes, off_t offset) {
  return pwrite(file, data, num_bytes, offset);
}

ssize_t FileIo::Read(int file, std::byte* data, size_t num_bytes, off_t offset) {
  return pread(file, data, num_bytes, offset);
}

absl::StatusOr<std::unique_ptr<SpillFile>> SpillFile::Create(Options options, PartsOf parts) {
  const int file = OpenNameless(options.folder);
  if (file < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv_spill_dir is '", options.folder,
                     "': no file can be made there: ", std::strerror(errno)));
  }
  struct statvfs disk{};
  if (fstatvfs(file, &disk) == 0) {
    const auto room = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
    const int64_t wanted = options.block_bytes * options.num_blocks;
    if (room < wanted) {
      close(file);
      return absl::ResourceExhaustedError(
          absl::StrCat("--kv_spill_gib asks for ", wanted, " bytes, and '", options.folder,
                       "' has room for ", room, "; lower --kv_spill_gib"));
    }
  }
  if (options.io == nullptr) options.io = std::make_unique<FileIo>();
  return absl::WrapUnique(new SpillFile(file, std::move(options), std::move(parts)));
}

SpillFile::SpillFile(int file, Options options, PartsOf parts)
    : file_(file), options_(std::move(options)), parts_(std::move(parts)) {
  thread_ = std::thread([this] { Loop(); });
}

SpillFile::~SpillFile() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
  close(file_);
}

void SpillFile::Start(const PageMove& move) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back({.move = move, .erased = {}});
  }
  wake_.notify_all();
}

std::vector<PageMove> SpillFile::TakeEnded() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(ended_, {});
}

void SpillFile::Erase(const std::vector<int32_t>& blocks) {
  if (blocks.empty()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back({.move = PageMove(), .erased = blocks});
  }
  wake_.notify_all();
}

void SpillFile::Loop() {
  NameThread("nsa-spill");
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
    if (stop_) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    if (!task.erased.empty()) {
      EraseNow(task.erased);
      lock.lock();
      continue;
    }
    task.move.status = Run(task.move);
    lock.lock();
    ended_.push_back(std::move(task.move));
    lock.unlock();
    on_ended_();
    lock.lock();
  }
}

absl::Status SpillFile::Run(const PageMove& move) {
  // What a read brings is nowhere else, so it is tried again; what was to be written still is.
  absl::Status status = RunOnce(move);
  for (int i = 1; i < kReadAttempts && !move.out && !status.ok(); ++i) status = RunOnce(move);
  return status;
}

absl::Status SpillFile::RunOnce(const PageMove& move) {
  const std::vector<std::span<std::byte>> all = parts_(move.page);
  std::span<const std::span<std::byte>> parts(all);
  off_t offset = move.block * options_.block_bytes;
  if (move.layer >= 0) {
    const size_t num_parts = parts.size() / static_cast<size_t>(options_.num_layers);
    parts = parts.subspan(static_cast<size_t>(move.layer) * num_parts, num_parts);
    offset += move.layer * (options_.block_bytes / options_.num_layers);
  }
  for (const std::span<std::byte> part : parts) {
    if (absl::Status status = Transfer(part, offset, move.out); !status.ok()) return status;
    offset += static_cast<off_t>(part.size());
  }
  return absl::OkStatus();
}

absl::Status SpillFile::Transfer(std::span<std::byte> part, off_t offset, bool out) {
  while (!part.empty()) {
    FileIo& io = *options_.io;
    const ssize_t done = out ? io.Write(file_, part.data(), part.size(), offset)
                             : io.Read(file_, part.data(), part.size(), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      const char* why = done < 0 ? std::strerror(errno) : "the file ends too early";
      return absl::UnavailableError(
          absl::StrCat(out ? "writing " : "reading ", part.size(), " bytes: ", why));
    }
    part = part.subspan(static_cast<size_t>(done));
    offset += done;
  }
  return absl::OkStatus();
}

void SpillFile::EraseNow(const std::vector<int32_t>& blocks) {
  const std::vector<std::byte> zeros(size_t{64} << 10);
  struct stat info{};
  if (fstat(file_, &info) != 0) info.st_size = 0;
  for (const int32_t block : blocks) {
    const off_t begin = block * options_.block_bytes;
    const off_t end = std::min<off_t>(begin + options_.block_bytes, info.st_size);
    if (begin >= end) continue;
    if (fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, end - begin) == 0) {
      continue;
    }
    for (off_t at = begin; at < end;) {  // no holes on this file system
      const size_t size = std::min(zeros.size(), static_cast<size_t>(end - at));
      const ssize_t written = pwrite(file_, zeros.data(), size, at);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        LOG(ERROR) << "KV spill: a block could not be erased: " << std::strerror(errno);
        break;
      }
      at += written;
    }
  }
}

}  // namespace nsa::engine
