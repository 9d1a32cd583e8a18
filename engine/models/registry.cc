#include "engine/models/registry.h"

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/models/gemma3.h"
#include "engine/models/llama.h"
#include "engine/models/minicpm.h"
#include "engine/models/nsa.h"
#include "engine/models/nsa_paper.h"
#include "engine/models/qwen.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

constexpr Family kFamilies[] = {
    {"llama", DescribeLlamaGguf, "llama", DescribeLlamaFolder},
    {"", nullptr, "mistral", DescribeMistralFolder},
    {"qwen2", DescribeQwen2Gguf, "qwen2", DescribeQwen2Folder},
    {"qwen3", DescribeQwen3Gguf, "qwen3", DescribeQwen3Folder},
    {"gemma3", DescribeGemma3Gguf, "gemma3_text", DescribeGemma3Folder},
    {"", nullptr, "minicpm", DescribeMiniCpmFolder},
    {"", nullptr, "gemma3", DescribeGemma3ImageFolder},
    {"", nullptr, "nsa", DescribeFlaNsaFolder},
    {"", nullptr, "llama-nsa", DescribeLlamaNsaFolder},
    {"", nullptr, "nsa_paper", DescribeNsaPaperFolder},
};

/// The family whose `word` member is what the checkpoint says under `key`.
absl::StatusOr<const Family*> FindFamily(const ConfigSource& source, std::string_view key,
                                         std::string_view Family::* word) {
  const absl::StatusOr<std::string_view> found = source.GetString(key);
  if (!found.ok()) return found.status();
  std::string known;
  for (const Family& family : kFamilies) {
    if ((family.*word).empty()) continue;
    if (family.*word == *found) return &family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", View(family.*word));
  }
  return absl::UnimplementedError(absl::StrCat(source.path(), ": ", View(key), " is ",
                                               Quoted(*found), "; this server knows: ", known));
}

/// Rotations that cannot be made are said here, not after all weights have been packed.
absl::StatusOr<DecoderDescription> WithCheckedRopes(absl::StatusOr<DecoderDescription> description,
                                                    const ConfigSource& source) {
  if (!description.ok()) return description;
  for (const RopeParameters& rope : description->config.ropes) {
    const auto made = MakeFrequencies(rope, description->config.trained_context);
    if (made.ok()) continue;
    return absl::Status(made.status().code(),
                        absl::StrCat(source.path(), ": ", made.status().message()));
  }
  return description;
}

}  // namespace

absl::StatusOr<DecoderDescription> DescribeModel(const Checkpoint& checkpoint) {
  if (checkpoint.gguf() != nullptr) {
    const auto family =
        FindFamily(*checkpoint.gguf(), "general.architecture", &Family::architecture);
    if (!family.ok()) return family.status();
    return WithCheckedRopes((*family)->from_gguf(*checkpoint.gguf()), *checkpoint.gguf());
  }
  const auto family = FindFamily(checkpoint.folder()->config(), "model_type", &Family::model_type);
  if (!family.ok()) return family.status();
  return WithCheckedRopes((*family)->from_folder(*checkpoint.folder()),
                          checkpoint.folder()->config());
}

}  // namespace nsa::engine
