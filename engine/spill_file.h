#ifndef NSA_ENGINE_SPILL_FILE_H_
#define NSA_ENGINE_SPILL_FILE_H_

#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/page_tier.h"

namespace nsa::engine {

/// The system's calls on a file; tests break them. Called by the file's own thread.
class FileIo {
 public:
  virtual ~FileIo() = default;
  virtual ssize_t Write(int file, const std::byte* data, size_t num_bytes, off_t offset);
  virtual ssize_t Read(int file, std::byte* data, size_t num_bytes, off_t offset);
};

/// Pages in a file of a folder. It holds what people wrote, so nobody finds it there: it has mode
/// 0600 and no name from the start (or loses it at once, where the file system knows no such
/// files), and is gone with the process however that ends. Moves run on a thread of their own, in
/// the order in which they were started.
class SpillFile final : public PageTier {
 public:
  struct Options {
    std::string folder;
    int64_t block_bytes = 0;
    int32_t num_blocks = 0;
    int32_t num_layers = 1;      // equal parts of a block
    std::unique_ptr<FileIo> io;  // null: the system's
  };
  /// The parts of a page's content, which stand one behind the other in its block, those of a layer
  /// together. Called by the file's thread.
  using PartsOf = std::function<std::vector<std::span<std::byte>>(int32_t page)>;

  /// InvalidArgument where no file can be made there; ResourceExhausted where the folder's disk has
  /// less room than all blocks take.
  static absl::StatusOr<std::unique_ptr<SpillFile>> Create(Options options, PartsOf parts);
  ~SpillFile() override;

  void Start(const PageMove& move) override;
  std::vector<PageMove> TakeEnded() override;
  void Erase(const std::vector<int32_t>& blocks) override;
  void set_on_ended(const std::function<void()>& on_ended) override { on_ended_ = on_ended; }

 private:
  /// A move, or blocks to erase.
  struct Task {
    PageMove move;
    std::vector<int32_t> erased;
  };
  SpillFile(int file, Options options, PartsOf parts);
  void Loop();
  absl::Status Run(const PageMove& move);
  absl::Status RunOnce(const PageMove& move);
  absl::Status Transfer(std::span<std::byte> part, off_t offset, bool out);
  void EraseNow(const std::vector<int32_t>& blocks);

  const int file_;
  const Options options_;
  const PartsOf parts_;
  std::function<void()> on_ended_ = [] {};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  std::vector<PageMove> ended_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SPILL_FILE_H_
