#include "engine/free_pages.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "engine/log.h"

namespace nsa::engine {
namespace {

constexpr size_t kBits = 64;

}  // namespace

FreePages::FreePages(int32_t num_pages) : num_pages_(num_pages) {
  const size_t num_extents =
      (static_cast<size_t>(num_pages) + kExtentPages - 1) / size_t{kExtentPages};
  pages_.resize(num_extents, 0);
  for (auto& extents : extents_) extents.resize((num_extents + kBits - 1) / kBits, 0);
  for (size_t extent = 0; extent < num_extents; ++extent) {
    extents_[0][extent / kBits] |= uint64_t{1} << extent % kBits;
  }
  for (int32_t page = 0; page < num_pages; ++page) Give(page);
}

int32_t FreePages::Take(int32_t after, int32_t expected) {
  const int32_t next = after + 1;
  const bool continues = after >= 0 && next < num_pages_ && Contains(next);
  const int32_t page = continues ? next : FirstOfRun(expected);
  Flip(page);
  --count_;
  return page;
}

void FreePages::Give(int32_t page) {
  CHECK(!Contains(page)) << "page " << page << " is free already";
  Flip(page);
  ++count_;
}

int32_t FreePages::FirstOfExtentWith(int32_t num_free) const {
  const std::vector<uint64_t>& extents = extents_[static_cast<size_t>(num_free)];
  const auto word = std::ranges::find_if(extents, [](uint64_t bits) { return bits != 0; });
  if (word == extents.end()) return -1;
  const size_t extent = static_cast<size_t>(word - extents.begin()) * kBits +
                        static_cast<size_t>(std::countr_zero(*word));
  return static_cast<int32_t>(extent) * kExtentPages + std::countr_zero(pages_[extent]);
}

int32_t FreePages::FirstOfRun(int32_t expected) const {
  const int32_t wanted = std::clamp(expected, 1, kExtentPages);
  int32_t page = -1;
  for (int32_t count = wanted; page < 0 && count <= kExtentPages; ++count) {
    page = FirstOfExtentWith(count);
  }
  for (int32_t count = wanted - 1; page < 0 && count > 0; --count) page = FirstOfExtentWith(count);
  CHECK(page >= 0) << "no page is free";
  return page;
}

void FreePages::Flip(int32_t page) {
  const auto extent = static_cast<size_t>(page / kExtentPages);
  const uint64_t extent_bit = uint64_t{1} << extent % kBits;
  uint16_t& pages = pages_[extent];
  extents_[static_cast<size_t>(std::popcount(pages))][extent / kBits] &= ~extent_bit;
  pages = static_cast<uint16_t>(pages ^ uint16_t{1} << page % kExtentPages);
  extents_[static_cast<size_t>(std::popcount(pages))][extent / kBits] |= extent_bit;
}

bool FreePages::Holds(const std::function<bool(int32_t)>& is_free) const {
  int32_t count = 0;
  for (int32_t page = 0; page < num_pages_; ++page) {
    if (Contains(page) != is_free(page)) return false;
    count += Contains(page) ? 1 : 0;
  }
  for (size_t extent = 0; extent < pages_.size(); ++extent) {
    for (int32_t count = 0; count <= kExtentPages; ++count) {
      const uint64_t word = extents_[static_cast<size_t>(count)][extent / kBits];
      const bool listed = (word >> extent % kBits & 1) != 0;
      if (listed != (count == std::popcount(pages_[extent]))) return false;
    }
  }
  return count == count_;
}

}  // namespace nsa::engine
