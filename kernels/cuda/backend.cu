#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/host_inputs.h"
#include "kernels/cuda/launch_queue.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/side_copies.h"

namespace nsa::kernels {
namespace cuda {
namespace {

/// What a step brings from the host is far less, but for long contexts of many sequences.
constexpr int64_t kHostInputBytes = int64_t{1} << 20;

/// Of a matrix on its way to the device, at a time.
constexpr int64_t kPackBytes = int64_t{16} << 20;

/// Rows that Gemm must be able to take at once (cuda.h).
constexpr int64_t kLeastGemmRows = 8;

/// Places in the order of calls that can be told apart: of two steps under way, and of others'
/// calls.
constexpr int64_t kNumMarks = 4;

/// What one launch leaves to the next: parts of splits, quantised activations. A larger device has
/// more rows to keep busy.
int64_t WorkspaceBytes(const DeviceProperties& device) {
  return std::min(int64_t{256} << 20, device.total_bytes / 64);
}

/// A packed matrix in the device's memory.
class DeviceMatrix final : public PackedMatrix {
 public:
  DeviceMatrix(PackedLayout layout, Memory memory)
      : memory_(std::move(memory)), view_(ViewOf(std::move(layout), memory_.data())) {}

  int64_t num_rows() const override { return view_.layout.num_rows; }
  int64_t num_columns() const override { return view_.layout.num_columns; }
  int64_t num_bytes() const override { return view_.layout.num_bytes; }
  const MatrixView& view() const { return view_; }

 private:
  Memory memory_;
  MatrixView view_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(DeviceProperties device)
      : device_(std::move(device)),
        inputs_(stream_.stream, kHostInputBytes),
        workspace_(Allocate(WorkspaceBytes(device_))) {
    stream().queue = &queue_;
    if (workspace_.data() == nullptr) throw std::bad_alloc();
  }
  ~CudaBackend() override {
    Flush();
    cuda::Wait(stream());
  }

  std::string Description() const override {
    return "cuda (" + device_.name + ", sm_" + std::to_string(device_.major) +
           std::to_string(device_.minor) + ")";
  }
  std::optional<int64_t> free_bytes() const override { return FreeDeviceBytes(); }
  // What the new memory takes the place of may be freed next, and its readers still be queued.
  Memory Allocate(int64_t num_bytes) override {
    Flush();
    return AllocateDevice(num_bytes);
  }
  void Write(void* target, const void* source, int64_t num_bytes) override {
    Flush();
    CopyBytes(stream(), target, source, num_bytes);
    cuda::Wait(stream());
  }
  void Read(void* target, const void* source, int64_t num_bytes) override {
    Write(target, source, num_bytes);
  }
  void WriteAhead(void* target, const void* source, int64_t num_bytes) override {
    Flush();  // what was queued before does not see it
    inputs_.CopyTo(target, source, num_bytes);
  }
  std::unique_ptr<SideCopies> MakeSideCopies() override {
    return cuda::MakeSideCopies(stream(), queue_);
  }
  void BeginStep() override {
    Flush();
    inputs_.BeginStep();
  }

  bool is_asynchronous() const override { return true; }
  Memory AllocateForReads(int64_t num_bytes) override {
    Memory memory = AllocatePinned(num_bytes);
    if (memory.data() != nullptr) std::memset(memory.data(), 0, static_cast<size_t>(num_bytes));
    return memory;
  }
  void ReadLater(void* target, const void* source, int64_t num_bytes) override {
    Flush();
    CopyBytes(stream(), target, source, num_bytes);
  }
  int64_t Mark() override {
    Flush();
    marks_[++num_marks_ % kNumMarks].Record(stream());
    return num_marks_;
  }
  /// For a later mark, where its own event has been used again.
  void Wait(int64_t mark) override { marks_[mark % kNumMarks].WaitFor(); }

  StoredMatrix Store(const WeightMatrix& matrix) override;
  std::unique_ptr<PackedMatrix> Pack(std::span<const WeightMatrix> parts) override;

