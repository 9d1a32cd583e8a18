#include "engine/grammar/c_api.h"

#include <malloc.h>
#include <time.h>
#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// As deep as a grammar may be nested, by xgrammar's own guard.
constexpr int kMaxRecursion = 1000;
// Endless white space is what a model falls into that does not know how to go on.
constexpr int kMaxWhitespace = 32;
// Allocations between two looks at the clock.
constexpr int kClockInterval = 64;

namespace {

struct BudgetExceeded : std::bad_alloc {};

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Counts what this thread allocates in xgrammar while it is in scope. `held` goes on from what the
/// last scope of the same object left.
class Account {
 public:
  Account(const NsaGrammarBudget& budget, int64_t& held)
      : held_(&held), limit_(budget.bytes), deadline_(CpuSeconds() + budget.cpu_seconds) {
    current = this;
  }
  ~Account() { current = nullptr; }
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  /// Throws, but not a second time while destructors run.
  void Add(size_t size) {
    *held_ += static_cast<int64_t>(size);
    const bool look = ++num_allocations_ % kClockInterval == 0;
    if (*held_ <= limit_ && !(look && CpuSeconds() > deadline_)) return;
    if (std::uncaught_exceptions() == 0) throw BudgetExceeded();
  }
  void Remove(size_t size) { *held_ -= static_cast<int64_t>(size); }

  static thread_local Account* current;

 private:
  int64_t* held_;
  int64_t limit_;
  double deadline_;
  int num_allocations_ = 0;
};

thread_local Account* Account::current = nullptr;

void Report(const char* message, char* error, size_t error_size) {
  if (error_size == 0) return;
  const size_t size = std::min(std::strlen(message), error_size - 1);
  std::memcpy(error, message, size);
  error[size] = 0;
}

/// xgrammar's errors begin with a time, its file and a line: "[12:00:00] …/x.cc:123: what".
std::string WithoutPlace(const std::string& message) {
  const size_t place = message.find(".cc:");
  const size_t colon = place == std::string::npos ? place : message.find(": ", place);
  std::string rest = colon == std::string::npos ? message : message.substr(colon + 2);
  while (!rest.empty() && (rest.back() == '\n' || rest.back() == ' ')) rest.pop_back();
  return rest;
}

/// Runs `body` under the budget; what is thrown becomes a status and a message.
template <typename Body>
NsaGrammarStatus Run(const NsaGrammarBudget& budget, int64_t& held, char* error, size_t error_size,
                     Body body) {
  std::string message;
  try {
    const Account account(budget, held);
    return body();
  } catch (const std::bad_alloc&) {
    return kNsaGrammarExhausted;
  } catch (const std::exception& thrown) {
    message = thrown.what();
  } catch (...) {
    message = "unknown error";
  }
  Report(WithoutPlace(message).c_str(), error, error_size);
  return kNsaGrammarInvalid;
}

}  // namespace

struct NsaGrammarVocabulary {
  xgrammar::TokenizerInfo info;
};

struct NsaGrammar {
  xgrammar::CompiledGrammar compiled;
};

struct NsaGrammarMatcher {
  xgrammar::GrammarMatcher matcher;
  int64_t held = 0;
};

namespace {

xgrammar::CompiledGrammar Compile(const xgrammar::TokenizerInfo& info, NsaGrammarKind kind,
                                  const std::string& text) {
  xgrammar::GrammarCompiler compiler(info, /*max_threads=*/1, /*cache_enabled=*/false);
  switch (kind) {
    case kNsaGrammarRegex:
      return compiler.CompileRegex(text);
    case kNsaGrammarEbnf:
      return compiler.CompileGrammar(text, "root");
    case kNsaGrammarJsonSchema:
      break;
  }
  return compiler.CompileJSONSchema(text, /*any_whitespace=*/true, std::nullopt, std::nullopt,
                                    /*strict_mode=*/true, kMaxWhitespace);
}

}  // namespace

