#include "kernels/cpu/target.h"

#include <cstdint>
#include <string>
#include <vector>

#include "hwy/highway.h"
#include "hwy/targets.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

namespace nsa::kernels::cpu {

std::string TargetName() {
  // Highway numbers targets so that the lowest bit is the best.
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(targets & -targets);
}

std::vector<std::string> SupportedTargetNames() {
  std::vector<std::string> names;
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    names.emplace_back(hwy::TargetName(target));
  }
  return names;
}

void ForceTarget(const std::string& name) {
  hwy::SetSupportedTargetsForTest(0);
  int64_t chosen = 0;  // none: the CPU's own
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (name == hwy::TargetName(target)) chosen = target;
  }
  NSA_CHECK(name.empty() || chosen != 0);
  hwy::SetSupportedTargetsForTest(chosen);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace nsa::kernels::cpu
