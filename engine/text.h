#ifndef NSA_ENGINE_TEXT_H_
#define NSA_ENGINE_TEXT_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace nsa::engine {

/// Debian's Abseil keeps a string view type of its own; its functions take this, ours std's.
inline absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TEXT_H_
