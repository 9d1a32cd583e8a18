#ifndef NSA_ENGINE_MEMORY_H_
#define NSA_ENGINE_MEMORY_H_

#include <cstdint>

namespace nsa::engine {

/// Bytes that this process may still take: the machine's available memory, or less where its
/// control group allows less. Linux.
int64_t AvailableMemoryBytes();

/// The largest resident size that this process has had, in bytes.
int64_t PeakResidentBytes();

/// Cores that this process may use, at least 1.
int NumUsableCores();

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MEMORY_H_
