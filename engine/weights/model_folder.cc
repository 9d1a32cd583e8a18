#include "engine/weights/model_folder.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";

std::string Join(const std::string& folder, std::string_view name) {
  return (std::filesystem::path(folder) / name).string();
}

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

/// A name that stays in the folder, and that a file system takes.
bool IsPlainName(std::string_view name) {
  constexpr size_t kMaxBytes = 255;
  const auto is_odd = [](char c) { return c == '/' || static_cast<uint8_t>(c) < ' '; };
  return !name.empty() && name.size() <= kMaxBytes && name != "." && name != ".." &&
         std::ranges::none_of(name, is_odd);
}

/// The shard of each tensor, from an index's "weight_map".
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const JsonConfig& index) {
  const nlohmann::json& document = index.document();
  const auto map = document.find("weight_map");
  if (map == document.end() || !map->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(index.path(), ": field 'weight_map' is missing or no object"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainName(shard.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(index.path(), ": weight_map of ", Quoted(name), " is ",
                       Quoted(shard.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)),
                       ", expected a file's name in this folder"));
    }
    shards.emplace(name, shard.get<std::string>());
  }
  return shards;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFolder>> ModelFolder::Open(const std::string& path) {
  auto config = JsonConfig::Read(Join(path, "config.json"));
  if (!config.ok()) return config.status();
  auto folder = absl::WrapUnique(new ModelFolder(path, *std::move(config)));
  if (absl::Status status = folder->OpenWeights(); !status.ok()) return status;
  return folder;
}

std::optional<std::string> ModelFolder::FindFile(const std::string& name) const {
  std::string file = Join(path(), name);
  if (!Exists(file)) return std::nullopt;
  return file;
}

absl::StatusOr<std::optional<JsonConfig>> ModelFolder::ReadJson(const std::string& name) const {
  const auto file = FindFile(name);
  if (!file.has_value()) return std::nullopt;
  auto read = JsonConfig::Read(*file);
  if (!read.ok()) return read.status();
  return *std::move(read);
}

int64_t ModelFolder::weight_bytes() const {
  int64_t num_bytes = 0;
  for (const auto& file : files_) num_bytes += file->file_bytes();
  return num_bytes;
}

absl::Status ModelFolder::OpenWeights() {
  if (const auto single = FindFile(std::string(kSingleFile)); single.has_value()) {
    auto file = SafetensorsFile::Open(*single);
    if (!file.ok()) return file.status();
    for (const WeightTensor& tensor : (*file)->tensors()) weights_.Add(tensor);
    files_.push_back(*std::move(file));
    return absl::OkStatus();
  }
  const auto index = ReadJson(std::string(kIndex));
  if (!index.ok()) return index.status();
  if (index->has_value()) return OpenShards(**index);
  const bool pickle =
      FindFile("pytorch_model.bin").has_value() || FindFile("pytorch_model.bin.index.json");
  return absl::NotFoundError(absl::StrCat(
      path(), ": neither ", View(kSingleFile), " nor ", View(kIndex),
      pickle ? "; pytorch_model.bin is not read, as a pickle can run code: convert it" : ""));
}

absl::Status ModelFolder::OpenShards(const JsonConfig& index) {
  const auto shards = ReadIndex(index);
  if (!shards.ok()) return shards.status();
  std::map<std::string, const SafetensorsFile*> opened;
  for (const auto& [tensor, shard] : *shards) {
    if (opened.contains(shard)) continue;
    auto file = SafetensorsFile::Open(Join(path(), shard));
    if (!file.ok()) return file.status();
    opened[shard] = file->get();
    files_.push_back(*std::move(file));
  }
  for (const auto& [shard, file] : opened) {
    for (const WeightTensor& tensor : file->tensors()) {
      // What the index does not give to this file does not count, as for the reference.
      const auto it = shards->find(std::string(tensor.name));
      if (it != shards->end() && it->second == shard) weights_.Add(tensor);
    }
  }
  for (const auto& [tensor, shard] : *shards) {
    if (weights_.Find(tensor) != nullptr) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(index.path(), ": tensor ", Quoted(tensor), " is not in ", Quoted(shard)));
  }
  return absl::OkStatus();
}

}  // namespace nsa::engine
