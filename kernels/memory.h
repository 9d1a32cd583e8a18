#ifndef NSA_KERNELS_MEMORY_H_
#define NSA_KERNELS_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace nsa::kernels {

/// Memory that the operators of a backend may be given. Owns it; may outlive the backend.
class Memory {
 public:
  using Release = void (*)(std::byte* data, int64_t num_bytes);

  Memory() = default;
  Memory(std::byte* data, int64_t num_bytes, Release release)
      : data_(data), num_bytes_(num_bytes), release_(release) {}
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        num_bytes_(std::exchange(other.num_bytes_, 0)),
        release_(other.release_) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) release_(data_, num_bytes_);
  }

  std::byte* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  std::byte* data_ = nullptr;  // null: none, or there was not enough
  int64_t num_bytes_ = 0;
  Release release_ = nullptr;
};

/// Zeroed memory of this machine, 64-byte aligned: address space at once, in large pages where the
/// system gives them; pages of it as they are first written. Without data where there is not
/// enough.
Memory AllocateHost(int64_t num_bytes);

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_MEMORY_H_
