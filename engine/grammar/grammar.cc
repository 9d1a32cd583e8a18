#include "engine/grammar/grammar.h"

#include <pthread.h>

#include <algorithm>
#include <cstddef>
#include <list>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/freed_by.h"
#include "engine/grammar/c_api.h"

namespace nsa::engine {
namespace {

// Of one step of one completion. Where a grammar needs more, its request ends.
constexpr NsaGrammarBudget kStepBudget = {.cpu_seconds = 0.2, .bytes = int64_t{128} << 20};
// xgrammar recurses as deep as grammars are nested.
constexpr size_t kStackBytes = size_t{64} << 20;
constexpr size_t kErrorBytes = 512;

using Vocabulary = std::unique_ptr<NsaGrammarVocabulary, FreedBy<nsa_grammar_vocabulary_free>>;
using Compiled = std::unique_ptr<NsaGrammar, FreedBy<nsa_grammar_free>>;
using Matcher = std::unique_ptr<NsaGrammarMatcher, FreedBy<nsa_grammar_matcher_free>>;

class XgrammarMatcher final : public GrammarMatcher {
 public:
  XgrammarMatcher(Matcher matcher, size_t num_words)
      : matcher_(std::move(matcher)), mask_(num_words) {}

  absl::Status Fill() override {
    return ToStatus(nsa_grammar_fill(matcher_.get(), &kStepBudget, mask_.data(), mask_.size()));
  }
  const std::vector<uint32_t>& mask() const override { return mask_; }
  absl::Status Accept(int32_t token_id) override {
    return ToStatus(nsa_grammar_accept(matcher_.get(), &kStepBudget, token_id));
  }

 private:
  static absl::Status ToStatus(NsaGrammarStatus status) {
    if (status == kNsaGrammarOk) return absl::OkStatus();
    if (status == kNsaGrammarInvalid) {
      return absl::InternalError("structured_output: the grammar does not take its own token");
    }
    return absl::ResourceExhaustedError(absl::StrFormat(
        "structured_output: the next token takes the grammar more than %.1f s or %d MiB",
        kStepBudget.cpu_seconds, kStepBudget.bytes >> 20));
  }

  Matcher matcher_;
  std::vector<uint32_t> mask_;
};

class XgrammarGrammar final : public Grammar {
 public:
  XgrammarGrammar(Compiled compiled, size_t num_words)
      : compiled_(std::move(compiled)), num_words_(num_words) {}

  absl::StatusOr<std::unique_ptr<GrammarMatcher>> NewMatcher() const override {
    Matcher matcher(nsa_grammar_matcher(compiled_.get()));
    if (matcher == nullptr) {
      return absl::ResourceExhaustedError("structured_output: no memory for the grammar's state");
    }
    return std::make_unique<XgrammarMatcher>(std::move(matcher), num_words_);
  }
  int64_t num_bytes() const { return static_cast<int64_t>(nsa_grammar_num_bytes(compiled_.get())); }

 private:
  Compiled compiled_;
  size_t num_words_;
};

/// A string of xgrammar's EBNF.
std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      absl::StrAppendFormat(&quoted, "\\u%04X", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

struct Source {
  NsaGrammarKind kind;
  std::string text;
};

Source SourceOf(const GrammarSpec& spec) {
  switch (spec.kind) {
    case GrammarSpec::Kind::kJsonSchema:
      return {kNsaGrammarJsonSchema, spec.text};
    case GrammarSpec::Kind::kJsonObject:
      return {kNsaGrammarJsonSchema, R"({"type":"object","additionalProperties":true})"};
    case GrammarSpec::Kind::kRegex:
      return {kNsaGrammarRegex, spec.text};
    case GrammarSpec::Kind::kGrammar:
      return {kNsaGrammarEbnf, spec.text};
    case GrammarSpec::Kind::kChoice:
      break;
  }
  std::string rule = "root ::= ";
  for (size_t i = 0; i < spec.choices.size(); ++i) {
    absl::StrAppend(&rule, i == 0 ? "" : " | ", Quoted(spec.choices[i]));
  }
  return {kNsaGrammarEbnf, rule};
}

/// How deep brackets of one sort stand in one another, at most.
int DepthOf(const std::string& text) {
  int deepest = 0;
  for (const char* pair : {"()", "[]", "{}"}) {
    int depth = 0;
    for (const char c : text) {
      if (c == pair[0]) deepest = std::max(deepest, ++depth);
      if (c == pair[1]) --depth;
    }
  }
  return deepest;
}

/// Runs `body` on a thread with a stack of its own size, and waits for it.
template <typename Body>
bool RunWithStack(size_t stack_bytes, Body body) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  pthread_t thread;
  const auto call = [](void* context) -> void* {
    (*static_cast<Body*>(context))();
    return nullptr;
  };
  const bool started = pthread_create(&thread, &attributes, call, &body) == 0;
  pthread_attr_destroy(&attributes);
  if (started) pthread_join(thread, nullptr);
  return started;
}

class XgrammarCompiler final : public GrammarCompiler {
 public:
  XgrammarCompiler(const Tokenizer* tokenizer, int32_t vocabulary_size, const Limits& limits)
      : tokenizer_(tokenizer), vocabulary_size_(vocabulary_size), limits_(limits) {}

  absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const GrammarSpec& spec) override;

 private:
  struct Kept {
    NsaGrammarKind kind;
    std::string text;
    std::shared_ptr<const XgrammarGrammar> grammar;
    int64_t num_bytes;
  };

