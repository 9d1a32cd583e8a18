#ifndef NSA_TESTS_ENGINE_GGUF_MUTATIONS_H_
#define NSA_TESTS_ENGINE_GGUF_MUTATIONS_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>

namespace nsa::engine {

using TakeMutant = std::function<void(const std::string&)>;

/// Every byte of the first `num_bytes` with each bit turned, and with values at the ends of ranges.
inline void MutateBytes(const std::string& bytes, size_t num_bytes, const TakeMutant& take) {
  std::string mutant = bytes;
  for (size_t i = 0; i < num_bytes; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      mutant[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      take(mutant);
    }
    for (const int value : {0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF}) {
      mutant[i] = static_cast<char>(value);
      take(mutant);
    }
    mutant[i] = bytes[i];
  }
}

/// Every place of the first `num_bytes` with numbers of `T` that sizes, counts and offsets must not
/// have, or only just.
template <typename T>
void MutateNumbers(const std::string& bytes, size_t num_bytes, const TakeMutant& take) {
  const T size = static_cast<T>(bytes.size());
  const T all = static_cast<T>(~T{0});
  const T high = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
  const T odd[] = {0,
                   1,
                   2,
                   31,
                   32,
                   size,
                   size / 8,
                   high,
                   all,
                   all / 2,
                   all / 4,
                   all / 8,
                   all - 1,
                   all / 8 + 1,
                   size - 24,
                   high / 2 + 1,
                   static_cast<T>(all - size + 1)};
  std::string mutant = bytes;
  for (size_t i = 0; i + sizeof(T) <= num_bytes; ++i) {
    for (const T value : odd) {
      std::memcpy(mutant.data() + i, &value, sizeof(T));
      take(mutant);
    }
    std::memcpy(mutant.data() + i, bytes.data() + i, sizeof(T));
  }
}

/// Random files near `bytes`: bytes changed, parts cut out, doubled or moved.
inline void MutateAtRandom(const std::string& bytes, int num_mutants, const TakeMutant& take) {
  std::mt19937 random(20241);
  const auto below = [&random](size_t limit) { return random() % limit; };
  for (int i = 0; i < num_mutants; ++i) {
    std::string mutant = bytes;
    for (size_t edits = 1 + below(4); edits > 0 && !mutant.empty(); --edits) {
      const size_t begin = below(mutant.size());
      const size_t count = 1 + below(16);
      const std::string part = mutant.substr(begin, count);
      switch (below(4)) {
        case 0:
          mutant[begin] = static_cast<char>(random());
          break;
        case 1:
          mutant.erase(begin, count);
          break;
        case 2:
          mutant.insert(begin, part);
          break;
        default:
          mutant.replace(below(mutant.size()), count, part);
      }
    }
    take(mutant);
  }
}

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_GGUF_MUTATIONS_H_
