#include "engine/tokenizer/normalizer.h"

#include <gtest/gtest.h>

namespace nsa::engine {
namespace {

TEST(Normalizer, ComposesAndDecomposes) {
  Normalizer nfc, nfd, nfkc;
  nfc.AddForm(Normalizer::Form::kNfc);
  nfd.AddForm(Normalizer::Form::kNfd);
  nfkc.AddForm(Normalizer::Form::kNfkc);
  EXPECT_EQ(nfc.Apply("e\u0301 \u1112\u1161\u11ab"), "\u00e9 \ud55c");
  EXPECT_EQ(nfd.Apply("\u00e9"), "e\u0301");
  EXPECT_EQ(nfkc.Apply("\ufb01 \u2460"), "fi 1");
  EXPECT_EQ(nfc.Apply("\ufb01"), "\ufb01");
  EXPECT_EQ(nfc.Apply(""), "");
  EXPECT_EQ(nfc.Apply(std::string_view("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Normalizer, RunsStepsInOrder) {
  Normalizer steps;
  EXPECT_TRUE(steps.empty());
  steps.AddPrepend(" ");
  steps.AddReplace(" ", "__");
  EXPECT_EQ(steps.Apply("a b"), "__a__b");
  EXPECT_EQ(steps.Apply(""), "");
}

TEST(Normalizer, PrependsUnlessItIsThere) {
  Normalizer steps;
  steps.AddPrepend("_", "_");
  EXPECT_EQ(steps.Apply("a"), "_a");
  EXPECT_EQ(steps.Apply("_a"), "_a");
}

}  // namespace
}  // namespace nsa::engine
