#ifndef NSA_KERNELS_SIDE_COPIES_H_
#define NSA_KERNELS_SIDE_COPIES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/memory.h"

namespace nsa::kernels {

/// Copies between a device's memory (Backend::Allocate) and the host's that run beside the
/// operators. A copy begins behind everything that the backend was asked for before, and what it
/// is asked for later does not wait: until TakeEnded names the copy nobody may write what it reads,
/// nor touch what it writes. Copies of one direction run in the order of their calls, the two
/// directions side by side. Calls come from the backend's thread, and none waits but the end, for
/// all copies.
class SideCopies {
 public:
  enum class Direction : uint8_t { kToHost, kToDevice };
  struct Piece {
    std::byte* device = nullptr;
    std::byte* host = nullptr;  // of AllocateHost
    int64_t num_bytes = 0;
  };

  virtual ~SideCopies() = default;

  /// Memory of the host that copies go to and come from at full speed: it is taken at once, and
  /// stays in memory. Without data where there is not enough.
  virtual Memory AllocateHost(int64_t num_bytes) = 0;
  /// Starts to copy the pieces. `ticket` is the caller's own key.
  virtual void Start(Direction direction, std::span<const Piece> pieces, int64_t ticket) = 0;
  /// Overwrites host memory with zeros, as one of the copies to the host, without a ticket.
  virtual void Clear(std::byte* host, int64_t num_bytes) = 0;
  /// Tickets of those that have ended since the last call. Whatever is asked for from now on may
  /// rely on them.
  virtual std::vector<int64_t> TakeEnded() = 0;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_SIDE_COPIES_H_
