#include "engine/page_pool.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "engine/log.h"

namespace nsa::engine {
namespace {

constexpr size_t kBits = 64;

}  // namespace

PagePool::PagePool(int32_t num_pages) : num_users_(static_cast<size_t>(num_pages), 0) {
  const size_t num_extents = (num_users_.size() + kExtentPages - 1) / kExtentPages;
  free_pages_.resize(num_extents, 0);
  for (auto& extents : extents_) extents.resize((num_extents + kBits - 1) / kBits, 0);
  for (size_t extent = 0; extent < num_extents; ++extent) {
    extents_[0][extent / kBits] |= uint64_t{1} << extent % kBits;
  }
  for (int32_t page = 0; page < num_pages; ++page) SetFree(page, true);
}

std::optional<int32_t> PagePool::Allocate(int32_t after, int32_t expected) {
  if (num_free_ == 0) return std::nullopt;
  const int32_t next = after + 1;
  const bool continues = after >= 0 && next < num_pages() && num_users(next) == 0;
  const int32_t page = continues ? next : FirstOfRun(expected);
  SetFree(page, false);
  num_users_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::AddUser(int32_t page) {
  CHECK(num_users_.at(static_cast<size_t>(page)) > 0) << "page " << page << " is free";
  ++num_users_[static_cast<size_t>(page)];
}

void PagePool::Release(int32_t page) {
  int32_t& users = num_users_.at(static_cast<size_t>(page));
  CHECK(users > 0) << "page " << page << " is free already";
  if (--users == 0) SetFree(page, true);
}

int32_t PagePool::FirstOfExtentWith(int32_t num_free) const {
  const std::vector<uint64_t>& extents = extents_[static_cast<size_t>(num_free)];
  const auto word = std::ranges::find_if(extents, [](uint64_t bits) { return bits != 0; });
  if (word == extents.end()) return -1;
  const size_t extent = static_cast<size_t>(word - extents.begin()) * kBits +
                        static_cast<size_t>(std::countr_zero(*word));
  return static_cast<int32_t>(extent) * kExtentPages + std::countr_zero(free_pages_[extent]);
}

int32_t PagePool::FirstOfRun(int32_t expected) const {
  const int32_t wanted = std::clamp(expected, 1, kExtentPages);
  int32_t page = -1;
  for (int32_t count = wanted; page < 0 && count <= kExtentPages; ++count) {
    page = FirstOfExtentWith(count);
  }
  for (int32_t count = wanted - 1; page < 0 && count > 0; --count) page = FirstOfExtentWith(count);
  CHECK(page >= 0) << "no extent has a free page";
  return page;
}

void PagePool::SetFree(int32_t page, bool free) {
  const auto extent = static_cast<size_t>(page / kExtentPages);
  const uint64_t extent_bit = uint64_t{1} << extent % kBits;
  uint16_t& pages = free_pages_[extent];
  extents_[static_cast<size_t>(std::popcount(pages))][extent / kBits] &= ~extent_bit;
  pages = static_cast<uint16_t>(pages ^ uint16_t{1} << page % kExtentPages);
  extents_[static_cast<size_t>(std::popcount(pages))][extent / kBits] |= extent_bit;
  num_free_ += free ? 1 : -1;
}

bool PagePool::Consistent() const {
  int32_t num_free = 0;
  for (size_t extent = 0; extent < free_pages_.size(); ++extent) {
    uint16_t free_pages = 0;
    for (int32_t i = 0; i < kExtentPages; ++i) {
      const auto page = static_cast<int32_t>(extent) * kExtentPages + i;
      if (page >= num_pages() || num_users(page) != 0) continue;
      free_pages = static_cast<uint16_t>(free_pages | 1 << i);
      ++num_free;
    }
    if (free_pages != free_pages_[extent]) return false;
    for (int count = 0; count <= kExtentPages; ++count) {
      const uint64_t word = extents_[static_cast<size_t>(count)][extent / kBits];
      if ((word >> extent % kBits & 1) != (count == std::popcount(free_pages) ? 1 : 0))
        return false;
    }
  }
  return num_free == num_free_;
}

}  // namespace nsa::engine
