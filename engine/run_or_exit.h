#ifndef NSA_ENGINE_RUN_OR_EXIT_H_
#define NSA_ENGINE_RUN_OR_EXIT_H_

#include <cstdlib>
#include <exception>

#include "engine/log.h"

namespace nsa::engine {

/// Runs the engine thread. A process whose engine thread is gone must not look well: what `body`
/// throws ends it with a message and status 1, without the core file that people's texts would be
/// in.
template <typename Body>
void RunOrExit(Body body) {
  try {
    body();
    return;
  } catch (const std::exception& error) {
    LOG(ERROR) << "the engine thread has died: " << error.what() << "; exit";
  } catch (...) {
    LOG(ERROR) << "the engine thread has died; exit";
  }
  std::_Exit(EXIT_FAILURE);
}

}  // namespace nsa::engine

#endif  // NSA_ENGINE_RUN_OR_EXIT_H_
