#include "engine/tokenizer/jinja/interpreter.h"

#include <algorithm>

#include "engine/text.h"
#include "engine/tokenizer/jinja/interpreter_state.h"

namespace nsa::engine::jinja {

const Value* Scope::Find(std::string_view name) const {
  for (const auto& [known, value] : variables) {
    if (known == name) return &value;
  }
  return nullptr;
}

void Scope::Set(const std::string& name, Value value) {
  for (auto& [known, old] : variables) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  variables.emplace_back(name, std::move(value));
}

/// The turns of a loop. The filter is asked as late as in jinja2, for its answer may depend on
/// what the body did: one item ahead if `loop` is looked at, else none.
class ForLoop : public LoopObject {
 public:
  ForLoop(Interpreter& interpreter, const Stmt& stmt, ScopePtr scope, std::vector<Value> items,
          int level)
      : interpreter_(interpreter),
        stmt_(stmt),
        scope_(std::move(scope)),
        items_(std::move(items)),
        level_(level) {
    for (const Value& item : items_) depth_ = std::max(depth_, item.depth() + 1);
  }

  /// The scope outlives no loop: it may own this object.
  void End() {
    scope_.reset();
    last_values_ = Value();
  }

  absl::StatusOr<bool> Next() {
    JINJA_ASSIGN_OR_RETURN(std::optional<Value> item, Peek());
    if (!item) return false;
    previous_ = std::exchange(current_, std::exchange(ahead_, std::nullopt));
    ++turns_;
    return true;
  }

  const Value& current() const { return *current_; }
  int depth() const override { return depth_; }

  absl::StatusOr<Value> Attribute(std::string_view name) override {
    if (name == "index") return Value::OfInt(turns_);
    if (name == "index0") return Value::OfInt(turns_ - 1);
    if (name == "first") return Value::OfBool(turns_ == 1);
    if (name == "previtem") {
      return previous_ ? *previous_ : Value::OfUndefined("there is no previous item");
    }
    if (name == "last" || name == "nextitem") {
      JINJA_ASSIGN_OR_RETURN(std::optional<Value> item, Peek());
      if (name == "last") return Value::OfBool(!item);
      return item ? *item : Value::OfUndefined("there is no next item");
    }
    if (name == "depth0") return Value::OfInt(level_);
    if (name == "depth") return Value::OfInt(level_ + 1);
    if (name == "cycle" || name == "changed") {
      auto function = std::make_shared<Function>();
      function->kind = Function::Kind::kMethod;
      function->name = std::string(name);
      function->self = Value(Value::Variant(shared_from_this()));
      return Value(Value::Variant(std::shared_ptr<const Function>(std::move(function))));
    }
    if (name != "length" && name != "revindex" && name != "revindex0") {
      return Value::OfUndefined(absl::StrCat("'loop' has no attribute '", View(name), "'"));
    }
    JINJA_ASSIGN_OR_RETURN(int64_t length, Length());
    if (name == "length") return Value::OfInt(length);
    return Value::OfInt(length - turns_ + (name == "revindex" ? 1 : 0));
  }

  absl::StatusOr<Value> Call(std::string_view name, const Arguments& arguments) override {
    const std::vector<Value>& given = arguments.positional;
    if (!arguments.named.empty()) return Error("loop: no named arguments are taken");
    if (scope_ == nullptr) return Error("'loop' is used after its end");
    if (name == "cycle") {
      if (given.empty()) return Error("loop.cycle: nothing to cycle through");
      return given[static_cast<size_t>(turns_ - 1) % given.size()];
    }
    if (name == "changed") {
      JINJA_ASSIGN_OR_RETURN(Value values,
                             MakeSequence(Sequence::Kind::kTuple, given, interpreter_.budget_));
      JINJA_ASSIGN_OR_RETURN(bool same, Equal(values, last_values_, interpreter_.budget_));
      last_values_ = std::move(values);
      return Value::OfBool(!same);
    }
    if (!stmt_.recursive) return Error("the loop must have the 'recursive' marker to be called");
    if (given.size() != 1) return Error("a recursive loop takes one argument");
    return interpreter_.Recurse(stmt_, scope_, given[0], level_ + 1);
  }

 private:
  // The next item that passes the filter.
  absl::StatusOr<std::optional<Value>> Pull() {
    while (at_ < items_.size()) {
      const Value& item = items_[at_++];
      JINJA_ASSIGN_OR_RETURN(bool passes, Passes(item));
      if (passes) return std::optional<Value>(item);
    }
    return std::optional<Value>();
  }

  absl::StatusOr<std::optional<Value>> Peek() {
    if (!ahead_) {
      JINJA_ASSIGN_OR_RETURN(ahead_, Pull());
    }
    return ahead_;
  }

  absl::StatusOr<bool> Passes(const Value& item) {
    if (stmt_.filter == nullptr || decided_) return true;
    if (scope_ == nullptr) return Error("'loop' is used after its end");
    auto turn = std::make_shared<Scope>();
    turn->parent = scope_;
    JINJA_RETURN_IF_ERROR(interpreter_.Assign(stmt_.target, item, turn));
    JINJA_ASSIGN_OR_RETURN(Value value, interpreter_.Evaluate(*stmt_.filter, turn));
    return Truth(value);
  }

