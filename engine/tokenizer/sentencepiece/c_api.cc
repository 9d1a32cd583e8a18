#include "engine/tokenizer/sentencepiece/c_api.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// SentencePiece's headers define absl::string_view themselves: no Abseil header here.
#include "builtin_pb/sentencepiece_model.pb.h"
#include "sentencepiece_processor.h"

namespace {

using sentencepiece::ModelProto;
using sentencepiece::TrainerSpec;

void SetError(const char* message, char* error, size_t error_size) {
  if (error_size == 0) return;
  const size_t num_bytes = std::min(std::strlen(message), error_size - 1);
  std::memcpy(error, message, num_bytes);
  error[num_bytes] = 0;
}

constexpr int32_t kByteType = 6;

/// Whether no step through the trie of a table of characters leaves it: SentencePiece follows its
/// units' offsets unchecked. The table is the trie's size in bytes, its units of 32 bits, and
/// texts. A unit leads to where its own index xor its offset xor the next byte is; one with the
/// highest bit is a value and leads nowhere.
bool TrieStaysInside(const std::string& table) {
  uint32_t num_bytes = 0;
  if (table.size() < sizeof(num_bytes)) return true;  // SentencePiece sees to the sizes
  std::memcpy(&num_bytes, table.data(), sizeof(num_bytes));
  if (num_bytes > table.size() - sizeof(num_bytes)) return true;
  const uint32_t num_units = num_bytes / sizeof(uint32_t);
  for (uint32_t i = 0; i < num_units; ++i) {
    uint32_t unit = 0;
    std::memcpy(&unit, table.data() + (i + 1) * sizeof(unit), sizeof(unit));
    const bool is_value = i > 0 && unit >> 31 != 0;
    const uint32_t offset = (unit >> 10) << ((unit & 0x200) >> 6);
    if (!is_value && ((i ^ offset) | 0xFF) >= num_units) return false;
  }
  return true;
}

}  // namespace

struct NsaSpmModel {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

NsaSpmModel* Load(std::unique_ptr<ModelProto> proto, char* error, size_t error_size) {
  auto model = std::make_unique<NsaSpmModel>();
  const auto status = model->processor.Load(std::move(proto));
  if (!status.ok()) {
    SetError(status.error_message(), error, error_size);
    return nullptr;
  }
  return model.release();
}

}  // namespace

NsaSpmModel* nsa_spm_load(const char* bytes, size_t num_bytes, char* error, size_t error_size) try {
  auto proto = std::make_unique<ModelProto>();
  if (num_bytes > INT32_MAX || !proto->ParseFromArray(bytes, static_cast<int>(num_bytes))) {
    SetError("not a SentencePiece ModelProto", error, error_size);
    return nullptr;
  }
  if (proto->pieces_size() == 0) {
    SetError("the ModelProto has no pieces", error, error_size);
    return nullptr;
  }
  if (!TrieStaysInside(proto->normalizer_spec().precompiled_charsmap()) ||
      !TrieStaysInside(proto->denormalizer_spec().precompiled_charsmap())) {
    SetError("the trie of its precompiled_charsmap points outside of itself", error, error_size);
    return nullptr;
  }
  return Load(std::move(proto), error, error_size);
} catch (const std::exception& e) {
  SetError(e.what(), error, error_size);
  return nullptr;
}

NsaSpmModel* nsa_spm_build_bpe(const NsaSpmPiece* pieces, size_t num_pieces,
                               const NsaSpmOptions* options, char* error, size_t error_size) try {
  auto proto = std::make_unique<ModelProto>();
  bool byte_fallback = false;
  for (size_t i = 0; i < num_pieces; ++i) {
    auto* piece = proto->add_pieces();
    piece->set_piece(pieces[i].text, pieces[i].num_bytes);
    piece->set_score(pieces[i].score);
    piece->set_type(static_cast<ModelProto::SentencePiece::Type>(pieces[i].type));
    byte_fallback |= pieces[i].type == kByteType;
  }
  proto->mutable_trainer_spec()->set_model_type(TrainerSpec::BPE);
  proto->mutable_trainer_spec()->set_byte_fallback(byte_fallback);
  proto->mutable_trainer_spec()->set_vocab_size(static_cast<int>(num_pieces));
  auto* normalizer = proto->mutable_normalizer_spec();
  normalizer->set_name("identity");
  normalizer->set_add_dummy_prefix(options->add_dummy_prefix != 0);
  normalizer->set_remove_extra_whitespaces(false);
  normalizer->set_escape_whitespaces(true);
  return Load(std::move(proto), error, error_size);
} catch (const std::exception& e) {
  SetError(e.what(), error, error_size);
  return nullptr;
}

void nsa_spm_free(NsaSpmModel* model) { delete model; }

int32_t nsa_spm_num_pieces(const NsaSpmModel* model) { return model->processor.GetPieceSize(); }

NsaSpmPiece nsa_spm_piece(const NsaSpmModel* model, int32_t id) {
  const auto& piece = model->processor.model_proto().pieces(id);
  return {piece.piece().data(), piece.piece().size(), piece.score(),
          static_cast<int32_t>(piece.type())};
}

int32_t nsa_spm_bos_id(const NsaSpmModel* model) { return model->processor.bos_id(); }

int32_t nsa_spm_eos_id(const NsaSpmModel* model) { return model->processor.eos_id(); }

int32_t nsa_spm_strips_leading_space(const NsaSpmModel* model) {
  const auto& spec = model->processor.model_proto().normalizer_spec();
  return spec.add_dummy_prefix() || spec.remove_extra_whitespaces();
}

const char* nsa_spm_algorithm(const NsaSpmModel* model) {
  switch (model->processor.model_proto().trainer_spec().model_type()) {
    case TrainerSpec::UNIGRAM:
      return "unigram";
    case TrainerSpec::BPE:
      return "bpe";
    case TrainerSpec::WORD:
      return "word";
    case TrainerSpec::CHAR:
      return "char";
  }
  return "unknown";
}

int32_t nsa_spm_encode(const NsaSpmModel* model, const char* text, size_t num_bytes,
                       void (*sink)(void* context, const int32_t* ids, size_t num_ids),
                       void* context) try {
  std::vector<int> ids;
  if (!model->processor.Encode({text, num_bytes}, &ids).ok()) return 0;
  sink(context, ids.data(), ids.size());
  return 1;
} catch (const std::exception&) {
  return 0;
}
