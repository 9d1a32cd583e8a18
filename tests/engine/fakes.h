#ifndef NSA_TESTS_ENGINE_FAKES_H_
#define NSA_TESTS_ENGINE_FAKES_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/notification.h"

namespace nsa::engine {

/// Token i is the letter 'a' + i mod 26; token 0 ends a completion.
class LetterTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(c == ' ' ? 27 : c - 'a');
    return ids;
  }
  std::string TokenBytes(int32_t id) const override {
    return std::string(1, id == 27 ? ' ' : static_cast<char>('a' + id % 26));
  }
  std::string Decode(const std::vector<int32_t>& ids, bool) const override {
    std::string text;
    for (const int32_t id : ids) text += TokenBytes(id);
    return text;
  }
  int32_t vocabulary_size() const override { return 100; }
  bool IsSpecial(int32_t id) const override { return id == 0; }
  int32_t bos_id() const override { return -1; }
  const std::vector<int32_t>& stop_ids() const override { return stop_ids_; }
  std::string kind() const override { return "letters"; }
  bool strips_leading_space() const override { return false; }

 private:
  std::vector<int32_t> stop_ids_ = {0};
};

/// Keeps what it is told. Filled by the engine thread, read after WaitUntilDone.
class RecordingSink final : public OutputSink {
 public:
  void OnOutput(Output output) override {
    tokens.insert(tokens.end(), output.token_ids.begin(), output.token_ids.end());
    text += output.text;
    if (!first_token.HasBeenNotified()) first_token.Notify();
  }
  void OnChunk(const Chunk& chunk) override { chunks.push_back(chunk); }
  void OnDone(const absl::Status& status_in, const Finish& finish_in) override {
    status = status_in;
    finish = finish_in;
    ++num_done;
    done.Notify();
  }
  bool Ready() const override { return ready; }

  /// False where it does not end within a minute.
  bool WaitUntilDone() const { return done.WaitForNotificationWithTimeout(absl::Minutes(1)); }

  std::vector<int32_t> tokens;
  std::string text;
  std::vector<Chunk> chunks;
  absl::Status status;
  Finish finish;
  int num_done = 0;
  bool ready = true;
  Notification first_token;
  Notification done;
};

/// Submits a request, which is to be accepted, with a new sink.
template <class Sink>
std::shared_ptr<Sink> SubmitTo(Engine& engine, Request request) {
  auto sink = std::make_shared<Sink>();
  const absl::Status status = engine.Submit(std::move(request), sink);
  EXPECT_TRUE(status.ok()) << status;
  return sink;
}

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_FAKES_H_
