#ifndef NSA_KERNELS_ARRAY_H_
#define NSA_KERNELS_ARRAY_H_

#include <cstdint>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/backend.h"
#include "kernels/memory.h"

namespace nsa::kernels {

/// Elements in a backend's memory: what operators read and write. Only a backend that works in the
/// memory of this machine lets others touch them; Backend::Read and Write serve all. Throws
/// std::bad_alloc where there is not enough.
template <typename T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Array() = default;
  /// `size` zeros.
  Array(Backend& backend, int64_t size) : size_(size) {
    if (size == 0) return;
    memory_ = backend.Allocate(num_bytes());
    if (memory_.data() == nullptr) throw std::bad_alloc();
  }
  /// A copy of `values`.
  Array(Backend& backend, std::span<const T> values)
      : Array(backend, static_cast<int64_t>(values.size())) {
    if (size_ > 0) backend.Write(memory_.data(), values.data(), num_bytes());
  }

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }  // null where there are none
  int64_t size() const { return size_; }
  int64_t num_bytes() const { return size_ * static_cast<int64_t>(sizeof(T)); }
  bool empty() const { return size_ == 0; }

  /// Copies all to the host, after everything that was asked of the backend before.
  std::vector<T> Read(Backend& backend) const {
    std::vector<T> values(static_cast<size_t>(size_));
    if (size_ > 0) backend.Read(values.data(), memory_.data(), num_bytes());
    return values;
  }

 private:
  Memory memory_;
  int64_t size_ = 0;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_ARRAY_H_
