#ifndef NSA_KERNELS_CUDA_DEVICE_GPU_H_
#define NSA_KERNELS_CUDA_DEVICE_GPU_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/device_types.h"

/// device.h by nvcc. Instructions without an intrinsic are PTX, named here as the PTX ISA does.
#define NSA_DEVICE __device__ __forceinline__
// With one CTA as the least on a multiprocessor: without a number, ptxas of CUDA 13 limits
// registers for more of them, and spills.
#define NSA_KERNEL(num_threads) NSA_KERNEL_SHARING(num_threads, 1)
#define NSA_KERNEL_SHARING(num_threads, num_ctas) \
  __global__ void __launch_bounds__(num_threads, num_ctas)
#define NSA_ARGS const __grid_constant__
#define NSA_UNROLL _Pragma("unroll")
#define NSA_PRAGMA(text) _Pragma(#text)
#define NSA_UNROLL_BY(count) NSA_PRAGMA(unroll count)
#define NSA_SHARED(type, name, count) __shared__ type name[count]

namespace nsa::kernels::cuda {

NSA_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
NSA_DEVICE int NumThreads() { return static_cast<int>(blockDim.x); }
NSA_DEVICE int LaneIndex() { return ThreadIndex() % kWarpSize; }
NSA_DEVICE int WarpIndex() { return ThreadIndex() / kWarpSize; }
NSA_DEVICE int64_t CtaX() { return blockIdx.x; }
NSA_DEVICE int64_t CtaY() { return blockIdx.y; }

/// Ends the launch: an invariant of ours is broken.
NSA_DEVICE void DeviceCheck(bool condition) {
  if (!condition) __trap();
}

/// The launch's dynamic shared memory, taken piece by piece, in the same order by every thread.
class SharedArena {
 public:
  template <typename T>
  NSA_DEVICE T* Take(int count) {
    extern __shared__ U32x4 nsa_dynamic_shared[];
    T* piece = reinterpret_cast<T*>(nsa_dynamic_shared + begin_);
    begin_ += (count * static_cast<int>(sizeof(T)) + 15) / 16;
    return piece;
  }

 private:
  int begin_ = 0;  // in 16 bytes
};

NSA_DEVICE void SyncThreads() { __syncthreads(); }
NSA_DEVICE void SyncWarp(uint32_t mask = kAllLanes) { __syncwarp(mask); }

template <typename T>
NSA_DEVICE T Shuffle(T value, int source_lane, uint32_t mask = kAllLanes) {
  static_assert(sizeof(T) == 4);
  return __shfl_sync(mask, value, source_lane);
}
template <typename T>
NSA_DEVICE T ShuffleXor(T value, int lane_mask, uint32_t mask = kAllLanes) {
  static_assert(sizeof(T) == 4);
  return __shfl_xor_sync(mask, value, lane_mask);
}
NSA_DEVICE uint32_t Ballot(bool predicate, uint32_t mask = kAllLanes) {
  return __ballot_sync(mask, predicate);
}

/// Adds and gives what stood there before, in one step; of integers alone, whose sums have the same
/// bits in every order.
NSA_DEVICE uint32_t AtomicAdd(uint32_t* address, uint32_t x) { return atomicAdd(address, x); }
NSA_DEVICE int64_t AtomicAdd(int64_t* address, int64_t x) {
  static_assert(sizeof(unsigned long long) == sizeof(int64_t));
  return static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(address),
                                        static_cast<unsigned long long>(x)));
}
NSA_DEVICE uint32_t AtomicOr(uint32_t* address, uint32_t x) { return atomicOr(address, x); }