  void Embed(const EmbedParams& p) override {
    EmbedParams q = p;
    q.ids = inputs_.Place(p.ids, p.num_rows);
    q.places = inputs_.Place(p.places, p.num_rows);
    cuda::Embed(stream(), q);
  }
  void RmsNorm(const RmsNormParams& p) override { cuda::RmsNorm(stream(), p); }
  void Gemm(const GemmParams& p) override {
    const MatrixView& w = static_cast<const DeviceMatrix*>(p.w)->view();
    NeedWorkspace(GemmWorkspaceFloats(w.layout, std::min(p.num_rows, kLeastGemmRows)));
    cuda::Gemm(stream(), p, w, workspace());
  }
  void Glu(const GluParams& p) override { cuda::Glu(stream(), p); }
  void Merge(const MergeParams& p) override { cuda::Merge(stream(), p); }

  void RopeKvWrite(const RopeKvWriteParams& p) override {
    cuda::RopeKvWrite(stream(), WithSegments(p), ShapeOf(p.segments, p.num_segments));
  }
  void CmpPool(const CmpPoolParams& p) override {
    cuda::CmpPool(stream(), WithSegments(p), ShapeOf(p.segments, p.num_segments));
  }
  void CmpCluster(const CmpClusterParams& p) override {
    cuda::CmpCluster(stream(), WithSegments(p), ShapeOf(p.segments, p.num_segments));
  }
  void CmpGather(const CmpGatherParams& p) override { cuda::CmpGather(stream(), WithRows(p)); }
  void CmpScatter(const CmpScatterParams& p) override { cuda::CmpScatter(stream(), WithRows(p)); }

  void CmpAttn(const CmpAttnParams& p) override { Attend(&cuda::CmpAttn, p); }
  void ScoreTopk(const ScoreTopkParams& p) override {
    ScoreTopkParams q = p;
    q.row_num_selected_blocks = inputs_.Place(p.row_num_selected_blocks, EndRow(p.query));
    NeedWorkspace(ScoreTopkRowFloats(p, ShapeOf(p)));
    Attend(&cuda::ScoreTopk, q);
  }
  void SelAttn(const SelAttnParams& p) override { Attend(&cuda::SelAttn, p); }
  void WinAttn(const WinAttnParams& p) override { Attend(&cuda::WinAttn, p); }
  void FullAttn(const FullAttnParams& p) override { Attend(&cuda::FullAttn, p); }

  void PageAges(const PageAgesParams& p) override {
    cuda::PageAges(stream(), WithSegments(p), ShapeOf(p.segments, p.num_segments));
  }

  void Sample(std::span<const SampleParams> rows) override;

 private:
  /// Made first and ended last: members enqueue work on it.
  struct OwnedStream {
    Stream stream = CreateStream();
    OwnedStream() = default;
    OwnedStream(const OwnedStream&) = delete;
    OwnedStream& operator=(const OwnedStream&) = delete;
    ~OwnedStream() { DestroyStream(stream); }
  };

  Stream& stream() { return stream_.stream; }
  void Flush() { queue_.Flush(stream(), inputs_.area()); }
  Workspace workspace() const {
    return {reinterpret_cast<float*>(workspace_.data()),
            workspace_.num_bytes() / static_cast<int64_t>(sizeof(float))};
  }

  /// What a context longer than the workspace was made for needs: seldom.
  void NeedWorkspace(int64_t num_floats) {
    const int64_t num_bytes = num_floats * static_cast<int64_t>(sizeof(float));
    if (num_bytes <= workspace_.num_bytes()) return;
    workspace_ = Allocate(2 * num_bytes);
    if (workspace_.data() == nullptr) throw std::bad_alloc();
  }

  template <typename Params>
  static SegmentsShape ShapeOf(const Params& p) {
    return ShapeOf(p.query.segments, p.query.num_segments);
  }
  static SegmentsShape ShapeOf(const AttentionSegment* segments, int num_segments) {
    return cuda::ShapeOf(segments, num_segments);
  }

