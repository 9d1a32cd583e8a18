#ifndef NSA_ENGINE_THREAD_NAME_H_
#define NSA_ENGINE_THREAD_NAME_H_

#include "kernels/thread_name.h"

/// For layers above, which know no kernels.
namespace nsa::engine {

using kernels::NameThread;

}  // namespace nsa::engine

#endif  // NSA_ENGINE_THREAD_NAME_H_
