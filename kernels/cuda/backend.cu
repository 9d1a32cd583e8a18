#include <algorithm>
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
        workspace_(Allocate(WorkspaceBytes(device_))),
        token_id_(Allocate(sizeof(int32_t))) {
    stream().queue = &queue_;
    if (workspace_.data() == nullptr || token_id_.data() == nullptr) throw std::bad_alloc();
  }
  ~CudaBackend() override {
    Flush();
    Wait(stream());
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
    Wait(stream());
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

  StoredMatrix Store(const WeightMatrix& matrix) override;
  std::unique_ptr<PackedMatrix> Pack(std::span<const WeightMatrix> parts) override;

  void Embed(const EmbedParams& p) override {
    EmbedParams q = p;
    q.ids = inputs_.Place(p.ids, p.num_rows);
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
    q.row_num_selected_blocks = inputs_.Place(p.row_num_selected_blocks, ShapeOf(p).num_rows);
    NeedWorkspace(ScoreTopkRowFloats(p, ShapeOf(p)));
    Attend(&cuda::ScoreTopk, q);
  }
  void SelAttn(const SelAttnParams& p) override { Attend(&cuda::SelAttn, p); }
  void WinAttn(const WinAttnParams& p) override { Attend(&cuda::WinAttn, p); }
  void FullAttn(const FullAttnParams& p) override { Attend(&cuda::FullAttn, p); }

  void PageAges(const PageAgesParams& p) override {
    cuda::PageAges(stream(), WithSegments(p), ShapeOf(p.segments, p.num_segments));
  }

  void Sample(const SampleParams& p) override;

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
  void Flush() { queue_.Flush(stream()); }
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
  Memory token_id_;
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

void CudaBackend::Sample(const SampleParams& p) {
  SampleParams q = p;
  q.counts = inputs_.Copy(p.counts, p.num_counts);
  q.biases = inputs_.Copy(p.biases, p.num_biases);
  q.banned = inputs_.Copy(p.banned, p.num_banned);
  q.allowed = inputs_.Copy(p.allowed, p.num_allowed);
  q.token_id = reinterpret_cast<int32_t*>(token_id_.data());
  cuda::Sample(stream(), q);
  Read(p.token_id, token_id_.data(), sizeof(int32_t));
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
