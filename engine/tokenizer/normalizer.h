#ifndef NSA_ENGINE_TOKENIZER_NORMALIZER_H_
#define NSA_ENGINE_TOKENIZER_NORMALIZER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nsa::engine {

/// What a tokenizer.json does to text before it is split: steps in order. Immutable: any thread.
class Normalizer {
 public:
  enum class Form : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

  void AddForm(Form form) { steps_.push_back({.kind = Kind::kForm, .form = form}); }
  /// Puts `text` before every text that is not empty and does not begin with `unless` (where that
  /// is not empty).
  void AddPrepend(std::string text, std::string unless = "") {
    steps_.push_back(
        {.kind = Kind::kPrepend, .form = {}, .from = std::move(unless), .to = std::move(text)});
  }
  /// Replaces every `from`, which is not empty.
  void AddReplace(std::string from, std::string to) {
    steps_.push_back(
        {.kind = Kind::kReplace, .form = {}, .from = std::move(from), .to = std::move(to)});
  }

  bool empty() const { return steps_.empty(); }
  size_t num_steps() const { return steps_.size(); }
  /// How many times as long a text of 1 KiB or more can become.
  double MaxGrowth() const;
  /// `text` is valid UTF-8. Unicode's forms by utf8proc.
  std::string Apply(std::string_view text) const;

 private:
  enum class Kind : uint8_t { kForm, kPrepend, kReplace };
  struct Step {
    Kind kind = Kind::kForm;
    Form form = Form::kNfc;
    std::string from = {};
    std::string to = {};
  };

  std::vector<Step> steps_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_NORMALIZER_H_