extern "C" {

void* nsa_grammar_new(size_t size) {
  void* const pointer = ::operator new(size);
  if (Account* const account = Account::current) {
    try {
      account->Add(malloc_usable_size(pointer));
    } catch (...) {
      account->Remove(malloc_usable_size(pointer));
      ::operator delete(pointer);
      throw;
    }
  }
  return pointer;
}

void nsa_grammar_delete(void* pointer) {
  if (Account::current != nullptr && pointer != nullptr) {
    Account::current->Remove(malloc_usable_size(pointer));
  }
  ::operator delete(pointer);
}

void* nsa_grammar_new_array(size_t size) { return nsa_grammar_new(size); }
void nsa_grammar_delete_array(void* pointer) { nsa_grammar_delete(pointer); }
void nsa_grammar_sized_delete(void* pointer, size_t) { nsa_grammar_delete(pointer); }

NsaGrammarVocabulary* nsa_grammar_vocabulary(const NsaGrammarToken* tokens, size_t num_tokens,
                                             const int32_t* stop_ids, size_t num_stop_ids,
                                             char* error, size_t error_size) {
  try {
    xgrammar::SetMaxRecursionDepth(kMaxRecursion);
    std::vector<std::string> vocabulary;
    vocabulary.reserve(num_tokens);
    for (size_t i = 0; i < num_tokens; ++i) {
      vocabulary.emplace_back(tokens[i].bytes, tokens[i].num_bytes);
    }
    return new NsaGrammarVocabulary{{vocabulary, xgrammar::VocabType::RAW,
                                     static_cast<int>(num_tokens),
                                     std::vector<int32_t>(stop_ids, stop_ids + num_stop_ids)}};
  } catch (const std::exception& thrown) {
    Report(thrown.what(), error, error_size);
    return nullptr;
  }
}

void nsa_grammar_vocabulary_free(NsaGrammarVocabulary* vocabulary) { delete vocabulary; }

NsaGrammarStatus nsa_grammar_compile(const NsaGrammarVocabulary* vocabulary, NsaGrammarKind kind,
                                     const char* text, size_t num_bytes,
                                     const NsaGrammarBudget* budget, NsaGrammar** grammar,
                                     char* error, size_t error_size) {
  int64_t held = 0;
  return Run(*budget, held, error, error_size, [&] {
    *grammar = new NsaGrammar{Compile(vocabulary->info, kind, std::string(text, num_bytes))};
    return kNsaGrammarOk;
  });
}

size_t nsa_grammar_num_bytes(const NsaGrammar* grammar) {
  return grammar->compiled.MemorySizeBytes();
}

void nsa_grammar_free(NsaGrammar* grammar) { delete grammar; }

NsaGrammarMatcher* nsa_grammar_matcher(const NsaGrammar* grammar) {
  try {
    return new NsaGrammarMatcher{xgrammar::GrammarMatcher(grammar->compiled)};
  } catch (const std::exception&) {
    return nullptr;
  }
}

void nsa_grammar_matcher_free(NsaGrammarMatcher* matcher) { delete matcher; }

NsaGrammarStatus nsa_grammar_fill(NsaGrammarMatcher* matcher, const NsaGrammarBudget* budget,
                                  uint32_t* words, size_t num_words) {
  return Run(*budget, matcher->held, nullptr, 0, [&] {
    auto size = static_cast<int64_t>(num_words);
    DLTensor mask{};
    mask.data = words;
    mask.device = {kDLCPU, 0};
    mask.ndim = 1;
    mask.dtype = xgrammar::GetBitmaskDLType();
    mask.shape = &size;
    if (!matcher->matcher.FillNextTokenBitmask(&mask)) std::fill_n(words, num_words, ~0U);
    return kNsaGrammarOk;
  });
}

NsaGrammarStatus nsa_grammar_accept(NsaGrammarMatcher* matcher, const NsaGrammarBudget* budget,
                                    int32_t token_id) {
  return Run(*budget, matcher->held, nullptr, 0, [&] {
    return matcher->matcher.AcceptToken(token_id) ? kNsaGrammarOk : kNsaGrammarInvalid;
  });
}

}  // extern "C"