  absl::StatusOr<int64_t> Length() {
    if (length_) return *length_;
    if (stmt_.filter != nullptr) {  // decides on all that is left
      std::vector<Value> rest;
      while (true) {
        JINJA_ASSIGN_OR_RETURN(std::optional<Value> item, Pull());
        if (!item) break;
        rest.push_back(std::move(*item));
      }
      length_ = turns_ + (ahead_ ? 1 : 0) + static_cast<int64_t>(rest.size());
      decided_ = true;
      items_ = std::move(rest);
      at_ = 0;
    } else {
      length_ = static_cast<int64_t>(items_.size());
    }
    return *length_;
  }

  Interpreter& interpreter_;
  const Stmt& stmt_;
  ScopePtr scope_;
  std::vector<Value> items_;
  size_t at_ = 0;
  int64_t turns_ = 0;
  int depth_ = 1;
  int level_;             // 0 but in a recursive loop
  Value last_values_;     // of loop.changed
  bool decided_ = false;  // items_ has only what passed the filter
  std::optional<Value> previous_, current_, ahead_;
  std::optional<int64_t> length_;
};

absl::Status Interpreter::Enter(int line) {
  line_ = line;
  JINJA_RETURN_IF_ERROR(budget_.Charge(1));
  if (depth_ < kMaxDepth) return absl::OkStatus();
  return Error("calls are nested deeper than ", kMaxDepth);
}

absl::Status Interpreter::Print(std::string_view text) {
  JINJA_RETURN_IF_ERROR(budget_.ChargeBytes(text.size()));
  if (out_->size() + text.size() > kMaxTextBytes) return Error("the output is over 64 MiB");
  out_->append(text);
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Capture(const Body& body, const ScopePtr& scope) {
  std::string text;
  std::string* outer = std::exchange(out_, &text);
  auto flow = ExecuteBody(body, scope);
  out_ = outer;
  if (!flow.ok()) return flow.status();
  return MakeText(std::move(text), budget_);
}

absl::Status Interpreter::Assign(const Target& target, const Value& value, const ScopePtr& scope) {
  if (target.parts.empty()) {
    if (target.attribute.empty()) {
      scope->Set(target.name, value);
      return absl::OkStatus();
    }
    for (const Scope* at = scope.get(); at != nullptr; at = at->parent.get()) {
      const Value* space = at->Find(target.name);
      if (space == nullptr) continue;
      if (!space->AsNamespace()) break;
      return space->AsNamespace()->Set(target.attribute, value);
    }
    return Error("'", target.name, "' is not a namespace; only those take attributes");
  }
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(value, budget_));
  if (items.size() != target.parts.size()) {
    return Error("cannot unpack ", items.size(), " values into ", target.parts.size(), " names");
  }
  for (size_t i = 0; i < items.size(); ++i) {
    JINJA_RETURN_IF_ERROR(Assign(target.parts[i], items[i], scope));
  }
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteBody(const Body& body,
                                                           const ScopePtr& scope) {
  for (const auto& stmt : body) {
    JINJA_RETURN_IF_ERROR(Enter(stmt->line));
    ++depth_;
    auto flow = Execute(*stmt, scope);
    --depth_;
    if (!flow.ok() || *flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::Status Interpreter::PrintValue(const Value& value) {
  if (value.AsText()) return Print(*value.AsText());
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(value, budget_));
  return Print(text);
}

absl::StatusOr<Value> Interpreter::CaptureFiltered(const Stmt& stmt, const ScopePtr& scope) {
  auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  JINJA_ASSIGN_OR_RETURN(Value value, Capture(stmt.body, inner));
  if (stmt.expr == nullptr) return value;
  inner->Set(std::string(Stmt::kCaught), std::move(value));
  return Evaluate(*stmt.expr, inner);
}

Value Interpreter::MakeMacro(const Stmt& stmt, const ScopePtr& scope) {
  auto function = std::make_shared<Function>();
  function->kind = Function::Kind::kMacro;
  function->name = stmt.text;
  function->macro = &stmt;
  function->scope = scope;
  return Value(Value::Variant(std::shared_ptr<const Function>(std::move(function))));
}

absl::Status Interpreter::ExecuteCallBlock(const Stmt& stmt, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(Value callee, Evaluate(*stmt.expr->args[0], scope));
  JINJA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(*stmt.expr, scope));
  arguments.named.emplace_back("caller", MakeMacro(stmt, scope));
  JINJA_ASSIGN_OR_RETURN(Value value, Call(callee, arguments));
  return PrintValue(value);
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteWith(const Stmt& stmt,
                                                           const ScopePtr& scope) {
  auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  for (const auto& [name, expr] : stmt.parameters) {
    JINJA_ASSIGN_OR_RETURN(Value value, Evaluate(*expr, scope));
    inner->Set(name, std::move(value));
  }
  return ExecuteBody(stmt.body, inner);
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Stmt& stmt, const ScopePtr& scope) {
  switch (stmt.kind) {
    case Stmt::Kind::kText:
      JINJA_RETURN_IF_ERROR(Print(stmt.text));
      break;
    case Stmt::Kind::kPrint: {
      JINJA_ASSIGN_OR_RETURN(Value value, Evaluate(*stmt.expr, scope));
      JINJA_RETURN_IF_ERROR(PrintValue(value));
      break;
    }
    case Stmt::Kind::kIf:
      return ExecuteIf(stmt, scope);
    case Stmt::Kind::kFor:
      return ExecuteFor(stmt, scope);
    case Stmt::Kind::kSet: {
      JINJA_ASSIGN_OR_RETURN(Value value, Evaluate(*stmt.expr, scope));
      JINJA_RETURN_IF_ERROR(Assign(stmt.target, value, scope));
      break;
    }
    case Stmt::Kind::kSetBlock: {
      JINJA_ASSIGN_OR_RETURN(Value value, CaptureFiltered(stmt, scope));
      JINJA_RETURN_IF_ERROR(Assign(stmt.target, value, scope));
      break;
    }
    case Stmt::Kind::kFilter: {
      JINJA_ASSIGN_OR_RETURN(Value value, CaptureFiltered(stmt, scope));
      if (!value.AsText()) return Error("the filters of a block must come to a string");
      JINJA_RETURN_IF_ERROR(PrintValue(value));
      break;
    }
    case Stmt::Kind::kMacro:
      scope->Set(stmt.text, MakeMacro(stmt, scope));
      break;
    case Stmt::Kind::kCall:
      JINJA_RETURN_IF_ERROR(ExecuteCallBlock(stmt, scope));
      break;
    case Stmt::Kind::kWith:
      return ExecuteWith(stmt, scope);
    case Stmt::Kind::kBreak:
      return Flow::kBreak;
    case Stmt::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteIf(const Stmt& stmt, const ScopePtr& scope) {
  for (const auto& [condition, body] : stmt.branches) {
    if (condition != nullptr) {
      JINJA_ASSIGN_OR_RETURN(Value value, Evaluate(*condition, scope));
      if (!Truth(value)) continue;
    }
    return ExecuteBody(body, scope);
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteFor(const Stmt& stmt, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(Value iterable, Evaluate(*stmt.expr, scope));
  return ExecuteLoop(stmt, scope, iterable, 0);
}

absl::StatusOr<Value> Interpreter::Recurse(const Stmt& stmt, const ScopePtr& scope,
                                           const Value& iterable, int level) {
  std::string text;
  std::string* outer = std::exchange(out_, &text);
  auto flow = ExecuteLoop(stmt, scope, iterable, level);
  out_ = outer;
  if (!flow.ok()) return flow.status();
  return MakeText(std::move(text), budget_);
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteLoop(const Stmt& stmt, const ScopePtr& scope,
                                                           const Value& iterable, int level) {
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(iterable, budget_));
  auto loop = std::make_shared<ForLoop>(*this, stmt, scope, std::move(items), level);
  struct Ender {
    ForLoop& loop;
    ~Ender() { loop.End(); }
  } ender{*loop};
  // As in jinja2, the else runs unless some turn came to its end without break or continue.
  bool finished_a_turn = false;
  while (true) {
    JINJA_ASSIGN_OR_RETURN(bool more, loop->Next());
    if (!more) break;
    auto turn = std::make_shared<Scope>();
    turn->parent = scope;
    turn->Set("loop", Value(Value::Variant(std::shared_ptr<LoopObject>(loop))));
    JINJA_RETURN_IF_ERROR(Assign(stmt.target, loop->current(), turn));
    JINJA_ASSIGN_OR_RETURN(Flow flow, ExecuteBody(stmt.body, turn));
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNext) finished_a_turn = true;
  }
  if (finished_a_turn) return Flow::kNext;
  auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  return ExecuteBody(stmt.otherwise, inner);
}

absl::StatusOr<std::string> Interpreter::Run(const Body& body,
                                             std::vector<std::pair<std::string, Value>> variables) {
  auto globals = std::make_shared<Scope>();
  for (std::string_view name : GlobalFunctions()) {
    auto function = std::make_shared<Function>();
    function->kind = Function::Kind::kGlobal;
    function->name = std::string(name);
    globals->Set(function->name, Value(Value::Variant(std::shared_ptr<const Function>(function))));
  }
  auto scope = std::make_shared<Scope>();
  scope->parent = std::move(globals);
  scope->variables = std::move(variables);
  std::string out;
  out_ = &out;
  auto flow = ExecuteBody(body, scope);
  if (!flow.ok()) return Error("line ", line_, ": ", flow.status().message());
  return out;
}

absl::StatusOr<std::string> Interpret(const Body& body,
                                      std::vector<std::pair<std::string, Value>> variables) {
  return Interpreter().Run(body, std::move(variables));
}

}  // namespace nsa::engine::jinja
