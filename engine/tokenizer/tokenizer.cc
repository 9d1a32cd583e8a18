#include "engine/tokenizer/tokenizer.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "engine/tokenizer/byte_bpe.h"
#include "engine/tokenizer/sentencepiece.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/weights/gguf.h"

namespace nsa::engine {

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file) {
  auto model = file.GetString("tokenizer.ggml.model");
  if (!model.ok()) return model.status();
  if (*model != "gpt2" && *model != "llama") {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tokenizer.ggml.model is \"%s\", expected \"gpt2\" (byte-level BPE) or "
                        "\"llama\" (SentencePiece)",
                        file.path(), *model));
  }
  auto vocabulary = ReadVocabulary(file);
  if (!vocabulary.ok()) return vocabulary.status();
  if (*model == "gpt2") return ByteBpe::Create(*std::move(vocabulary));
  return SentencePiece::FromVocabulary(*std::move(vocabulary));
}

}  // namespace nsa::engine
