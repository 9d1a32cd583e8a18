#include "engine/prefix_cache.h"

#include <algorithm>

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

PrefixCache::PrefixCache(PagePool* pool)
    : pool_(pool), nodes_(static_cast<size_t>(pool->num_pages())) {}

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
    match.num_idle += node(page).idle ? 1 : 0;
    match.chain.hash = node(page).hash;
    match.chain.page = page;
    ++match.chain.num_pages;
  }
  return match;
}

void PrefixCache::AddUser(int32_t page) {
  if (node(page).idle) RemoveIdle(page);
  pool_->AddUser(page);
}

void PrefixCache::Use(const PrefixMatch& match) {
  for (const int32_t page : match.pages) AddUser(page);
}

std::optional<int32_t> PrefixCache::Allocate() {
  if (pool_->num_free() == 0 && head_ >= 0) Forget(head_);
  return pool_->Allocate();
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
    added.hash = hash;
    added.parent = chain.page;
    added.num_children = 0;
    std::ranges::copy(tokens, added.tokens.begin());
    pages_[hash] = page;
    if (chain.page >= 0) ++node(chain.page).num_children;
    pool_->AddUser(page);
    known = page;
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
  added.idle = true;
  added.previous = tail_;
  added.next = -1;
  (tail_ < 0 ? head_ : node(tail_).next) = page;
  tail_ = page;
  ++num_idle_;
}

void PrefixCache::RemoveIdle(int32_t page) {
  Node& removed = node(page);
  removed.idle = false;
  (removed.previous < 0 ? head_ : node(removed.previous).next) = removed.next;
  (removed.next < 0 ? tail_ : node(removed.next).previous) = removed.previous;
  --num_idle_;
}

void PrefixCache::Forget(int32_t page) {
  Node& forgotten = node(page);
  CHECK(forgotten.num_children == 0) << "page " << page << " goes before those that continue it";
  if (forgotten.idle) RemoveIdle(page);
  pages_.erase(forgotten.hash);
  if (forgotten.parent >= 0) --node(forgotten.parent).num_children;
  forgotten.known = false;
  pool_->Release(page);
}

int32_t PrefixCache::Clear() {
  const int32_t num_free = pool_->num_free();
  for (Node& cleared : nodes_) {
    cleared.num_children = 0;
    cleared.parent = -1;
  }
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    if (node(page).known) Forget(page);
  }
  return pool_->num_free() - num_free;
}

bool PrefixCache::Consistent() const {
  std::vector<int32_t> num_children(nodes_.size(), 0);
  std::vector<bool> passed(nodes_.size(), false);
  int32_t num_idle = 0;
  for (int32_t page = head_; page >= 0; page = node(page).next) {
    const Node& idle = node(page);
    // What continues an idle page is idle, and goes before it.
    if (!idle.idle || !idle.known || passed[static_cast<size_t>(page)]) return false;
    if (idle.parent >= 0 && passed[static_cast<size_t>(idle.parent)]) return false;
    passed[static_cast<size_t>(page)] = true;
    ++num_idle;
  }
  if (num_idle != num_idle_) return false;
  size_t num_known = 0;
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    const Node& known = node(page);
    if (!known.known) {
      if (known.idle) return false;
      continue;
    }
    ++num_known;
    const auto it = pages_.find(known.hash);
    if (it == pages_.end() || it->second != page) return false;
    if (known.idle != (pool_->num_users(page) == 1)) return false;
    if (known.parent < 0) continue;
    if (!node(known.parent).known) return false;
    if (HashOf(node(known.parent).hash, known.tokens) != known.hash) return false;
    ++num_children[static_cast<size_t>(known.parent)];
  }
  for (size_t page = 0; page < nodes_.size(); ++page) {
    if (nodes_[page].known && nodes_[page].num_children != num_children[page]) return false;
  }
  return num_known == pages_.size() && pool_->Consistent();
}

}  // namespace nsa::engine
