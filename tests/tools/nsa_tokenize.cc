// Encodes or decodes many documents for tests/oracles/tokenizer_oracle.py.
//
//   nsa_tokenize encode MODEL FLAGS < records > records     FLAGS: letters of "s" (add special
//   nsa_tokenize decode MODEL FLAGS < records > records     tokens), "p" (parse special tokens),
//                                                           "k" (skip special tokens)
// A record is a little-endian uint32 count and that many bytes (text) or int32 ids. MODEL ends in
// .gguf, .model or .json.

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_json.h"
#include "engine/weights/gguf.h"
#include "engine/weights/json_config.h"

namespace {

using nsa::engine::EncodeOptions;
using nsa::engine::Tokenizer;

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path) {
  if (path.ends_with(".model")) return nsa::engine::LoadSentencePieceModel(path);
  if (path.ends_with(".json")) {
    const auto config = nsa::engine::JsonConfig::Read(path);
    if (!config.ok()) return config.status();
    return nsa::engine::LoadTokenizerJson(*config, nsa::engine::TokenizerSettings());
  }
  auto file = nsa::engine::GgufFile::Open(path);
  if (!file.ok()) return file.status();
  return nsa::engine::LoadTokenizer(**file);
}

template <typename T>
bool ReadRecord(T& record) {
  uint32_t count = 0;
  if (!std::cin.read(reinterpret_cast<char*>(&count), sizeof(count))) return false;
  record.resize(count);
  const auto num_bytes = static_cast<std::streamsize>(count * sizeof(record[0]));
  return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(record.data()), num_bytes));
}

template <typename T>
void WriteRecord(const T& record) {
  const uint32_t count = static_cast<uint32_t>(record.size());
  std::fwrite(&count, sizeof(count), 1, stdout);
  std::fwrite(record.data(), sizeof(record[0]), record.size(), stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: nsa_tokenize encode|decode MODEL FLAGS < records > records\n";
    return 2;
  }
  std::ios::sync_with_stdio(false);
  const std::string_view mode = argv[1];
  const std::string_view flags = argv[3];
  const auto has = [&](char flag) { return flags.find(flag) != std::string_view::npos; };
  const auto tokenizer = Load(argv[2]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << '\n';
    return 1;
  }
  std::string text;
  std::vector<int32_t> ids;
  if (mode == "encode") {
    const EncodeOptions options = {.add_special_tokens = has('s'),
                                   .parse_special_tokens = has('p')};
    while (ReadRecord(text)) WriteRecord((*tokenizer)->Encode(text, options));
  } else {
    while (ReadRecord(ids)) WriteRecord((*tokenizer)->Decode(ids, has('k')));
  }
}
