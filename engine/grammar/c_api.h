#ifndef NSA_ENGINE_GRAMMAR_C_API_H_
#define NSA_ENGINE_GRAMMAR_C_API_H_

#include <stddef.h>
#include <stdint.h>

// All that leaves the xgrammar library of engine/xgrammar.cmake. Plain C: its allocations are
// counted, so it has copies of the standard library's templates of its own, and no C++ type and no
// exception may cross.

extern "C" {

enum NsaGrammarStatus {
  kNsaGrammarOk = 0,
  kNsaGrammarInvalid = 1,    // the text is no grammar of its kind
  kNsaGrammarExhausted = 2,  // more time or memory than allowed
};

enum NsaGrammarKind {
  kNsaGrammarJsonSchema = 0,
  kNsaGrammarRegex = 1,
  kNsaGrammarEbnf = 2,
};

/// What one call may take: the thread's CPU time, and bytes that it holds at a time.
struct NsaGrammarBudget {
  double cpu_seconds;
  int64_t bytes;
};

struct NsaGrammarToken {
  const char* bytes;
  size_t num_bytes;  // 0: no text that a grammar could ask for
};

struct NsaGrammarVocabulary;
struct NsaGrammar;
struct NsaGrammarMatcher;

/// Null and a message in `error` (ended by 0, cut to `error_size`) where it cannot be had.
NsaGrammarVocabulary* nsa_grammar_vocabulary(const NsaGrammarToken* tokens, size_t num_tokens,
                                             const int32_t* stop_ids, size_t num_stop_ids,
                                             char* error, size_t error_size);
void nsa_grammar_vocabulary_free(NsaGrammarVocabulary* vocabulary);

/// Recurses up to a depth that wants some MiB of stack. The grammar may outlive the vocabulary.
NsaGrammarStatus nsa_grammar_compile(const NsaGrammarVocabulary* vocabulary, NsaGrammarKind kind,
                                     const char* text, size_t num_bytes,
                                     const NsaGrammarBudget* budget, NsaGrammar** grammar,
                                     char* error, size_t error_size);
size_t nsa_grammar_num_bytes(const NsaGrammar* grammar);
void nsa_grammar_free(NsaGrammar* grammar);

/// Null where memory is short. May outlive the grammar.
NsaGrammarMatcher* nsa_grammar_matcher(const NsaGrammar* grammar);
void nsa_grammar_matcher_free(NsaGrammarMatcher* matcher);

// A matcher that has answered anything but OK is of no more use. `budget->bytes` is of all that the
// matcher holds.

/// Which tokens may come next: bit id % 32 of words[id / 32], [ceil(num_tokens / 32)].
NsaGrammarStatus nsa_grammar_fill(NsaGrammarMatcher* matcher, const NsaGrammarBudget* budget,
                                  uint32_t* words, size_t num_words);
/// Invalid where the token may not come next.
NsaGrammarStatus nsa_grammar_accept(NsaGrammarMatcher* matcher, const NsaGrammarBudget* budget,
                                    int32_t token_id);

// What xgrammar's own allocations become (engine/xgrammar.cmake).
void* nsa_grammar_new(size_t size);
void* nsa_grammar_new_array(size_t size);
void nsa_grammar_delete(void* pointer);
void nsa_grammar_delete_array(void* pointer);
void nsa_grammar_sized_delete(void* pointer, size_t size);

}  // extern "C"

#endif  // NSA_ENGINE_GRAMMAR_C_API_H_
