#ifndef NSA_CLIENT_LOAD_REQUEST_H_
#define NSA_CLIENT_LOAD_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

namespace nsa::client {

/// A request that is to be made: when, how long, and with what.
struct PlannedRequest {
  int64_t index = 0;  // in its phase, from 0
  bool warmup = false;
  double arrival_s = 0;       // since the phase began; closed loop: unused
  int64_t prompt_tokens = 1;  // with the prefix
  int64_t output_tokens = 1;
  int64_t prefix_group = 0;   // which of the shared prefixes
  int64_t prefix_tokens = 0;  // of the prompt, the same for all of the group; 0: nothing is shared
  int32_t priority = 0;
  double deadline_ms = 0;  // from the arrival; 0: none
  std::string cache_salt = {};
  std::vector<int32_t> token_ids = {};  // the prompt itself, prompt_tokens ids; empty: to be made
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_REQUEST_H_
