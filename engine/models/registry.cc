#include "engine/models/registry.h"

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/models/llama.h"
#include "engine/text.h"

namespace nsa::engine {
namespace {

/// A family file's two entry points.
struct Family {
  std::string_view architecture;  // GGUF's general.architecture
  absl::StatusOr<ModelConfig> (*read_config)(const GgufFile&);
  absl::StatusOr<std::unique_ptr<Model>> (*load)(const GgufFile&, kernels::Backend&,
                                                 const LoadProgress&);
};

constexpr Family kFamilies[] = {
    {"llama", ReadLlamaConfig, LoadLlama},
};

absl::StatusOr<const Family*> FindFamily(const GgufFile& file) {
  const absl::StatusOr<std::string_view> architecture = file.GetString("general.architecture");
  if (!architecture.ok()) return architecture.status();
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.architecture == *architecture) return &family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", View(family.architecture));
  }
  return absl::UnimplementedError(absl::StrCat(file.path(), ": general.architecture is '",
                                               View(*architecture),
                                               "'; this server knows: ", known));
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const GgufFile& file) {
  const absl::StatusOr<const Family*> family = FindFamily(file);
  if (!family.ok()) return family.status();
  return (*family)->read_config(file);
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const GgufFile& file, kernels::Backend& backend,
                                                 const LoadProgress& progress) {
  const absl::StatusOr<const Family*> family = FindFamily(file);
  if (!family.ok()) return family.status();
  return (*family)->load(file, backend, progress);
}

}  // namespace nsa::engine
