#include "engine/tokenizer/id_tokenizer.h"

#include <charconv>

#include "absl/strings/str_cat.h"

namespace nsa::engine {

IdTokenizer::IdTokenizer(int32_t vocabulary_size, std::vector<int32_t> stop_ids)
    : vocabulary_size_(vocabulary_size), stop_ids_(std::move(stop_ids)) {
  std::erase_if(stop_ids_, [&](int32_t id) { return id < 0 || id >= vocabulary_size_; });
}

std::vector<int32_t> IdTokenizer::Encode(std::string_view text, const EncodeOptions&) const {
  std::vector<int32_t> ids;
  while (true) {
    const size_t open = text.find('<');
    const size_t close = open == std::string_view::npos ? open : text.find('>', open);
    if (close == std::string_view::npos) return ids;
    const std::string word(text.substr(open + 1, close - open - 1));
    int32_t id = -1;
    const char* const end = word.c_str() + word.size();
    const auto [stop, error] = std::from_chars(word.c_str(), end, id);
    const bool is_id = error == std::errc() && stop == end && id >= 0 && id < vocabulary_size_;
    if (is_id) ids.push_back(id);
    text.remove_prefix(is_id ? close + 1 : open + 1);
  }
}

std::string IdTokenizer::TokenBytes(int32_t id) const { return absl::StrCat("<", id, ">"); }

std::string IdTokenizer::Decode(const std::vector<int32_t>& ids, bool) const {
  std::string text;
  for (const int32_t id : ids) absl::StrAppend(&text, "<", id, ">");
  return text;
}

}  // namespace nsa::engine
