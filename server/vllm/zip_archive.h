#ifndef NSA_SERVER_VLLM_ZIP_ARCHIVE_H_
#define NSA_SERVER_VLLM_ZIP_ARCHIVE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::server {

/// A zip archive (PKWARE's APPNOTE 6.3.3) of files that are stored as they are: who wants them
/// small lets gRPC compress. (name, content), names without folders. InvalidArgument over 2 GiB,
/// where the format would need its 64-bit form.
absl::StatusOr<std::string> MakeZip(
    const std::vector<std::pair<std::string_view, std::string_view>>& files);

/// CRC-32 as zip and Ethernet have it (polynomial 0x04C11DB7, reflected).
uint32_t Crc32(std::string_view bytes);

}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_ZIP_ARCHIVE_H_
