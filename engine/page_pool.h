#ifndef NSA_ENGINE_PAGE_POOL_H_
#define NSA_ENGINE_PAGE_POOL_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace nsa::engine {

/// Which pages of the KV cache are in use. A page index names the same page in every layer.
/// Pages are counted: a page is free again when its last user releases it. Engine thread.
///
/// A sequence's pages shall be consecutive as far as they can: its compressed rows are then read as
/// streams, which the hardware fetches ahead; at random places a core gets a fraction of its
/// bandwidth. So a page follows its sequence's last one where that is free. Else it begins in the
/// fullest extent of kExtentPages pages that still holds what the sequence is going to take, so
/// that short sequences leave empty extents to long ones. Nothing is set aside, so no page is lost.
class PagePool {
 public:
  static constexpr int32_t kExtentPages = 16;

  explicit PagePool(int32_t num_pages);

  /// A page with one user, or nothing where none is free. `after`: the page that it continues, or
  /// −1; `expected`: how many the sequence will take, this one included, as far as one knows. Of
  /// equal extents the lowest, so that a lightly used pool touches little memory.
  std::optional<int32_t> Allocate(int32_t after = -1, int32_t expected = kExtentPages);
  void AddUser(int32_t page);
  void Release(int32_t page);

  int32_t num_users(int32_t page) const { return num_users_[static_cast<size_t>(page)]; }
  int32_t num_pages() const { return static_cast<int32_t>(num_users_.size()); }
  int32_t num_free() const { return num_free_; }
  int32_t num_active() const { return num_pages() - num_free(); }

  /// What is known of extents and in all agrees with the pages' users.
  bool Consistent() const;

 private:
  /// The first free page of the extent for so many, or −1 where no extent has exactly so many free.
  int32_t FirstOfExtentWith(int32_t num_free) const;
  int32_t FirstOfRun(int32_t expected) const;
  /// Sets whether a page is free, and sorts its extent in anew.
  void SetFree(int32_t page, bool free);

  std::vector<int32_t> num_users_;    // [num_pages]
  std::vector<uint16_t> free_pages_;  // [extents]: a bit for each page
  // [free pages of an extent][extents / 64]: a bit for each extent that has so many.
  std::array<std::vector<uint64_t>, kExtentPages + 1> extents_;
  int32_t num_free_ = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PAGE_POOL_H_
