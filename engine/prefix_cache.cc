#include "engine/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "engine/free_pages.h"
#include "engine/log.h"

namespace nsa::engine {
namespace {

constexpr size_t kPageTokens = kernels::kPageSize;

/// SplitMix64's finaliser (Steele, Lea and Flood 2014): every bit of x reaches every bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint64_t Chain(uint64_t hash, uint64_t value) { return Mix(hash + 0x9E3779B97F4A7C15u + value); }

}  // namespace

PrefixCache::PrefixCache(PagePool* pool, uint64_t public_root)
    : pool_(pool), public_root_(public_root), nodes_(static_cast<size_t>(pool->num_pages())) {}

PrefixChain PrefixCache::Begin(std::string_view root) {
  PrefixChain chain;
  chain.enabled = true;
  for (const char c : root) chain.hash = Chain(chain.hash, static_cast<unsigned char>(c));
  return chain;
}

uint64_t PrefixCache::HashOf(uint64_t before, std::span<const int32_t> tokens) {
  uint64_t hash = before;
  for (const int32_t token : tokens) hash = Chain(hash, static_cast<uint32_t>(token));
  return hash;
}

bool PrefixCache::Holds(const PrefixChain& chain) const {
  return chain.page < 0 || (node(chain.page).known && node(chain.page).hash == chain.hash);
}

int32_t PrefixCache::Next(const PrefixChain& chain, std::span<const int32_t> tokens) const {
  const auto it = pages_.find(HashOf(chain.hash, tokens));
  if (it == pages_.end()) return -1;
  const Node& found = node(it->second);
  return found.parent == chain.page && std::ranges::equal(found.tokens, tokens) ? it->second : -1;
}

PrefixMatch PrefixCache::Find(const PrefixChain& begin, std::span<const int32_t> tokens) const {
  PrefixMatch match;
  match.chain = begin;
  if (!begin.enabled || tokens.empty()) return match;
  const size_t num_whole = (tokens.size() - 1) / kPageTokens;
  for (size_t i = 0; i < num_whole; ++i) {
    const int32_t page = Next(match.chain, tokens.subspan(i * kPageTokens, kPageTokens));
    if (page < 0) break;
    match.pages.push_back(page);
    match.num_idle += node(page).idle == &in_memory_ ? 1 : 0;
    match.chain.hash = node(page).hash;
    match.chain.page = page;
    ++match.chain.num_pages;
  }
  return match;
}

void PrefixCache::AddUser(int32_t page) {
  if (IsIdle(page)) RemoveIdle(page);
  pool_->AddUser(page);
}

void PrefixCache::Use(const PrefixMatch& match) {
  for (const int32_t page : match.pages) AddUser(page);
}

bool PrefixCache::FreeFrame() {
  while (pool_->num_free() == 0 && in_memory_.head >= 0) Forget(in_memory_.head);
  return pool_->num_free() > 0;
}

bool PrefixCache::FreeBlock() {
  while (pool_->num_free_blocks() == 0 && spilled_.head >= 0) Forget(spilled_.head);
  return pool_->num_free_blocks() > 0;
}

std::optional<int32_t> PrefixCache::Allocate(int32_t after, int32_t expected) {
  if (pool_->num_free() == 0) {
    // Leaves go from a sequence's end backwards: one at a time would leave its run in reverse. With
    // a tier below places are made in advance, and what is forgotten here is the exception.
    const bool alone = pool_->num_blocks() > 0;
    const int32_t count =
        alone ? 1 : std::clamp(pool_->num_frames() / 64, 1, FreePages::kExtentPages);
    for (int32_t i = 0; i < count && in_memory_.head >= 0; ++i) Forget(in_memory_.head);
  }
  return pool_->Allocate(after, expected);
}

void PrefixCache::Release(int32_t page) {
  pool_->Release(page);
  // The cache itself is a user of a known page.
  if (node(page).known && pool_->num_users(page) == 1) AppendIdle(page);
}

void PrefixCache::ReleaseForGood(int32_t page) {
  Release(page);
  if (node(page).idle) Forget(page);
}

int32_t PrefixCache::Extend(PrefixChain& chain, std::span<const int32_t> tokens, int32_t page) {
  CHECK(tokens.size() == kPageTokens) << tokens.size();
  if (!chain.enabled) return page;
  if (!Holds(chain)) {  // was cleared
    chain.enabled = false;
    return page;
  }
  int32_t known = Next(chain, tokens);
  const uint64_t hash = HashOf(chain.hash, tokens);
  if (known < 0) {
    if (pages_.contains(hash)) {  // of another content
      chain.enabled = false;
      return page;
    }
    Node& added = node(page);
    added.known = true;
    added.is_public = chain.page < 0 ? chain.hash == public_root_ : node(chain.page).is_public;
    added.hash = hash;
    std::ranges::copy(tokens, added.tokens.begin());
    pages_[hash] = page;
    Link(page, chain.page);
    pool_->AddUser(page);
    if (records_ && added.is_public) events_.push_back(StoredEvent(page));
    known = page;
  } else if (pool_->block(known) >= 0) {  // known, but in the tier below or on the way
    chain.enabled = false;
    return page;
  } else if (known != page) {
    AddUser(known);
    Release(page);
  }
  chain.hash = hash;
  chain.page = known;
  ++chain.num_pages;
  return known;
}

void PrefixCache::AppendIdle(int32_t page) {
  Node& added = node(page);
  IdleList& list = pool_->has_frame(page) ? in_memory_ : spilled_;
  added.idle = &list;
  added.previous = list.tail;
  added.next = -1;
  (list.tail < 0 ? list.head : node(list.tail).next) = page;
  list.tail = page;
  ++list.size;
}

void PrefixCache::RemoveIdle(int32_t page) {
  Node& removed = node(page);
  IdleList& list = *std::exchange(removed.idle, nullptr);
  (removed.previous < 0 ? list.head : node(removed.previous).next) = removed.next;
  (removed.next < 0 ? list.tail : node(removed.next).previous) = removed.previous;
  --list.size;
}

void PrefixCache::Link(int32_t page, int32_t parent) {
  Node& added = node(page);
  added.parent = parent;
  added.first_child = added.previous_sibling = added.next_sibling = -1;
  if (parent < 0) return;
  added.next_sibling = std::exchange(node(parent).first_child, page);
  if (added.next_sibling >= 0) node(added.next_sibling).previous_sibling = page;
}

void PrefixCache::Unlink(int32_t page) {
  const Node& removed = node(page);
  if (removed.next_sibling >= 0) {
    node(removed.next_sibling).previous_sibling = removed.previous_sibling;
  }
  if (removed.previous_sibling >= 0) {
    node(removed.previous_sibling).next_sibling = removed.next_sibling;
  } else if (removed.parent >= 0) {
    node(removed.parent).first_child = removed.next_sibling;
  }
}

void PrefixCache::Forget(int32_t page) {
  // Leaves first: down to one, and from there on.
  int32_t leaf = page;
  while (true) {
    while (node(leaf).first_child >= 0) leaf = node(leaf).first_child;
    Node& forgotten = node(leaf);
    const int32_t parent = forgotten.parent;
    if (forgotten.idle != nullptr) RemoveIdle(leaf);
    pages_.erase(forgotten.hash);
    if (records_ && forgotten.is_public) events_.emplace_back().hash = forgotten.hash;
    Unlink(leaf);
    forgotten.known = false;
    pool_->Release(leaf);
    if (leaf == page) return;
    leaf = parent;
  }
}

int32_t PrefixCache::Clear() {
  const int32_t num_used = pool_->num_used();
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    if (node(page).known) Forget(page);
  }
  return num_used - pool_->num_used();
}

