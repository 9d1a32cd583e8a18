#include "engine/fair_share.h"

#include <algorithm>

#include "engine/log.h"
#include "engine/text.h"

namespace nsa::engine {

void FairShare::Arrive(std::string_view tenant) {
  const auto it = accounts_.find(View(tenant));
  if (it != accounts_.end()) {
    ++it->second.num_requests;
    return;
  }
  int64_t least = accounts_.empty() ? floor_ : INT64_MAX;
  for (const auto& [name, account] : accounts_) least = std::min(least, account.served);
  accounts_[std::string(tenant)] = {.served = least, .num_requests = 1};
}

void FairShare::Leave(std::string_view tenant) {
  const auto it = accounts_.find(View(tenant));
  CHECK(it != accounts_.end()) << "a tenant leaves that is not there";
  if (--it->second.num_requests > 0) return;
  floor_ = it->second.served;
  accounts_.erase(it);
}

void FairShare::Serve(std::string_view tenant, int64_t num_tokens) {
  const auto it = accounts_.find(View(tenant));
  if (it != accounts_.end()) it->second.served += num_tokens;
}

int64_t FairShare::Served(std::string_view tenant) const {
  const auto it = accounts_.find(View(tenant));
  return it == accounts_.end() ? floor_ : it->second.served;
}

}  // namespace nsa::engine
