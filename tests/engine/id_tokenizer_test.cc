#include "engine/tokenizer/id_tokenizer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nsa::engine {
namespace {

using Ids = std::vector<int32_t>;

TEST(IdTokenizerTest, TextAndIdsAreTheSame) {
  const IdTokenizer tokenizer(300, {7});
  const Ids ids = {0, 299, 17};
  const std::string text = tokenizer.Decode(ids, true);
  EXPECT_EQ(text, "<0><299><17>");
  EXPECT_EQ(tokenizer.Encode(text, {}), ids);
  EXPECT_EQ(tokenizer.TokenBytes(17), "<17>");
}

TEST(IdTokenizerTest, SkipsWhatIsNoId) {
  const IdTokenizer tokenizer(300, {});
  EXPECT_EQ(tokenizer.Encode("a<1> <300><-1>< 2><2<3>><4", {}), (Ids{1, 3}));
  EXPECT_EQ(tokenizer.Encode("", {}), Ids{});
}

TEST(IdTokenizerTest, KeepsStopIdsOfTheVocabulary) {
  EXPECT_EQ(IdTokenizer(8, {7, 8, -1}).stop_ids(), Ids{7});
}

}  // namespace
}  // namespace nsa::engine
