#ifndef NSA_ENGINE_PREFIX_CACHE_H_
#define NSA_ENGINE_PREFIX_CACHE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/cache_events.h"
#include "engine/page_pool.h"
#include "kernels/tensor.h"

namespace nsa::engine {

/// How far a sequence's pages are known to the cache: a chain of whole pages, each identified by
/// its tokens and by all that stands before it.
struct PrefixChain {
  bool enabled = false;
  uint64_t hash = 0;      // of the chain's last page; of its root where there is none
  int32_t page = -1;      // the chain's last page
  int64_t num_pages = 0;  // in the chain
};

/// Pages that a new sequence need not compute.
struct PrefixMatch {
  std::vector<int32_t> pages;
  int32_t num_idle = 0;  // of them, pages in memory that nobody uses at present
  PrefixChain chain;
};

/// Finds computed pages of the KV cache again, with the compressed rows that they carry. A page is
/// known by a hash that is chained over its tokens, those of all pages before it, and a root for
/// what else decides about the content: attention, and a salt that keeps tenants apart. Tokens are
/// compared too, so that no two contents are taken for one. (Chained block hashes: vLLM's automatic
/// prefix caching.) Pages that nobody uses stay until others need their place; the one that was
/// used the longest ago goes first, with those that continue it. Idle pages that are in memory and
/// those in the tier below stand in a list each. Engine thread.
class PrefixCache {
 public:
  /// `public_root`: the hash of the root whose pages events tell of.
  explicit PrefixCache(PagePool* pool, uint64_t public_root = 0);
  PrefixCache(const PrefixCache&) = delete;  // nodes point to its lists
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The chain of a sequence before its first page. `root`: whatever must be equal for pages to be
  /// shared.
  static PrefixChain Begin(std::string_view root);

  /// The longest known chain of whole pages of `tokens` that leaves at least one token over.
  PrefixMatch Find(const PrefixChain& begin, std::span<const int32_t> tokens) const;
  /// Makes the caller a user of the pages that Find gave just now.
  void Use(const PrefixMatch& match);

  /// A page for the caller, of those that are free or idle; nothing where there is none. `after`
  /// and `expected` as PagePool has them. Idle pages are forgotten as many at a time as make a run
  /// of consecutive ones likely.
  std::optional<int32_t> Allocate(int32_t after = -1, int32_t expected = 1);
  /// Sees to it that a frame is free, if need be by giving up an idle page's; false: there is none.
  bool FreeFrame();
  /// The same for a block of the tier below.
  bool FreeBlock();
  void AddUser(int32_t page);
  void Release(int32_t page);
  /// The same, but the page is forgotten where it then has no user. Those that continue a page are
  /// released before it.
  void ReleaseForGood(int32_t page);
  /// Pages that Allocate could give, one after the other.
  int32_t num_available() const { return pool_->num_free() + num_idle(); }
  /// Known pages in memory that nobody uses, and the one of them that was used the longest ago
  /// (−1: none).
  int32_t num_idle() const { return in_memory_.size; }
  int32_t oldest_idle() const { return in_memory_.head; }
  /// The same of pages in the tier below.
  int32_t num_idle_spilled() const { return spilled_.size; }

  /// Makes known that the caller's `page` holds `tokens` [64] behind the chain, and moves the chain
  /// on. Where such a page is known already, the caller becomes its user instead and gives up its
  /// own: the page to go on with is returned.
  int32_t Extend(PrefixChain& chain, std::span<const int32_t> tokens, int32_t page);

  bool IsKnown(int32_t page) const { return node(page).known; }
  bool IsIdle(int32_t page) const { return node(page).idle != nullptr; }
  /// Whether the chain's pages are still known.
  bool Holds(const PrefixChain& chain) const;

  /// Forgets a page, and those that continue it: they cannot be found any more.
  void Forget(int32_t page);

  /// Forgets all pages, those in use as well; gives the number of pages that became free.
  int32_t Clear();

  /// Notes changes from now on, for TakeEvents; or no longer, and forgets those.
  void RecordEvents(bool on);
  bool records_events() const { return records_; }
  /// What has changed since the last call, in order.
  std::vector<CacheEvent> TakeEvents() { return std::exchange(events_, {}); }
  /// The known pages as if they had just been stored, parents first.
  std::vector<CacheEvent> KnownPages() const;

  /// Users, chains and the order of idle pages fit together, and hashes are those of the tokens.
  bool Consistent() const;

 private:
  /// Idle pages, the one to go first at the head.
  struct IdleList {
    int32_t head = -1;
    int32_t tail = -1;
    int32_t size = 0;
  };
  /// By page. Pages that continue the same page are linked as its children.
  struct Node {
    bool known = false;
    bool is_public = false;    // events tell of it
    IdleList* idle = nullptr;  // the list that it stands in
    uint64_t hash = 0;
    int32_t parent = -1;
    int32_t first_child = -1;
    int32_t previous_sibling = -1;
    int32_t next_sibling = -1;
    int32_t previous = -1;  // in the list
    int32_t next = -1;
    std::array<int32_t, kernels::kPageSize> tokens = {};
  };

  static uint64_t HashOf(uint64_t before, std::span<const int32_t> tokens);
  Node& node(int32_t page) { return nodes_[static_cast<size_t>(page)]; }
  const Node& node(int32_t page) const { return nodes_[static_cast<size_t>(page)]; }
  /// The page that continues the chain with these tokens, or −1.
  int32_t Next(const PrefixChain& chain, std::span<const int32_t> tokens) const;
  void AppendIdle(int32_t page);
  void RemoveIdle(int32_t page);
  void Link(int32_t page, int32_t parent);
  void Unlink(int32_t page);
  CacheEvent StoredEvent(int32_t page) const;
  bool ListConsistent(const IdleList& list, bool in_memory) const;

  PagePool* pool_;
  const uint64_t public_root_;
  bool records_ = false;
  std::vector<CacheEvent> events_;
  std::vector<Node> nodes_;                       // [num_pages]
  absl::flat_hash_map<uint64_t, int32_t> pages_;  // of known pages, by hash
  IdleList in_memory_;
  IdleList spilled_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PREFIX_CACHE_H_
