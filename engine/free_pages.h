#ifndef NSA_ENGINE_FREE_PAGES_H_
#define NSA_ENGINE_FREE_PAGES_H_

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace nsa::engine {

/// Which page indices are free, and which of them a sequence gets. Engine thread.
///
/// A sequence's pages shall be consecutive as far as they can: its compressed rows are then read as
/// streams, which the hardware fetches ahead; at random places a core gets a fraction of its
/// bandwidth. So a page follows its sequence's last one where that is free. Else it begins in the
/// fullest extent of kExtentPages pages that still holds what the sequence is going to take, so
/// that short sequences leave empty extents to long ones. Nothing is set aside, so no page is lost.
class FreePages {
 public:
  static constexpr int32_t kExtentPages = 16;

  explicit FreePages(int32_t num_pages);  // all free

  int32_t count() const { return count_; }
  bool Contains(int32_t page) const {
    return (pages_[static_cast<size_t>(page / kExtentPages)] >> page % kExtentPages & 1) != 0;
  }

  /// Takes a page; one must be free. `after`: the page that it continues, or −1; `expected`: how
  /// many the sequence will take, this one included, as far as one knows. Of equal extents the
  /// lowest, so that a lightly used pool touches little memory.
  int32_t Take(int32_t after, int32_t expected);
  /// For a page that is not free.
  void Give(int32_t page);

  /// Exactly those pages are free that `is_free` says are, and extents agree with them.
  bool Holds(const std::function<bool(int32_t)>& is_free) const;

 private:
  /// The first free page of an extent with exactly so many, or −1.
  int32_t FirstOfExtentWith(int32_t num_free) const;
  int32_t FirstOfRun(int32_t expected) const;
  /// Changes whether the page is free, and sorts its extent in anew.
  void Flip(int32_t page);

  int32_t num_pages_;
  int32_t count_ = 0;
  std::vector<uint16_t> pages_;  // [extents]: a bit for each page that is free
  // [free pages of an extent][extents / 64]: a bit for each extent that has so many.
  std::array<std::vector<uint64_t>, kExtentPages + 1> extents_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_FREE_PAGES_H_
