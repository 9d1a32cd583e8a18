#ifndef NSA_TESTS_ENGINE_GGUF_BUILDER_H_
#define NSA_TESTS_ENGINE_GGUF_BUILDER_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace nsa::engine {

/// A file that its test owns.
class TempFile {
 public:
  explicit TempFile(std::string_view bytes = "") {
    const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
    // The process too: a test may run twice at once, and one that was killed leaves its files.
    path_ = testing::TempDir() + "nsa_" + std::to_string(getpid()) + "_" + test->test_suite_name() +
            "_" + test->name() + "_" + std::to_string(num_files_++);
    Write(bytes);
  }
  ~TempFile() { std::remove(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }
  void Write(std::string_view bytes) {
    std::ofstream file(path_, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

 private:
  static inline int num_files_ = 0;
  std::string path_;
};

/// The bytes of a GGUF file, right or wrong: each call adds one field at the end.
class GgufBuilder {
 public:
  static constexpr uint32_t kU8 = 0, kI8 = 1, kU16 = 2, kI16 = 3, kU32 = 4, kI32 = 5, kF32 = 6,
                            kBool = 7, kString = 8, kArray = 9, kU64 = 10, kI64 = 11, kF64 = 12;

  GgufBuilder& Header(uint32_t version, uint64_t num_tensors, uint64_t num_values) {
    bytes_ += "GGUF";
    return Put(version).Put(num_tensors).Put(num_values);
  }

  template <typename T>
  GgufBuilder& Put(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes_.append(raw, sizeof(T));
    return *this;
  }

  GgufBuilder& Text(std::string_view text) {
    Put(uint64_t{text.size()});
    bytes_ += text;
    return *this;
  }

  /// The value's bytes are the caller's to add.
  GgufBuilder& Key(std::string_view key, uint32_t type) { return Text(key).Put(type); }

  template <typename T>
  GgufBuilder& Value(std::string_view key, uint32_t type, T value) {
    return Key(key, type).Put(value);
  }

  GgufBuilder& TextValue(std::string_view key, std::string_view text) {
    return Key(key, kString).Text(text);
  }

  template <typename T>
  GgufBuilder& Array(std::string_view key, uint32_t type, const std::vector<T>& values) {
    Key(key, kArray).Put(type).Put(uint64_t{values.size()});
    for (const T value : values) Put(value);
    return *this;
  }

  GgufBuilder& TextArray(std::string_view key, const std::vector<std::string>& texts) {
    Key(key, kArray).Put(kString).Put(uint64_t{texts.size()});
    for (const std::string& text : texts) Text(text);
    return *this;
  }

  /// `sizes` as the file has them, fastest dimension first.
  GgufBuilder& Tensor(std::string_view name, const std::vector<uint64_t>& sizes, uint32_t type,
                      uint64_t offset) {
    Text(name).Put(static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) Put(size);
    return Put(type).Put(offset);
  }

  GgufBuilder& Pad(size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_ += '\0';
    return *this;
  }

  /// `count` bytes that differ from their neighbours.
  GgufBuilder& Data(size_t count) {
    for (size_t i = 0; i < count; ++i) bytes_ += static_cast<char>(bytes_.size() * 7 + 1);
    return *this;
  }

  size_t size() const { return bytes_.size(); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// A small right file: every type of value, an array of each, three tensors; its last byte is the
/// last tensor's. `header_bytes` is where the data section begins.
inline std::string SmallGguf(uint32_t version, size_t* header_bytes = nullptr) {
  using B = GgufBuilder;
  GgufBuilder file;
  file.Header(version, 3, 25).TextValue("general.architecture", "llama");
  file.Value("u8", B::kU8, uint8_t{200}).Value("i8", B::kI8, int8_t{-100});
  file.Value("u16", B::kU16, uint16_t{60000}).Value("i16", B::kI16, int16_t{-30000});
  file.Value("u32", B::kU32, uint32_t{4000000000}).Value("i32", B::kI32, int32_t{-2000000000});
  file.Value("u64", B::kU64, ~uint64_t{0}).Value("i64", B::kI64, int64_t{-1} << 63);
  file.Value("f32", B::kF32, 0.5f).Value("f64", B::kF64, 1e300);
  file.Value("bool", B::kBool, uint8_t{1});
  file.Array<uint8_t>("u8s", B::kU8, {0, 255}).Array<int8_t>("i8s", B::kI8, {-128, 127});
  file.Array<uint16_t>("u16s", B::kU16, {65535}).Array<int16_t>("i16s", B::kI16, {-32768});
  file.Array<uint32_t>("u32s", B::kU32, {1, 2}).Array<int32_t>("i32s", B::kI32, {-1, 1});
  file.Array<uint64_t>("u64s", B::kU64, {3}).Array<int64_t>("i64s", B::kI64, {-3});
  file.Array<float>("f32s", B::kF32, {1.5f}).Array<double>("f64s", B::kF64, {2.5, -2.5});
  file.Array<uint8_t>("bools", B::kBool, {1, 0}).TextArray("texts", {"", "ab", "c"});
  file.Value("general.alignment", B::kU32, uint32_t{16});
  file.Tensor("a", {32, 2}, 2, 0);               // Q4_0: 36 bytes, in 48
  file.Tensor("bb", {3}, 0, 48);                 // F32: 12 bytes, in 16
  file.Tensor("ccc", {5, 1, 2}, 1, 64).Pad(16);  // F16: 20 bytes
  if (header_bytes != nullptr) *header_bytes = file.size();
  return file.Data(84).bytes();
}

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_GGUF_BUILDER_H_
