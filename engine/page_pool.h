#ifndef NSA_ENGINE_PAGE_POOL_H_
#define NSA_ENGINE_PAGE_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/free_pages.h"

namespace nsa::engine {

/// Which pages of the KV cache are in use. A page index names the same page in every layer.
/// Pages are counted: a page is free again when its last user releases it. Engine thread.
class PagePool {
 public:
  explicit PagePool(int32_t num_pages);

  /// A page with one user, or nothing where none is free. `after` and `expected` as FreePages has
  /// them.
  std::optional<int32_t> Allocate(int32_t after = -1, int32_t expected = 1);
  void AddUser(int32_t page);
  void Release(int32_t page);

  int32_t num_users(int32_t page) const { return num_users_[static_cast<size_t>(page)]; }
  int32_t num_pages() const { return static_cast<int32_t>(num_users_.size()); }
  int32_t num_free() const { return free_.count(); }
  int32_t num_active() const { return num_pages() - num_free(); }

  /// Exactly those pages are free that have no users.
  bool Consistent() const;

 private:
  std::vector<int32_t> num_users_;  // [num_pages]
  FreePages free_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PAGE_POOL_H_