  absl::Status Check(const Source& source) const;
  absl::Status MakeVocabulary();
  absl::StatusOr<std::shared_ptr<const XgrammarGrammar>> CompileNew(const Source& source) const;
  std::shared_ptr<const Grammar> Find(const Source& source);
  void Keep(Source source, std::shared_ptr<const XgrammarGrammar> grammar);

  const Tokenizer* tokenizer_;
  const int32_t vocabulary_size_;
  const Limits limits_;
  std::mutex vocabulary_mutex_;
  Vocabulary vocabulary_;  // made by the first request that wants it
  std::mutex mutex_;
  std::list<Kept> kept_;  // the last used first
  int64_t kept_bytes_ = 0;
};

absl::Status XgrammarCompiler::Check(const Source& source) const {
  if (tokenizer_->stop_ids().empty()) {
    return absl::InvalidArgumentError(
        "structured_output: this checkpoint has no token that ends a completion");
  }
  const auto num_bytes = static_cast<int64_t>(source.text.size());
  if (num_bytes == 0 || num_bytes > limits_.text_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "structured_output has %d bytes, expected 1 to %d", num_bytes, limits_.text_bytes));
  }
  if (source.text.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("structured_output holds a zero byte, expected text");
  }
  if (const int depth = DepthOf(source.text); depth > limits_.depth) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "structured_output is nested %d deep, expected at most %d", depth, limits_.depth));
  }
  return absl::OkStatus();
}

absl::Status XgrammarCompiler::MakeVocabulary() {
  const std::lock_guard<std::mutex> lock(vocabulary_mutex_);
  if (vocabulary_ != nullptr) return absl::OkStatus();
  std::vector<std::string> texts(static_cast<size_t>(vocabulary_size_));
  std::vector<NsaGrammarToken> tokens(texts.size());
  for (int32_t id = 0; id < vocabulary_size_; ++id) {
    std::string& text = texts[static_cast<size_t>(id)];
    if (id < tokenizer_->vocabulary_size() && !tokenizer_->IsSpecial(id)) {
      text = tokenizer_->TokenBytes(id);
    }
    tokens[static_cast<size_t>(id)] = {text.data(), text.size()};
  }
  const std::vector<int32_t>& stop_ids = tokenizer_->stop_ids();
  char error[kErrorBytes];
  vocabulary_.reset(nsa_grammar_vocabulary(tokens.data(), tokens.size(), stop_ids.data(),
                                           stop_ids.size(), error, sizeof(error)));
  if (vocabulary_ != nullptr) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("structured_output: the vocabulary: ", error));
}

absl::StatusOr<std::shared_ptr<const XgrammarGrammar>> XgrammarCompiler::CompileNew(
    const Source& source) const {
  const NsaGrammarBudget budget = {.cpu_seconds = limits_.cpu_seconds, .bytes = limits_.bytes};
  char error[kErrorBytes] = "";
  NsaGrammar* compiled = nullptr;
  NsaGrammarStatus status = kNsaGrammarExhausted;
  RunWithStack(kStackBytes, [&] {
    status = nsa_grammar_compile(vocabulary_.get(), source.kind, source.text.data(),
                                 source.text.size(), &budget, &compiled, error, sizeof(error));
  });
  if (status == kNsaGrammarInvalid) {
    return absl::InvalidArgumentError(absl::StrCat("structured_output: ", error));
  }
  if (status == kNsaGrammarExhausted) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("structured_output takes more than %.1f s or %d MiB to compile; make it "
                        "smaller",
                        limits_.cpu_seconds, limits_.bytes >> 20));
  }
  const auto num_words = static_cast<size_t>((vocabulary_size_ + 31) / 32);
  return std::make_shared<XgrammarGrammar>(Compiled(compiled), num_words);
}

std::shared_ptr<const Grammar> XgrammarCompiler::Find(const Source& source) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::ranges::find_if(kept_, [&](const Kept& kept) {
    return kept.kind == source.kind && kept.text == source.text;
  });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return found->grammar;
}

void XgrammarCompiler::Keep(Source source, std::shared_ptr<const XgrammarGrammar> grammar) {
  const int64_t num_bytes = grammar->num_bytes() + static_cast<int64_t>(source.text.size());
  const std::lock_guard<std::mutex> lock(mutex_);
  kept_bytes_ += num_bytes;
  kept_.push_front({source.kind, std::move(source.text), std::move(grammar), num_bytes});
  while (kept_bytes_ > limits_.cache_bytes) {
    kept_bytes_ -= kept_.back().num_bytes;
    kept_.pop_back();
  }
}

absl::StatusOr<std::shared_ptr<const Grammar>> XgrammarCompiler::Compile(const GrammarSpec& spec) {
  Source source = SourceOf(spec);
  if (absl::Status status = Check(source); !status.ok()) return status;
  if (auto found = Find(source)) return found;
  if (absl::Status status = MakeVocabulary(); !status.ok()) return status;
  auto grammar = CompileNew(source);
  if (!grammar.ok()) return grammar.status();
  Keep(std::move(source), *grammar);
  return *std::move(grammar);
}

}  // namespace

std::unique_ptr<GrammarCompiler> GrammarCompiler::Create(const Tokenizer* tokenizer,
                                                         int32_t vocabulary_size,
                                                         const Limits& limits) {
  return std::make_unique<XgrammarCompiler>(tokenizer, vocabulary_size, limits);
}

}  // namespace nsa::engine
