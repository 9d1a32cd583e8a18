#include "server/vllm/zip_archive.h"

#include <array>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace nsa::server {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 31;
constexpr uint32_t kLocalHeader = 0x04034B50;
constexpr uint32_t kCentralHeader = 0x02014B50;
constexpr uint32_t kEnd = 0x06054B50;
constexpr uint16_t kVersion = 20;           // that a reader needs: 2.0
constexpr uint16_t kUtf8Names = 1U << 11U;  // flag
constexpr uint16_t kStored = 0;             // method
// Equal contents make equal archives: 1 January 1980, the first day of the format.
constexpr uint16_t kTime = 0;
constexpr uint16_t kDate = 0x21;

void Append16(std::string& bytes, uint16_t value) {
  for (int shift = 0; shift < 16; shift += 8) bytes.push_back(static_cast<char>(value >> shift));
}

void Append32(std::string& bytes, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(value >> shift));
}

/// What both headers of a file have in common.
void AppendCommon(std::string& bytes, std::string_view name, std::string_view content,
                  uint32_t crc) {
  Append16(bytes, kVersion);
  Append16(bytes, kUtf8Names);
  Append16(bytes, kStored);
  Append16(bytes, kTime);
  Append16(bytes, kDate);
  Append32(bytes, crc);
  Append32(bytes, static_cast<uint32_t>(content.size()));  // compressed
  Append32(bytes, static_cast<uint32_t>(content.size()));
  Append16(bytes, static_cast<uint16_t>(name.size()));
  Append16(bytes, 0);  // no extra field
}

}  // namespace

uint32_t Crc32(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; ++bit)
        value = (value & 1) != 0 ? value >> 1 ^ 0xEDB88320U : value >> 1;
      made[byte] = value;
    }
    return made;
  }();
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = table[(crc ^ static_cast<uint8_t>(c)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

absl::StatusOr<std::string> MakeZip(
    const std::vector<std::pair<std::string_view, std::string_view>>& files) {
  uint64_t num_bytes = 0;
  for (const auto& [name, content] : files) num_bytes += 2 * name.size() + content.size() + 128;
  if (num_bytes > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("files have ", num_bytes, " bytes, expected at most ", kMaxBytes));
  }
  std::string archive, directory;
  archive.reserve(num_bytes);
  for (const auto& [name, content] : files) {
    const auto offset = static_cast<uint32_t>(archive.size());
    const uint32_t crc = Crc32(content);
    Append32(archive, kLocalHeader);
    AppendCommon(archive, name, content, crc);
    archive.append(name).append(content);
    Append32(directory, kCentralHeader);
    Append16(directory, kVersion);  // made by
    AppendCommon(directory, name, content, crc);
    Append16(directory, 0);  // no comment
    Append16(directory, 0);  // on this disk
    Append16(directory, 0);  // internal attributes
    Append32(directory, 0);  // external ones
    Append32(directory, offset);
    directory.append(name);
  }
  const auto begin = static_cast<uint32_t>(archive.size());
  archive.append(directory);
  Append32(archive, kEnd);
  Append32(archive, 0);  // one disk
  Append16(archive, static_cast<uint16_t>(files.size()));
  Append16(archive, static_cast<uint16_t>(files.size()));
  Append32(archive, static_cast<uint32_t>(directory.size()));
  Append32(archive, begin);
  Append16(archive, 0);  // no comment
  return archive;
}

}  // namespace nsa::server
