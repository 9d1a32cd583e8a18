#include "engine/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "engine/freed_by.h"
#include "kernels/check.h"

namespace nsa::engine {
namespace {

std::string ToForm(Normalizer::Form form, std::string_view text) {
  int options = UTF8PROC_STABLE;
  const bool compatible = form == Normalizer::Form::kNfkc || form == Normalizer::Form::kNfkd;
  const bool composed = form == Normalizer::Form::kNfc || form == Normalizer::Form::kNfkc;
  options |= composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (compatible) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* memory = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &memory,
                                             static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, FreedBy<std::free>> owned(memory);
  NSA_CHECK(size >= 0);  // the text is valid, and memory does not run out
  return {reinterpret_cast<const char*>(memory), static_cast<size_t>(size)};
}

std::string Replaced(std::string_view text, const std::string& from, const std::string& to) {
  std::string result;
  result.reserve(text.size() + text.size() / 4);
  while (true) {
    const size_t at = text.find(from);
    result.append(text.substr(0, at));
    if (at == std::string_view::npos) return result;
    result.append(to);
    text.remove_prefix(at + from.size());
  }
}

}  // namespace

double Normalizer::MaxGrowth() const {
  // Bytes that one of UTF-8 can become: in NFC and NFD at most, and in NFKC and NFKD (U+FDFA).
  constexpr double kFormGrowth = 3, kCompatibleGrowth = 11;
  double growth = 1;
  bool decomposed = false, compatible = false;
  for (const Step& step : steps_) {
    if (step.kind == Kind::kForm) {
      const bool now = step.form == Form::kNfkc || step.form == Form::kNfkd;
      // Another form of what has been decomposed adds nothing.
      if (now && !compatible) {
        growth *= kCompatibleGrowth;
      } else if (!now && !decomposed && !compatible) {
        growth *= kFormGrowth;
      }
      compatible = compatible || now;
      decomposed = true;
    } else if (step.kind == Kind::kReplace) {
      growth *= std::max(
          1.0, static_cast<double>(step.to.size()) / static_cast<double>(step.from.size()));
      decomposed = compatible = false;  // what it puts in is not
    } else {
      growth += static_cast<double>(step.to.size()) / 1024;
    }
  }
  return growth;
}

std::string Normalizer::Apply(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    if (step.kind == Kind::kForm) {
      result = ToForm(step.form, result);
    } else if (step.kind == Kind::kReplace) {
      result = Replaced(result, step.from, step.to);
    } else if (!result.empty() && (step.from.empty() || !result.starts_with(step.from))) {
      result.insert(0, step.to);
    }
  }
  return result;
}

}  // namespace nsa::engine
