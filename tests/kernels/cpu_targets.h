#ifndef NSA_TESTS_KERNELS_CPU_TARGETS_H_
#define NSA_TESTS_KERNELS_CPU_TARGETS_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/target.h"

namespace nsa::kernels {

/// Whether the present target's multiply-add rounds once, as std::fma does.
inline bool TargetHasFma() {
  const std::string name = cpu::TargetName();
  return name == "AVX2" || name == "AVX3" || name == "AVX3_DL";
}

/// Runs a test once for each instruction set that this CPU has, not for the best alone.
/// The choice is global to the process, as Highway's dispatch is.
class CpuTargetTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { cpu::ForceTarget(GetParam()); }
  void TearDown() override { cpu::ForceTarget(""); }
};

#define NSA_INSTANTIATE_CPU_TARGETS(suite)                                                 \
  INSTANTIATE_TEST_SUITE_P(Targets, suite,                                                 \
                           testing::ValuesIn(::nsa::kernels::cpu::SupportedTargetNames()), \
                           [](const auto& info) { return info.param; })

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_CPU_TARGETS_H_
