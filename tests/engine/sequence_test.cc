#include "engine/sequence.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/engine/fakes.h"

namespace nsa::engine {
namespace {

/// Token 1 is a stop string with text on both sides.
class WordTokenizer final : public LetterTokenizer {
 public:
  std::string TokenBytes(int32_t id) const override {
    return id == 1 ? "xSTOPy" : LetterTokenizer::TokenBytes(id);
  }
};

class SequenceTest : public testing::Test {
 protected:
  std::unique_ptr<Sequence> Make(int64_t min_tokens, int64_t max_tokens,
                                 bool include_stop = false) {
    Request request;
    request.id = "r";
    request.prompt_token_ids = {5};
    request.sampling.stop = {"STOP"};
    request.sampling.min_tokens = min_tokens;
    request.sampling.include_stop_str_in_output = include_stop;
    return std::make_unique<Sequence>(std::move(request), sink_, tokenizer_, max_tokens, 1,
                                      absl::UnixEpoch());
  }

  WordTokenizer tokenizer_;
  std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
};

TEST_F(SequenceTest, StopStringEndsAndIsNotShown) {
  auto sequence = Make(0, 10);
  EXPECT_FALSE(sequence->AcceptToken(2, absl::UnixEpoch()));
  EXPECT_TRUE(sequence->AcceptToken(1, absl::UnixEpoch()));
  EXPECT_EQ(sink_->text, "cx");
  EXPECT_EQ(sequence->finish.reason, FinishReason::kStopString);
  EXPECT_EQ(sequence->finish.stop_string, "STOP");
}

TEST_F(SequenceTest, BeforeMinTokensAStopStringIsPlainTextInFull) {
  for (const bool include_stop : {false, true}) {
    sink_ = std::make_shared<RecordingSink>();
    auto sequence = Make(2, 10, include_stop);
    EXPECT_FALSE(sequence->AcceptToken(1, absl::UnixEpoch()));
    EXPECT_EQ(sink_->text, "xSTOPy");
    EXPECT_TRUE(sequence->AcceptToken(1, absl::UnixEpoch()));
    EXPECT_EQ(sink_->text, include_stop ? "xSTOPyxSTOP" : "xSTOPyx");
  }
}

TEST_F(SequenceTest, LengthShowsWhatWasHeldBack) {
  auto sequence = Make(0, 2);
  EXPECT_FALSE(sequence->AcceptToken(2, absl::UnixEpoch()));
  EXPECT_TRUE(sequence->AcceptToken(3, absl::UnixEpoch()));
  EXPECT_EQ(sink_->text, "cd");
  EXPECT_EQ(sequence->finish.reason, FinishReason::kLength);
}

TEST_F(SequenceTest, StopTokenIsNotShown) {
  auto sequence = Make(0, 10);
  EXPECT_FALSE(sequence->AcceptToken(2, absl::UnixEpoch()));
  EXPECT_TRUE(sequence->AcceptToken(0, absl::UnixEpoch()));
  EXPECT_EQ(sink_->text, "c");
  EXPECT_EQ(sequence->finish.stop_token_id, 0);
}

}  // namespace
}  // namespace nsa::engine
