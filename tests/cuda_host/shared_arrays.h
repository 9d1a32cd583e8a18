#ifndef NSA_TESTS_CUDA_HOST_SHARED_ARRAYS_H_
#define NSA_TESTS_CUDA_HOST_SHARED_ARRAYS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nsa::cuda_host {

/// One array in shared memory, alone in its allocation, so that its neighbours are redzones.
class SharedArray {
 public:
  SharedArray(std::string_view file, int64_t line, int64_t bytes, int fill)
      : file_(file), line_(line), bytes_(bytes), data_(Allocate(bytes)) {
    std::memset(data_.get(), fill, static_cast<size_t>(bytes));
  }
  bool Is(std::string_view file, int64_t line) const { return line_ == line && file_ == file; }
  bool Holds(const void* address, int64_t bytes) const {
    const auto* begin = static_cast<const std::byte*>(address);
    return begin >= data_.get() && begin + bytes <= data_.get() + bytes_;
  }
  int64_t line() const { return line_; }
  int64_t bytes() const { return bytes_; }
  void* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{16};
  struct Delete {
    void operator()(std::byte* data) const { ::operator delete[](data, kAlignment); }
  };
  static std::byte* Allocate(int64_t bytes) {
    return static_cast<std::byte*>(::operator new[](static_cast<size_t>(bytes), kAlignment));
  }
  std::string_view file_;  // of its declaration, with static storage
  int64_t line_;
  int64_t bytes_;
  std::unique_ptr<std::byte, Delete> data_;
};

/// The shared memory of a CTA, array by array as threads first come by their declarations.
class SharedArrays {
 public:
  void Clear() { arrays_.clear(); }

  /// Of the array that is declared there, as it was first asked for; null: not yet.
  const SharedArray* Find(std::string_view file, int64_t line) const {
    for (const SharedArray& array : arrays_) {
      if (array.Is(file, line)) return &array;
    }
    return nullptr;
  }
  const SharedArray& Add(std::string_view file, int64_t line, int64_t bytes, int fill) {
    return arrays_.emplace_back(file, line, bytes, fill);
  }
  bool Hold(const void* address, int64_t bytes) const {
    for (const SharedArray& array : arrays_) {
      if (array.Holds(address, bytes)) return true;
    }
    return false;
  }
  /// Of arrays of this file (the empty name: of all), each rounded up to 16.
  int64_t TotalBytes(std::string_view file) const {
    int64_t total = 0;
    for (const SharedArray& array : arrays_) {
      if (file.empty() || array.Is(file, array.line())) total += (array.bytes() + 15) / 16 * 16;
    }
    return total;
  }

 private:
  std::vector<SharedArray> arrays_;
};

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_SHARED_ARRAYS_H_
