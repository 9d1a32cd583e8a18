#include "tests/cuda_host/device.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nsa::kernels::cuda {
namespace {

uint16_t Half(uint32_t register_bits, int half) {
  return static_cast<uint16_t>(register_bits >> (16 * half));
}

template <typename Step>
Step& StepOf(const cuda_host::Lanes& lanes, int lane) {
  return *static_cast<Step*>(lanes[static_cast<size_t>(lane)]);
}

}  // namespace

void BallotStep::Combine(const cuda_host::Lanes& lanes) {
  uint32_t bits = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lanes[static_cast<size_t>(lane)] == nullptr) continue;
    if (StepOf<BallotStep>(lanes, lane).predicate) bits |= uint32_t{1} << lane;
  }
  for (void* lane : lanes) {
    if (lane != nullptr) static_cast<BallotStep*>(lane)->result = bits;
  }
}

void MmaStep::Combine(const cuda_host::Lanes& lanes) {
  const auto to_float = StepOf<MmaStep>(lanes, 0).to_float;
  float a[16][16], b[16][8], d[16][8] = {};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const MmaStep& step = StepOf<MmaStep>(lanes, lane);
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        const cuda_host::Element at = cuda_host::FragmentA(lane, i, half);
        a[at.row][at.column] = to_float(Half(step.a[i], half));
      }
      for (int i = 0; i < 2; ++i) {
        const cuda_host::Element at = cuda_host::FragmentB(lane, i, half);
        b[at.row][at.column] = to_float(Half(step.b[i], half));
      }
    }
    for (int i = 0; i < 4; ++i) {
      const cuda_host::Element at = cuda_host::FragmentC(lane, i);
      d[at.row][at.column] = step.d[i];
    }
  }
  // Products are exact in float32. How a tensor core rounds their sum is not documented; this is
  // one order of many.
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const cuda_host::Element at = cuda_host::FragmentC(lane, i);
      StepOf<MmaStep>(lanes, lane).d[i] = d[at.row][at.column];
    }
  }
}

void MmaInt8Step::Combine(const cuda_host::Lanes& lanes) {
  const int columns = 16 * StepOf<MmaInt8Step>(lanes, 0).num_halves;
  const auto byte_of = [](uint32_t bits, int byte) {
    return static_cast<int8_t>(bits >> (8 * byte));
  };
  int8_t a[16][32], b[32][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const MmaInt8Step& step = StepOf<MmaInt8Step>(lanes, lane);
    for (int byte = 0; byte < 4; ++byte) {
      for (int i = 0; i < 2 * step.num_halves; ++i) {
        const cuda_host::Element at = cuda_host::FragmentInt8A(lane, i, byte);
        a[at.row][at.column] = byte_of(step.a[i], byte);
      }
      for (int i = 0; i < step.num_halves; ++i) {
        const cuda_host::Element at = cuda_host::FragmentInt8B(lane, i, byte);
        b[at.row][at.column] = byte_of(step.b[i], byte);
      }
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const cuda_host::Element at = cuda_host::FragmentC(lane, i);
      int32_t& sum = StepOf<MmaInt8Step>(lanes, lane).d[i];
      for (int k = 0; k < columns; ++k) sum += a[at.row][k] * b[k][at.column];
    }
  }
}

void LoadMatrixStep::Combine(const cuda_host::Lanes& lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const LoadMatrixStep& step = StepOf<LoadMatrixStep>(lanes, lane);
    for (int i = 0; i < step.count; ++i) {
      uint32_t bits = 0;
      for (int half = 0; half < 2; ++half) {
        const cuda_host::Element at = cuda_host::FragmentLoaded(lane, half, step.transpose);
        uint16_t element;
        const void* row = StepOf<LoadMatrixStep>(lanes, 8 * i + at.row).row;
        std::memcpy(&element, static_cast<const std::byte*>(row) + 2 * at.column, 2);
        bits |= uint32_t{element} << (16 * half);
      }
      step.registers[i] = bits;
    }
  }
}

}  // namespace nsa::kernels::cuda