  /// Behind the last row of the call's arrays, which may have rows of other calls before its own.
  static int64_t EndRow(const AttentionQuery& query) {
    int64_t end = 0;
    for (int s = 0; s < query.num_segments; ++s) {
      end = std::max(end, int64_t{query.segments[s].row_begin} + query.segments[s].num_rows);
    }
    return end;
  }

  template <typename Params>
  Params WithSegments(Params p) {
    p.segments = inputs_.PlaceSegments(p.segments, p.num_segments);
    return p;
  }
  template <typename Params>
  Params WithRows(Params p) {
    p.rows = WithSegments(p.rows);
    return p;
  }
  template <typename Params>
  void Attend(void (*op)(Stream&, const Params&, const SegmentsShape&, const Workspace&),
              Params p) {
    const SegmentsShape shape = ShapeOf(p);
    p.query = WithSegments(p.query);
    op(stream(), p, shape, workspace());
  }

  DeviceProperties device_;
  OwnedStream stream_;
  LaunchQueue queue_;
  HostInputs inputs_;
  Memory workspace_;
  Event marks_[kNumMarks];
  int64_t num_marks_ = 0;
  std::vector<SampleParams> sampled_;  // of one call, with the device's lists
};

std::unique_ptr<PackedMatrix> CudaBackend::Pack(std::span<const WeightMatrix> parts) {
  PackedLayout layout = PlanPacking(parts);
  Memory memory = Allocate(layout.num_bytes);
  if (memory.data() == nullptr) throw std::bad_alloc();
  // By way of a buffer, so that the host never holds a second copy of a large matrix.
  std::vector<std::byte> buffer;
  for (int64_t begin = 0, end = 0; begin < layout.num_blocks; begin = end) {
    const int64_t offset = OffsetOfBlock(layout, begin);
    do ++end;
    while (end < layout.num_blocks && OffsetOfBlock(layout, end + 1) - offset <= kPackBytes);
    buffer.resize(static_cast<size_t>(OffsetOfBlock(layout, end) - offset));
    PackBlocks(layout, parts, begin, end, buffer.data());
    Write(memory.data() + offset, buffer.data(), static_cast<int64_t>(buffer.size()));
  }
  return std::make_unique<DeviceMatrix>(std::move(layout), std::move(memory));
}

StoredMatrix CudaBackend::Store(const WeightMatrix& matrix) {
  const int64_t num_bytes = matrix.num_rows * RowBytes(matrix.type, matrix.num_columns);
  StoredMatrix stored = {.matrix = matrix, .memory = Allocate(num_bytes)};
  if (stored.memory.data() == nullptr) throw std::bad_alloc();
  Write(stored.memory.data(), matrix.data, num_bytes);
  stored.matrix.data = stored.memory.data();
  return stored;
}

void CudaBackend::Sample(std::span<const SampleParams> rows) {
  sampled_.assign(rows.begin(), rows.end());
  for (SampleParams& row : sampled_) {
    row.counts = inputs_.Copy(row.counts, row.num_counts);
    row.biases = inputs_.Copy(row.biases, row.num_biases);
    row.banned = inputs_.Copy(row.banned, row.num_banned);
    row.allowed = inputs_.Copy(row.allowed, row.num_allowed);
  }
  const auto num_rows = static_cast<int64_t>(sampled_.size());
  cuda::SampleBatch(stream(), inputs_.Copy(sampled_.data(), num_rows), num_rows);
}

}  // namespace
}  // namespace cuda

CudaDevice OpenCudaDevice() {
  CudaDevice opened;
  auto device = cuda::OpenDevice(opened.error);
  if (!device.has_value()) return opened;
  try {
    opened.backend = std::make_unique<cuda::CudaBackend>(*std::move(device));
  } catch (const std::bad_alloc&) {
    opened.error = "the device has too little free memory to begin with";
  }
  return opened;
}

}  // namespace nsa::kernels
