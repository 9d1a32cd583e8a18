#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "kernels/cuda/host_inputs.h"
#include "kernels/cuda/runtime.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int64_t kAlignment = 16;

int64_t RoundUp(int64_t num_bytes) { return CeilDiv(num_bytes, kAlignment) * kAlignment; }

int64_t PageTableBytes(const AttentionSegment& segment) {
  const int64_t num_pages = CeilDiv(segment.position + segment.num_rows, kPageSize);
  return num_pages * static_cast<int64_t>(sizeof(int32_t));
}

}  // namespace

HostInputs::HostInputs(Stream& stream, int64_t num_bytes) : stream_(stream) {
  for (Area& area : areas_) Allocate(area, num_bytes);
}

void HostInputs::Allocate(Area& area, int64_t num_bytes) {
  area.pinned = AllocatePinned(num_bytes);
  area.device = AllocateDevice(num_bytes);
  if (area.pinned.data() == nullptr || area.device.data() == nullptr) throw std::bad_alloc();
  area.used = 0;
}

void HostInputs::BeginStep() {
  area_in_use().is_read.Record(stream_);
  current_ = 1 - current_;
  Area& area = area_in_use();
  // Copies out of its pinned memory may still be under way.
  area.is_read.WaitFor();
  area.used = 0;
  area.outgrown.clear();
  placed_.clear();
}

HostInputs::Piece HostInputs::Take(int64_t num_bytes) {
  Area& area = area_in_use();
  if (area.used + num_bytes > area.pinned.num_bytes()) {
    const int64_t grown = std::max(2 * area.pinned.num_bytes(), num_bytes);
    area.outgrown.push_back(std::move(area.pinned));
    area.outgrown.push_back(std::move(area.device));
    Allocate(area, grown);
  }
  const Piece piece = {area.pinned.data() + area.used, area.device.data() + area.used};
  area.used += RoundUp(num_bytes);
  return piece;
}

const std::byte* HostInputs::Find(const void* host, int64_t num_bytes) const {
  const auto it = std::ranges::find_if(placed_, [&](const Placed& placed) {
    return placed.host == host && placed.num_bytes == num_bytes;
  });
  return it == placed_.end() ? nullptr : it->device;
}

const std::byte* HostInputs::PlaceBytes(const void* data, int64_t num_bytes, bool is_kept) {
  if (data == nullptr || num_bytes == 0) return nullptr;
  if (is_kept) {
    if (const std::byte* device = Find(data, num_bytes); device != nullptr) return device;
  }
  const Piece piece = Take(num_bytes);
  std::memcpy(piece.host, data, static_cast<size_t>(num_bytes));
  CopyBytes(stream_, piece.device, piece.host, num_bytes);
  if (is_kept) placed_.push_back({data, num_bytes, piece.device});
  return piece.device;
}

void HostInputs::CopyTo(void* target, const void* data, int64_t num_bytes) {
  const Piece piece = Take(num_bytes);
  std::memcpy(piece.host, data, static_cast<size_t>(num_bytes));
  CopyBytes(stream_, target, piece.host, num_bytes);
}

const AttentionSegment* HostInputs::PlaceSegments(const AttentionSegment* segments,
                                                  int num_segments) {
  const int64_t segment_bytes = num_segments * static_cast<int64_t>(sizeof(AttentionSegment));
  if (segment_bytes == 0) return nullptr;
  if (const std::byte* device = Find(segments, segment_bytes); device != nullptr) {
    return reinterpret_cast<const AttentionSegment*>(device);
  }
  int64_t total = RoundUp(segment_bytes);
  for (int s = 0; s < num_segments; ++s) total += RoundUp(PageTableBytes(segments[s]));
  const Piece piece = Take(total);
  int64_t end = RoundUp(segment_bytes);
  for (int s = 0; s < num_segments; ++s) {
    AttentionSegment segment = segments[s];
    const int64_t num_bytes = PageTableBytes(segment);
    std::memcpy(piece.host + end, segment.page_table, static_cast<size_t>(num_bytes));
    segment.page_table = reinterpret_cast<const int32_t*>(piece.device + end);
    std::memcpy(piece.host + s * sizeof(segment), &segment, sizeof(segment));
    end += RoundUp(num_bytes);
  }
  CopyBytes(stream_, piece.device, piece.host, total);
  placed_.push_back({segments, segment_bytes, piece.device});
  return reinterpret_cast<const AttentionSegment*>(piece.device);
}

}  // namespace nsa::kernels::cuda
