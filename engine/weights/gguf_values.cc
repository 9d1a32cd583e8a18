// Typed access to a GGUF file's metadata.

#include <cmath>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/gguf.h"

namespace nsa::engine {
namespace {

/// The value as T; nothing where its type or range does not allow it.
template <typename T>
struct Converter;

template <>
struct Converter<int64_t> {
  static constexpr const char* kName = "an integer";
  static bool Convert(uint64_t value, int64_t& result) {
    result = static_cast<int64_t>(value);
    return value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }
  static bool Convert(int64_t value, int64_t& result) {
    result = value;
    return true;
  }
};

template <>
struct Converter<double> {
  static constexpr const char* kName = "a float";
  static bool Convert(double value, double& result) {
    result = value;
    return true;
  }
};

template <>
struct Converter<bool> {
  static constexpr const char* kName = "a bool";
  static bool Convert(bool value, bool& result) {
    result = value;
    return true;
  }
};

template <>
struct Converter<std::string_view> {
  static constexpr const char* kName = "a string";
  static bool Convert(std::string_view value, std::string_view& result) {
    result = value;
    return true;
  }
};

template <typename T, typename Stored>
constexpr bool kConvertible = requires(Stored value, T& result) {
  // Exact types only: an integer is no float, a bool no integer.
  requires std::is_same_v<T, Stored> ||
               (std::is_same_v<T, int64_t> && std::is_same_v<Stored, uint64_t>);
  Converter<T>::Convert(value, result);
};

absl::Status Missing(const GgufFile& file, std::string_view key) {
  return absl::NotFoundError(
      absl::StrCat(file.path(), ": metadata key '", View(key), "' is missing"));
}

absl::Status WrongType(const GgufFile& file, std::string_view key, std::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata key '", View(key),
                                                 "' is not ", View(expected), " or out of range"));
}

template <typename T>
absl::StatusOr<T> Get(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.FindValue(key);
  if (value == nullptr) return Missing(file, key);
  T result{};
  const bool converted = std::visit(
      [&result](const auto& stored) {
        using Stored = std::decay_t<decltype(stored)>;
        if constexpr (kConvertible<T, Stored>) return Converter<T>::Convert(stored, result);
        return false;
      },
      value->value);
  if (!converted) return WrongType(file, key, Converter<T>::kName);
  return result;
}

template <typename T>
absl::StatusOr<std::vector<T>> GetVector(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.FindValue(key);
  if (value == nullptr) return Missing(file, key);
  std::vector<T> results;
  const bool converted = std::visit(
      [&results](const auto& stored) {
        using Stored = std::decay_t<decltype(stored)>;
        if constexpr (requires {
                        typename Stored::value_type;
                        stored[0];
                      } && !std::is_same_v<Stored, std::string_view>) {
          using Element = typename Stored::value_type;
          if constexpr (kConvertible<T, Element>) {
            results.reserve(stored.size());
            for (const Element element : stored) {
              T result{};
              if (!Converter<T>::Convert(element, result)) return false;
              results.push_back(result);
            }
            return true;
          }
        }
        return false;
      },
      value->value);
  if (!converted)
    return WrongType(file, key, absl::StrCat("an array, each element ", Converter<T>::kName));
  return results;
}

}  // namespace

absl::StatusOr<int64_t> GgufFile::GetInt(std::string_view key) const {
  return Get<int64_t>(*this, key);
}
absl::StatusOr<double> GgufFile::GetFloat(std::string_view key) const {
  return Get<double>(*this, key);
}
absl::StatusOr<bool> GgufFile::GetBool(std::string_view key) const { return Get<bool>(*this, key); }
absl::StatusOr<std::string_view> GgufFile::GetString(std::string_view key) const {
  return Get<std::string_view>(*this, key);
}
absl::StatusOr<GgufValue::Strings> GgufFile::GetStrings(std::string_view key) const {
  return GetVector<std::string_view>(*this, key);
}
absl::StatusOr<std::vector<int64_t>> GgufFile::GetInts(std::string_view key) const {
  return GetVector<int64_t>(*this, key);
}
absl::StatusOr<std::vector<double>> GgufFile::GetFloats(std::string_view key) const {
  return GetVector<double>(*this, key);
}

}  // namespace nsa::engine
