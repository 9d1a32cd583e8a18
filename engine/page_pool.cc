#include "engine/page_pool.h"

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/log.h"

namespace nsa::engine {

PagePool::PagePool(int32_t num_pages)
    : num_users_(static_cast<size_t>(num_pages), 0), free_(num_pages) {}

std::optional<int32_t> PagePool::Allocate(int32_t after, int32_t expected) {
  if (num_free() == 0) return std::nullopt;
  const int32_t page = free_.Take(after, expected);
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
  if (--users == 0) free_.Give(page);
}

bool PagePool::Consistent() const {
  return free_.Holds([this](int32_t page) { return num_users(page) == 0; });
}

}  // namespace nsa::engine
