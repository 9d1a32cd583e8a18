#ifndef NSA_ENGINE_TOKENIZER_JINJA_INTERPRETER_STATE_H_
#define NSA_ENGINE_TOKENIZER_JINJA_INTERPRETER_STATE_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/jinja/parser.h"
#include "engine/tokenizer/jinja/status.h"
#include "engine/tokenizer/jinja/value.h"

namespace nsa::engine::jinja {

/// Names and values. A loop's turn, a macro's call and a set block have scopes of their own.
struct Scope {
  std::vector<std::pair<std::string, Value>> variables;
  std::shared_ptr<Scope> parent;

  const Value* Find(std::string_view name) const;
  void Set(const std::string& name, Value value);
};
using ScopePtr = std::shared_ptr<Scope>;

class ForLoop;

/// One rendering. Statements are in interpreter.cc, expressions in evaluator.cc.
class Interpreter {
 public:
  absl::StatusOr<std::string> Run(const Body& body,
                                  std::vector<std::pair<std::string, Value>> variables);

 private:
  friend class ForLoop;
  static constexpr int kMaxDepth = 400;  // of Execute and Evaluate calls, macros included
  enum class Flow { kNext, kBreak, kContinue };

  absl::StatusOr<Flow> ExecuteBody(const Body& body, const ScopePtr& scope);
  absl::StatusOr<Flow> Execute(const Stmt& stmt, const ScopePtr& scope);
  absl::StatusOr<Flow> ExecuteIf(const Stmt& stmt, const ScopePtr& scope);
  absl::StatusOr<Flow> ExecuteFor(const Stmt& stmt, const ScopePtr& scope);
  absl::StatusOr<Flow> ExecuteLoop(const Stmt& stmt, const ScopePtr& scope, const Value& iterable,
                                   int level);
  // What a recursive loop prints over `iterable`.
  absl::StatusOr<Value> Recurse(const Stmt& stmt, const ScopePtr& scope, const Value& iterable,
                                int level);
  static Value MakeMacro(const Stmt& stmt, const ScopePtr& scope);
  absl::Status ExecuteCallBlock(const Stmt& stmt, const ScopePtr& scope);
  absl::StatusOr<Flow> ExecuteWith(const Stmt& stmt, const ScopePtr& scope);
  // What the body prints, caught and sent through the filters.
  absl::StatusOr<Value> CaptureFiltered(const Stmt& stmt, const ScopePtr& scope);
  absl::Status PrintValue(const Value& value);
  absl::Status Assign(const Target& target, const Value& value, const ScopePtr& scope);
  absl::Status Print(std::string_view text);
  // What the body prints, caught.
  absl::StatusOr<Value> Capture(const Body& body, const ScopePtr& scope);

  absl::StatusOr<Value> Evaluate(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateKind(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateName(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateDict(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateSlice(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateCall(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateFilter(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateTest(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateLogic(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateConcat(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateCompare(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvaluateIf(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<std::vector<Value>> EvaluateAll(const std::vector<ExprPtr>& exprs, size_t first,
                                                 const ScopePtr& scope);
  absl::StatusOr<Arguments> EvaluateArguments(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> Call(const Value& callee, const Arguments& arguments);
  absl::StatusOr<Value> CallMacro(const Function& function, const Arguments& arguments);
  absl::Status BindMacro(const Stmt& macro, const Arguments& arguments,
                         std::vector<const Value*>& bound, Scope& scope);

  absl::Status Enter(int line);

  Budget budget_;
  int depth_ = 0;
  int line_ = 1;  // of the last node entered, for errors
  std::string* out_ = nullptr;
};

/// a op b for numbers, strings and lists; an error where Python raises one.
absl::StatusOr<Value> Compute(Operator op, const Value& a, const Value& b, Budget& budget);
absl::StatusOr<Value> Negate(const Value& value);
absl::StatusOr<bool> Compare(Comparison op, const Value& a, const Value& b, Budget& budget);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_INTERPRETER_STATE_H_
