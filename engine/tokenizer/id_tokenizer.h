#ifndef NSA_ENGINE_TOKENIZER_ID_TOKENIZER_H_
#define NSA_ENGINE_TOKENIZER_ID_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace nsa::engine {

/// Text that is token ids in angle brackets: "<17><4>". For builds without tokenizers
/// (NSA_BUILD_TOKENIZERS=OFF), whose requests come as ids: checks and benches on a GPU. No token is
/// special.
class IdTokenizer final : public Tokenizer {
 public:
  /// `stop_ids` that the vocabulary lacks are left out.
  IdTokenizer(int32_t vocabulary_size, std::vector<int32_t> stop_ids);

  /// The ids that stand in the text; what is no such id, or outside of the vocabulary, is skipped.
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string TokenBytes(int32_t id) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override;
  int32_t vocabulary_size() const override { return vocabulary_size_; }
  bool IsSpecial(int32_t) const override { return false; }
  int32_t bos_id() const override { return -1; }
  const std::vector<int32_t>& stop_ids() const override { return stop_ids_; }
  std::string kind() const override { return "ids"; }
  bool strips_leading_space() const override { return false; }

 private:
  int32_t vocabulary_size_;
  std::vector<int32_t> stop_ids_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_ID_TOKENIZER_H_
