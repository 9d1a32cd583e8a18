#ifndef NSA_TESTS_ENGINE_JSON_MUTATIONS_H_
#define NSA_TESTS_ENGINE_JSON_MUTATIONS_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace nsa::engine {

using TakeDocument = std::function<void(const nlohmann::json&, const std::string& what)>;

/// What a field may hold that it should not, or only just.
inline std::vector<nlohmann::json> OddValues() {
  using nlohmann::json;
  return {nullptr,
          true,
          false,
          0,
          1,
          2,
          3,
          7,
          64,
          -1,
          4096,
          std::numeric_limits<int32_t>::max(),
          int64_t{1} << 31,
          int64_t{1} << 32,
          int64_t{1} << 53,
          std::numeric_limits<int64_t>::max(),
          std::numeric_limits<int64_t>::min(),
          std::numeric_limits<uint64_t>::max(),
          0.5,
          1.5,
          -0.0,
          1e-320,
          1e308,
          -1e308,
          "",
          "x",
          " ",
          "▁",
          std::string("a\0b", 3),
          std::string("\xFF\xFE", 2),
          std::string(2000, 'a'),
          "(a+)+$",
          "../x",
          "/",
          json::array(),
          json::object(),
          json::array({1}),
          json::array({"a", "b"}),
          json::object({{"type", "Sequence"}})};
}

/// Every value below `pointer` replaced by each odd one, left out, and doubled where it is in an
/// array. Objects of more than `max_members` members: the first of them alone.
inline void MutateJson(
    const nlohmann::json& document, size_t max_members, const TakeDocument& take,
    const nlohmann::json::json_pointer& pointer = nlohmann::json::json_pointer()) {
  using nlohmann::json;
  const json& value = document[pointer];
  if (!pointer.empty()) {
    for (const json& odd : OddValues()) {
      json mutant = document;
      mutant[pointer] = odd;
      take(mutant, pointer.to_string() + " = " +
                       odd.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 40));
    }
    json mutant = document;
    json& parent = mutant[pointer.parent_pointer()];
    if (parent.is_object()) {
      parent.erase(pointer.back());
    } else {
      parent.push_back(value);
    }
    take(mutant, pointer.to_string() + (parent.is_object() ? " left out" : " twice"));
  }
  size_t num_members = 0;
  if (value.is_object()) {
    for (const auto& [name, member] : value.items()) {
      if (num_members++ == max_members) break;
      MutateJson(document, max_members, take, pointer / name);
    }
  } else if (value.is_array()) {
    for (size_t i = 0; i < std::min(value.size(), max_members); ++i) {
      MutateJson(document, max_members, take, pointer / i);
    }
  }
}

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_JSON_MUTATIONS_H_
