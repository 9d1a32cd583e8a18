#include "engine/page_pool.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <numeric>

#include "engine/log.h"

namespace nsa::engine {

PagePool::PagePool(int32_t num_pages)
    : num_users_(static_cast<size_t>(num_pages), 0), free_(static_cast<size_t>(num_pages)) {
  std::iota(free_.begin(), free_.end(), 0);  // a sorted range is a min-heap
}

std::optional<int32_t> PagePool::Allocate() {
  if (free_.empty()) return std::nullopt;
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const int32_t page = free_.back();
  free_.pop_back();
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
  if (--users > 0) return;
  free_.push_back(page);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

bool PagePool::Consistent() const {
  std::vector<bool> listed(num_users_.size(), false);
  for (const int32_t page : free_) {
    const auto index = static_cast<size_t>(page);
    if (index >= num_users_.size() || listed[index] || num_users_[index] != 0) return false;
    listed[index] = true;
  }
  return std::count(num_users_.begin(), num_users_.end(), 0) ==
         static_cast<std::ptrdiff_t>(free_.size());
}

}  // namespace nsa::engine
