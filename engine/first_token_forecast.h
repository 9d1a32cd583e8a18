#ifndef NSA_ENGINE_FIRST_TOKEN_FORECAST_H_
#define NSA_ENGINE_FIRST_TOKEN_FORECAST_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "engine/step_cost.h"

/// When those who are there will have their first token, as far as is known. Pure functions.
namespace nsa::engine {

/// What a scheduler has before it at a moment: prompts to read, streams to go on with, and what
/// steps cost.
struct ServiceLine {
  /// A prompt that is still to be read. Read first is who has the lower priority, of these whose
  /// tenant was served the least, of these who is due first.
  struct Reader {
    int64_t priority = 0;
    int32_t tenant = 0;  // index of `served`
    absl::Time due;
    int64_t num_tokens = 0;  // to be read
    int64_t num_pages = 0;   // that it takes when it begins, and its end makes free
    int64_t num_output = 1;  // tokens that it will then generate
    bool runs = false;       // it has a place; others get one in the order above
    /// One that waits is given up where, when its turn comes, its first token would be later.
    absl::Time latest = absl::InfiniteFuture();
  };
  struct Stream {
    int64_t num_output = 1;  // tokens to come
    int64_t num_pages = 0;   // that its end makes free
  };

  /// The tenant's index; one that is new has been served as little as the least of the others.
  int32_t TenantOf(const std::string& name);

  absl::Time now;
  StepCost cost;
  int64_t max_step_tokens = 1;
  double target_step_seconds = std::numeric_limits<double>::infinity();  // beside streams
  int64_t num_places = 1;      // of running sequences, those of readers and streams included
  int64_t num_free_pages = 0;  // that no reader with a place will take
  std::vector<Reader> readers;
  std::vector<Stream> streams;
  std::vector<int64_t> served;  // tokens, by tenant
  absl::flat_hash_map<std::string, int32_t> tenants;
};

struct Outlook {
  absl::Time first_token = absl::InfiniteFuture();
  bool is_given_up = false;  // first_token is then when it would have come, had it been read
};

/// Of each reader. `last`: nothing is asked of those who have not had their first token when this
/// one has (InfiniteFuture); −1: of all.
std::vector<Outlook> ForecastFirstTokens(const ServiceLine& line, int64_t last = -1);

/// Streams that a step can serve within the target; and always as many as make it twice as long as
/// a single one does, for below that the target is out of reach. No limit where what a row costs is
/// not known: with more of them it will be.
int64_t MostStreams(const StepCost& cost, double target_step_seconds);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_FIRST_TOKEN_FORECAST_H_
