#ifndef NSA_ENGINE_FAIR_SHARE_H_
#define NSA_ENGINE_FAIR_SHARE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace nsa::engine {

/// Whose turn it is between tenants: the one that was served the fewest tokens. A tenant that comes
/// back after a rest starts from the least of those that are there, so that it cannot save up (the
/// virtual token counter of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024).
/// Prompt tokens that were found in the cache cost nothing. Engine thread.
class FairShare {
 public:
  /// A request of the tenant has come; it leaves once.
  void Arrive(std::string_view tenant);
  void Leave(std::string_view tenant);

  void Serve(std::string_view tenant, int64_t num_tokens);

  /// Tokens served, as far as they count; of tenants that are there.
  int64_t Served(std::string_view tenant) const;

 private:
  struct Account {
    int64_t served = 0;
    int64_t num_requests = 0;
  };
  absl::flat_hash_map<std::string, Account> accounts_;  // of tenants that are there
  int64_t floor_ = 0;  // what the least served of the tenants that were there last had
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_FAIR_SHARE_H_