NSA_DEVICE uint32_t FloatBits(float x) { return __float_as_uint(x); }
NSA_DEVICE float FloatOfBits(uint32_t bits) { return __uint_as_float(bits); }
NSA_DEVICE int BitCount(uint32_t x) { return __popc(x); }
/// Index of the lowest bit that is set, of x ≠ 0.
NSA_DEVICE int LowestBit(uint32_t x) { return __ffs(static_cast<int>(x)) - 1; }
/// The upper 64 of the 128 bits of a·b.
NSA_DEVICE uint64_t MultiplyHigh(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

NSA_DEVICE float ToFloat(float x) { return x; }
NSA_DEVICE float ToFloat(Bf16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
NSA_DEVICE float ToFloat(F16 x) { return __half2float(__ushort_as_half(x.bits)); }
/// To nearest even; a NaN becomes 0x7FFF (PTX ISA, "cvt").
NSA_DEVICE Bf16 ToBf16(float x) { return {__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }
/// Two of them, `low` in the lower half.
NSA_DEVICE uint32_t ToBf16Pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return uint32_t{__bfloat16_as_ushort(pair.x)} | uint32_t{__bfloat16_as_ushort(pair.y)} << 16;
}
NSA_DEVICE F16 ToF16(float x) { return {__half_as_ushort(__float2half_rn(x))}; }

NSA_DEVICE float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
NSA_DEVICE double Fma(double a, double b, double c) { return __fma_rn(a, b, c); }
/// c and the four products of 8-bit integers.
NSA_DEVICE int32_t Dp4a(uint32_t a, uint32_t b, int32_t c) {
  return __dp4a(static_cast<int32_t>(a), static_cast<int32_t>(b), c);
}
/// Within two units in the last place for |b| in [2⁻¹²⁶, 2¹²⁶]; no subroutine, as a / b has.
NSA_DEVICE float FastDivide(float a, float b) { return __fdividef(a, b); }
NSA_DEVICE float Sqrt(float x) { return __fsqrt_rn(x); }
NSA_DEVICE float Exp(float x) { return expf(x); }
/// 2^x in few instructions, within two units in the last place.
NSA_DEVICE float Exp2(float x) { return exp2f(x); }
NSA_DEVICE float Log(float x) { return logf(x); }
NSA_DEVICE float Tanh(float x) { return tanhf(x); }
NSA_DEVICE float Max(float x, float y) { return fmaxf(x, y); }  // the other where one is NaN
NSA_DEVICE float Abs(float x) { return fabsf(x); }
NSA_DEVICE float RoundEven(float x) { return rintf(x); }
NSA_DEVICE double RoundEven(double x) { return rint(x); }
NSA_DEVICE double RoundUp(double x) { return ceil(x); }
NSA_DEVICE float Infinity() { return __int_as_float(0x7F800000); }
NSA_DEVICE float NotANumber() { return __int_as_float(0x7FC00000); }

NSA_DEVICE uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/// d += a·b by a warp, a [16, 16] row-major and b [16, 8] column-major; who holds what is told in
/// tests/cuda_host/fragments.h. PTX ISA: "Matrix Fragments for mma.m16n8k16 with floating point
/// type".
NSA_DEVICE void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Bf16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
NSA_DEVICE void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], F16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// d += a·b by a warp, of signed bytes with exact sums: a [16, 32] row-major and b [32, 8]
/// column-major, or 16 in the place of 32. PTX ISA: "Matrix Fragments for mma.m16n8k32" and "…
/// mma.m16n8k16 with .u8/.s8 type".
NSA_DEVICE void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
NSA_DEVICE void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

/// PTX ISA, "ldmatrix": kCount matrices of 8 × 8 elements of 16 bits. Lane 8·i + j brings the
/// address of row j of matrix i, 16 bytes in shared memory.
template <bool kTranspose>
NSA_DEVICE void LoadMatrix(uint32_t (&r)[1], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(SharedAddress(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
}
template <bool kTranspose>
NSA_DEVICE void LoadMatrix(uint32_t (&r)[2], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(SharedAddress(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
}
template <bool kTranspose>
NSA_DEVICE void LoadMatrix(uint32_t (&r)[4], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
}

/// 16 bytes in one instruction, which a copy of the struct may become or not.
NSA_DEVICE U32x4 LoadVector(const U32x4* from) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  return {{v.x, v.y, v.z, v.w}};
}
/// 16 bytes of global memory that this multiprocessor reads once: they displace nothing in its L1.
/// PTX ISA, "ld.global.nc": nobody writes them while the kernel runs.
NSA_DEVICE U32x4 LoadOnce(const U32x4* global) {
  U32x4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3])
      : "l"(__cvta_generic_to_global(global)));
  return v;
}

/// PTX ISA, "cp.async": 16, 8 or 4 bytes from global to shared memory; zeros where not `valid`.
/// They are there for this thread after WaitCopies, and for others after a barrier behind that.
template <int kBytes = 16>
NSA_DEVICE void CopyAsync(void* shared, const void* global, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(SharedAddress(shared)),
                 "l"(__cvta_generic_to_global(global)), "n"(kBytes), "r"(valid ? kBytes : 0)
                 : "memory");
  }
}
/// Closes a group of this thread's copies.
NSA_DEVICE void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for this thread's groups but the last kPending.
template <int kPending>
NSA_DEVICE void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_DEVICE_GPU_H_
