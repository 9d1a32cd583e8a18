#include "engine/weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace nsa::engine {
namespace {

absl::Status FromErrno(const std::string& path, const char* action) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", action, " ", path));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe would wait for a writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return FromErrno(path, "open");
  struct stat info{};
  absl::Status status;
  void* memory = MAP_FAILED;
  if (fstat(descriptor, &info) != 0) {
    status = FromErrno(path, "read");
  } else if (!S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(absl::StrCat(path, " is no regular file"));
  } else if (info.st_size == 0) {
    status = absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
  } else {
    memory =
        mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (memory == MAP_FAILED) status = FromErrno(path, "map");
  }
  close(descriptor);
  if (!status.ok()) return status;
  return absl::WrapUnique(
      new MappedFile(static_cast<const std::byte*>(memory), static_cast<size_t>(info.st_size)));
}

void ReleaseMapped(const void* data, int64_t num_bytes) {
  const auto page = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  // Whole pages alone: a neighbour's bytes stay.
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data));
  const int64_t before = (page - address % page) % page;
  const int64_t size = (num_bytes - before) / page * page;
  if (size <= 0) return;
  auto* begin = const_cast<std::byte*>(static_cast<const std::byte*>(data)) + before;
  // Advice only: failure changes nothing.
  (void)madvise(begin, static_cast<size_t>(size), MADV_DONTNEED);
}

MappedFile::~MappedFile() { munmap(const_cast<std::byte*>(data_), size_); }

}  // namespace nsa::engine
