#ifndef NSA_SERVER_VLLM_TOKENIZER_BUNDLE_H_
#define NSA_SERVER_VLLM_TOKENIZER_BUNDLE_H_

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace nsa::server {

/// An engine's tokenizer as an archive.
struct TokenizerArchive {
  std::string zip;
  std::string sha256;  // 64 hexadecimal digits
};

/// Makes it when it is first asked for, and keeps it. Any thread; may take a second.
class TokenizerBundle {
 public:
  /// `engine` outlives it.
  explicit TokenizerBundle(const engine::Engine* engine) : engine_(engine) {}

  /// Errors of Engine::ExportTokenizer.
  absl::StatusOr<std::shared_ptr<const TokenizerArchive>> Get();

 private:
  const engine::Engine* const engine_;
  std::mutex mutex_;
  std::shared_ptr<const TokenizerArchive> archive_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_TOKENIZER_BUNDLE_H_
