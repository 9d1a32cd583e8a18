#ifndef NSA_ENGINE_PAGE_POOL_H_
#define NSA_ENGINE_PAGE_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace nsa::engine {

/// Which pages of the KV cache are in use. A page index names the same page in every layer.
/// Pages are counted: a page returns to the free list when its last user releases it. Engine
/// thread.
class PagePool {
 public:
  explicit PagePool(int32_t num_pages);

  /// A page with one user, or nothing where none is free. Lowest free index first, so that a
  /// lightly used pool touches little memory.
  std::optional<int32_t> Allocate();
  void AddUser(int32_t page);
  void Release(int32_t page);

  int32_t num_users(int32_t page) const { return num_users_[static_cast<size_t>(page)]; }
  int32_t num_pages() const { return static_cast<int32_t>(num_users_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_active() const { return num_pages() - num_free(); }

  /// Every page is either free and without users or has users; each free page is listed once.
  bool Consistent() const;

 private:
  std::vector<int32_t> num_users_;  // [num_pages]
  std::vector<int32_t> free_;       // a min-heap of indices
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PAGE_POOL_H_
