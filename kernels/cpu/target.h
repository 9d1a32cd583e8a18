#ifndef NSA_KERNELS_CPU_TARGET_H_
#define NSA_KERNELS_CPU_TARGET_H_

#include <string>
#include <vector>

namespace nsa::kernels::cpu {

/// Names of the instruction sets that were compiled and that this CPU has, best first.
std::vector<std::string> SupportedTargetNames();

/// Makes every later call use the instruction set of that name, for tests and benchmarks; the empty
/// name gives the choice back to dispatch. Not safe while another thread runs an operator.
void ForceTarget(const std::string& name);

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_TARGET_H_
