#include "server/vllm/tokenizer_bundle.h"

#include <openssl/sha.h>

#include <array>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "server/vllm/zip_archive.h"

namespace nsa::server {
namespace {

std::string Sha256(const std::string& bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TokenizerArchive>> TokenizerBundle::Get() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (archive_ != nullptr) return archive_;
  const auto files = engine_->ExportTokenizer();
  if (!files.ok()) return files.status();
  std::vector<std::pair<std::string_view, std::string_view>> views;
  for (const engine::TokenizerFile& file : *files) views.emplace_back(file.name, file.bytes);
  auto zip = MakeZip(views);
  if (!zip.ok()) return zip.status();
  auto archive = std::make_shared<TokenizerArchive>();
  archive->sha256 = Sha256(*zip);
  archive->zip = *std::move(zip);
  archive_ = std::move(archive);
  return archive_;
}

}  // namespace nsa::server
