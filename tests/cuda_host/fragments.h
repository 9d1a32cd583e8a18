#ifndef NSA_TESTS_CUDA_HOST_FRAGMENTS_H_
#define NSA_TESTS_CUDA_HOST_FRAGMENTS_H_

/// Which lane holds which element of a matrix instruction's operands, as the PTX ISA lays down in
/// "Matrix Fragments for mma.m16n8k16 with floating point type", "… mma.m16n8k32" (of bytes) and
/// "ldmatrix". One register holds two elements of 16 bits or four of 8, lower indices lower.
namespace nsa::cuda_host {

struct Element {
  int row;
  int column;
};

/// Element `half` (0 or 1) of register i of A [16, 16].
constexpr Element FragmentA(int lane, int i, int half) {
  return {lane / 4 + 8 * (i % 2), lane % 4 * 2 + half + 8 * (i / 2)};
}
/// Element `half` of register i of B [16, 8].
constexpr Element FragmentB(int lane, int i, int half) {
  return {lane % 4 * 2 + half + 8 * i, lane / 4};
}
/// Register i, a float, of C and D [16, 8].
constexpr Element FragmentC(int lane, int i) {
  return {lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2};
}

/// Element `byte` of register i of A [16, 32]; A [16, 16] of bytes is its left half, registers
/// 0, 1.
constexpr Element FragmentInt8A(int lane, int i, int byte) {
  return {lane / 4 + 8 * (i % 2), lane % 4 * 4 + byte + 16 * (i / 2)};
}
/// Element `byte` of register i of B [32, 8]; B [16, 8] of bytes is its upper half, register 0.
constexpr Element FragmentInt8B(int lane, int i, int byte) {
  return {lane % 4 * 4 + byte + 16 * i, lane / 4};
}

/// Element `half` of what a lane gets of a matrix [8, 8] by ldmatrix.
constexpr Element FragmentLoaded(int lane, int half, bool transpose) {
  const int row = lane / 4;
  const int column = lane % 4 * 2 + half;
  return transpose ? Element{column, row} : Element{row, column};
}

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_FRAGMENTS_H_
