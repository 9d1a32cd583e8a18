#include "server/security/api_key_file.h"

#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/log.h"

namespace nsa::server {
namespace {

constexpr std::streamsize kMaxBytes = 16 << 20;

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(1 << 16, '\0');
  std::string whole;
  while (file.read(text.data(), static_cast<std::streamsize>(text.size())), file.gcount() > 0) {
    whole.append(text.data(), static_cast<size_t>(file.gcount()));
    if (static_cast<std::streamsize>(whole.size()) > kMaxBytes) return std::nullopt;
  }
  if (!file.eof()) return std::nullopt;
  return whole;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ApiKeyFile>> ApiKeyFile::Open(const std::string& path) {
  auto file = absl::WrapUnique(new ApiKeyFile(path));
  std::optional<std::string> text = ReadFile(path);
  if (!text.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--api_keys_file: cannot read '", path, "' (16 MiB at most)"));
  }
  auto keys = ApiKeys::Parse(*text);
  if (!keys.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--api_keys_file '", path, "': ", keys.status().message()));
  }
  file->text_ = *std::move(text);
  const absl::MutexLock lock(&file->mutex_);
  file->keys_ = std::make_shared<const ApiKeys>(*std::move(keys));
  return file;
}

void ApiKeyFile::Refresh() {
  std::optional<std::string> text = ReadFile(path_);
  if (text.value_or("") == text_) return;
  text_ = std::move(text).value_or("");
  auto keys = ApiKeys::Parse(text_);
  if (!keys.ok()) {
    LOG(ERROR) << "the file of API keys has changed and is wrong (" << keys.status().message()
               << "); the keys before stay";
    return;
  }
  LOG(INFO) << "API keys: " << keys->size();
  const absl::MutexLock lock(&mutex_);
  keys_ = std::make_shared<const ApiKeys>(*std::move(keys));
}

std::string ApiKeyFile::NameOf(std::string_view key) const {
  std::shared_ptr<const ApiKeys> keys;
  {
    const absl::MutexLock lock(&mutex_);
    keys = keys_;
  }
  return keys->NameOf(key);
}

}  // namespace nsa::server
