#ifndef NSA_KERNELS_CUDA_CUDA_H_
#define NSA_KERNELS_CUDA_CUDA_H_

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/device_types.h"
#include "kernels/cuda/packed_matrix.h"

/// The operators on a GPU. Every pointer in a parameter struct, segments and page tables included,
/// is the device's. Calls enqueue work on the stream and return.
namespace nsa::kernels::cuda {

/// What the host knows of a call's segments, for the grid.
struct SegmentsShape {
  int64_t num_rows = 0;
  int64_t max_tokens = 0;     // that a row sees
  bool one_row_each = false;  // a decode step: row i is segment i's
};

/// Of segments in host memory.
inline SegmentsShape ShapeOf(const AttentionSegment* segments, int num_segments) {
  SegmentsShape shape = {0, 0, true};
  for (int s = 0; s < num_segments; ++s) {
    shape.num_rows += segments[s].num_rows;
    shape.max_tokens = std::max(shape.max_tokens, segments[s].position + segments[s].num_rows);
    shape.one_row_each = shape.one_row_each && segments[s].num_rows == 1;
  }
  return shape;
}

/// Device memory for what a launch leaves to the next of the same call. Where it is too small for a
/// call, each row is worked on by fewer CTAs; results have the same bits.
struct Workspace {
  float* data = nullptr;
  int64_t num_floats = 0;
};

void Embed(Stream& stream, const EmbedParams& params);
void RmsNorm(Stream& stream, const RmsNormParams& params);
void Glu(Stream& stream, const GluParams& params);
void Merge(Stream& stream, const MergeParams& params);

/// `params.w` is not read: `w` is it. The workspace takes x in the layout of a tensor core; where
/// it is smaller than GemmWorkspaceFloats, rows go by in several launches, of eight at least.
void Gemm(Stream& stream, const GemmParams& params, const MatrixView& w,
          const Workspace& workspace);
/// What all rows take at once. `workspace.data` is a multiple of 16 bytes.
int64_t GemmWorkspaceFloats(const PackedLayout& layout, int64_t num_rows);

void RopeKvWrite(Stream& stream, const RopeKvWriteParams& params, const SegmentsShape& shape);
void CmpPool(Stream& stream, const CmpPoolParams& params, const SegmentsShape& shape);
void CmpGather(Stream& stream, const CmpGatherParams& params);
void CmpScatter(Stream& stream, const CmpScatterParams& params);
void CmpCluster(Stream& stream, const CmpClusterParams& params, const SegmentsShape& shape);

void FullAttn(Stream& stream, const FullAttnParams& params, const SegmentsShape& shape,
              const Workspace& workspace);
void WinAttn(Stream& stream, const WinAttnParams& params, const SegmentsShape& shape,
             const Workspace& workspace);
void CmpAttn(Stream& stream, const CmpAttnParams& params, const SegmentsShape& shape,
             const Workspace& workspace);
void SelAttn(Stream& stream, const SelAttnParams& params, const SegmentsShape& shape,
             const Workspace& workspace);

/// Needs a workspace for one row at least, of ScoreTopkRowFloats floats; works on as many rows at
/// once as it has room for.
void ScoreTopk(Stream& stream, const ScoreTopkParams& params, const SegmentsShape& shape,
               const Workspace& workspace);
int64_t ScoreTopkRowFloats(const ScoreTopkParams& params, const SegmentsShape& shape);

void PageAges(Stream& stream, const PageAgesParams& params, const SegmentsShape& shape);

/// Lists of tokens, biases and ids are the device's, too.
void Sample(Stream& stream, const SampleParams& params);
/// The same for each of `rows`, which stand in device memory: a CTA a row.
void SampleBatch(Stream& stream, const SampleParams* rows, int64_t num_rows);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_CUDA_H_
