#ifndef NSA_ENGINE_TOKENIZER_SENTENCEPIECE_C_API_H_
#define NSA_ENGINE_TOKENIZER_SENTENCEPIECE_C_API_H_

#include <stddef.h>
#include <stdint.h>

// All that leaves the SentencePiece library of engine/sentencepiece.cmake. Plain C: both sides have
// their own copies of protobuf, Abseil and the standard library's templates, so no C++ type and no
// exception may cross.

extern "C" {

/// A piece of the model to build, and of a model that is loaded.
struct NsaSpmPiece {
  const char* text;
  size_t num_bytes;
  float score;
  int32_t type;  // as nsa::engine::TokenType
};

struct NsaSpmOptions {
  int32_t add_dummy_prefix;
};

struct NsaSpmModel;

/// From a serialised ModelProto. Null and a message in `error` (ended by 0, cut to `error_size`)
/// where it is not one.
NsaSpmModel* nsa_spm_load(const char* bytes, size_t num_bytes, char* error, size_t error_size);

/// A BPE model of these pieces, in the order of their ids, with identity normalisation and no space
/// removed. Byte fallback is on where there are byte pieces.
NsaSpmModel* nsa_spm_build_bpe(const NsaSpmPiece* pieces, size_t num_pieces,
                               const NsaSpmOptions* options, char* error, size_t error_size);

void nsa_spm_free(NsaSpmModel* model);

// Of a loaded model; all may be called from any thread.

int32_t nsa_spm_num_pieces(const NsaSpmModel* model);
/// `id` is in range. The text lives as long as the model.
NsaSpmPiece nsa_spm_piece(const NsaSpmModel* model, int32_t id);
/// −1: none.
int32_t nsa_spm_bos_id(const NsaSpmModel* model);
int32_t nsa_spm_eos_id(const NsaSpmModel* model);
/// Whether decoding drops a first piece's leading space.
int32_t nsa_spm_strips_leading_space(const NsaSpmModel* model);
/// "unigram", "bpe", "word" or "char".
const char* nsa_spm_algorithm(const NsaSpmModel* model);

/// Calls `sink(context, ids, num_ids)` once. 0 where encoding failed, which only a lack of memory
/// or more than 2^31 bytes of text can do.
int32_t nsa_spm_encode(const NsaSpmModel* model, const char* text, size_t num_bytes,
                       void (*sink)(void* context, const int32_t* ids, size_t num_ids),
                       void* context);

}  // extern "C"

#endif  // NSA_ENGINE_TOKENIZER_SENTENCEPIECE_C_API_H_