void PrefixCache::RecordEvents(bool on) {
  records_ = on;
  if (!on) events_ = {};
}

CacheEvent PrefixCache::StoredEvent(int32_t page) const {
  const Node& stored = node(page);
  CacheEvent event;
  event.hash = stored.hash;
  event.stored = true;
  event.has_parent = stored.parent >= 0;
  if (event.has_parent) event.parent_hash = node(stored.parent).hash;
  event.tokens.assign(stored.tokens.begin(), stored.tokens.end());
  return event;
}

std::vector<CacheEvent> PrefixCache::KnownPages() const {
  std::vector<CacheEvent> known;
  for (int32_t root = 0; root < pool_->num_pages(); ++root) {
    if (!node(root).known || !node(root).is_public || node(root).parent >= 0) continue;
    // Down to the first child, else to the next sibling of it or of a page above.
    int32_t page = root;
    while (page >= 0) {
      known.push_back(StoredEvent(page));
      int32_t next = node(page).first_child;
      while (next < 0 && page != root) {
        next = node(page).next_sibling;
        if (next < 0) page = node(page).parent;
      }
      page = next;
    }
  }
  return known;
}

bool PrefixCache::ListConsistent(const IdleList& list, bool in_memory) const {
  int32_t size = 0;
  int32_t previous = -1;
  for (int32_t page = list.head; page >= 0; page = node(page).next) {
    const Node& idle = node(page);
    if (idle.idle != &list || idle.previous != previous || ++size > list.size) return false;
    if (pool_->has_frame(page) != in_memory) return false;
    previous = page;
  }
  return size == list.size && previous == list.tail;
}

bool PrefixCache::Consistent() const {
  if (!ListConsistent(in_memory_, true) || !ListConsistent(spilled_, false)) return false;
  size_t num_known = 0;
  int32_t num_idle = 0, num_linked = 0, num_with_parent = 0;
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    const Node& known = node(page);
    num_idle += IsIdle(page) ? 1 : 0;
    if (!known.known) {
      if (IsIdle(page)) return false;
      continue;
    }
    ++num_known;
    const auto it = pages_.find(known.hash);
    if (it == pages_.end() || it->second != page) return false;
    if (IsIdle(page) != (pool_->num_users(page) == 1)) return false;
    for (int32_t child = known.first_child; child >= 0; child = node(child).next_sibling) {
      if (!node(child).known || node(child).parent != page) return false;
      if (++num_linked > pool_->num_pages()) return false;  // a ring
    }
    if (known.parent < 0) continue;
    ++num_with_parent;
    if (!node(known.parent).known) return false;
    if (HashOf(node(known.parent).hash, known.tokens) != known.hash) return false;
  }
  return num_linked == num_with_parent && num_idle == in_memory_.size + spilled_.size &&
         num_known == pages_.size() && pool_->Consistent();
}

}  // namespace nsa::engine
