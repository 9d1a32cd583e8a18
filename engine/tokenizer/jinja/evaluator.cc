#include <algorithm>

#include "engine/text.h"
#include "engine/tokenizer/jinja/interpreter_state.h"

namespace nsa::engine::jinja {

absl::StatusOr<Value> Interpreter::Evaluate(const Expr& expr, const ScopePtr& scope) {
  JINJA_RETURN_IF_ERROR(Enter(expr.line));
  ++depth_;
  auto value = EvaluateKind(expr, scope);
  --depth_;
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateKind(const Expr& expr, const ScopePtr& scope) {
  switch (expr.kind) {
    case Expr::Kind::kConstant:
      return expr.constant;
    case Expr::Kind::kName:
      return EvaluateName(expr, scope);
    case Expr::Kind::kDict:
      return EvaluateDict(expr, scope);
    case Expr::Kind::kSlice:
      return EvaluateSlice(expr, scope);
    case Expr::Kind::kCall:
      return EvaluateCall(expr, scope);
    case Expr::Kind::kFilter:
      return EvaluateFilter(expr, scope);
    case Expr::Kind::kTest:
      return EvaluateTest(expr, scope);
    case Expr::Kind::kAnd:
    case Expr::Kind::kOr:
      return EvaluateLogic(expr, scope);
    case Expr::Kind::kConcat:
      return EvaluateConcat(expr, scope);
    case Expr::Kind::kCompare:
      return EvaluateCompare(expr, scope);
    case Expr::Kind::kIf:
      return EvaluateIf(expr, scope);
    default:
      break;
  }
  // What is left evaluates all of its parts first.
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> args, EvaluateAll(expr.args, 0, scope));
  switch (expr.kind) {
    case Expr::Kind::kList:
      return MakeSequence(Sequence::Kind::kList, std::move(args), budget_);
    case Expr::Kind::kTuple:
      return MakeSequence(Sequence::Kind::kTuple, std::move(args), budget_);
    case Expr::Kind::kAttribute:
      return GetAttribute(args[0], expr.name, budget_);
    case Expr::Kind::kItem:
      return GetItem(args[0], args[1], budget_);
    case Expr::Kind::kNot:
      return Value::OfBool(!Truth(args[0]));
    case Expr::Kind::kNegate:
      return Negate(args[0]);
    case Expr::Kind::kPlus:
      return Compute(Operator::kAdd, Value::OfInt(0), args[0], budget_);
    default:
      return Compute(expr.op, args[0], args[1], budget_);
  }
}

absl::StatusOr<Value> Interpreter::EvaluateName(const Expr& expr, const ScopePtr& scope) {
  for (const Scope* at = scope.get(); at != nullptr; at = at->parent.get()) {
    if (const Value* value = at->Find(expr.name)) return *value;
  }
  return Value::OfUndefined(absl::StrCat("'", expr.name, "' is undefined"));
}

absl::StatusOr<std::vector<Value>> Interpreter::EvaluateAll(const std::vector<ExprPtr>& exprs,
                                                            size_t first, const ScopePtr& scope) {
  std::vector<Value> values;
  values.reserve(exprs.size() - first);
  for (size_t i = first; i < exprs.size(); ++i) {
    JINJA_ASSIGN_OR_RETURN(Value value, Evaluate(*exprs[i], scope));
    values.push_back(std::move(value));
  }
  return values;
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> values, EvaluateAll(expr.args, 0, scope));
  std::vector<std::pair<Value, Value>> items;
  for (size_t i = 0; i < values.size(); i += 2) {
    items.emplace_back(std::move(values[i]), std::move(values[i + 1]));
  }
  return MakeDict(std::move(items), budget_);
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expr& expr, const ScopePtr& scope) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (expr.args[i] == nullptr) continue;
    JINJA_ASSIGN_OR_RETURN(parts[i], Evaluate(*expr.args[i], scope));
  }
  return GetSlice(parts[0], parts[1], parts[2], parts[3], budget_);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expr& expr, const ScopePtr& scope) {
  Arguments arguments;
  JINJA_ASSIGN_OR_RETURN(arguments.positional, EvaluateAll(expr.args, 1, scope));
  for (const auto& [name, value] : expr.named) {
    JINJA_ASSIGN_OR_RETURN(Value evaluated, Evaluate(*value, scope));
    if (name == "*") {
      JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(evaluated, budget_));
      for (Value& item : items) arguments.positional.push_back(std::move(item));
    } else if (name == "**") {
      if (!evaluated.AsDict()) return Error("'**' needs a dict");
      for (const auto& [key, item] : evaluated.AsDict()->items) {
        if (!key.AsText()) return Error("'**': a key is not a string");
        arguments.named.emplace_back(*key.AsText(), item);
      }
    } else {
      arguments.named.emplace_back(name, std::move(evaluated));
    }
  }
  return arguments;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(Value callee, Evaluate(*expr.args[0], scope));
  JINJA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expr, scope));
  line_ = expr.line;
  return Call(callee, arguments);
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, const Arguments& arguments) {
  const Function* function = callee.AsFunction();
  if (function == nullptr) {
    if (const Undefined* undefined = callee.As<Undefined>()) return Error(*undefined->reason);
    if (const auto* loop = callee.As<std::shared_ptr<LoopObject>>()) {
      return (*loop)->Call("", arguments);
    }
    return Error("a '", View(TypeName(callee)), "' cannot be called");
  }
  switch (function->kind) {
    case Function::Kind::kGlobal:
      return CallGlobal(function->name, arguments, budget_);
    case Function::Kind::kMethod:
      return CallMethod(function->self, function->name, arguments, budget_);
    case Function::Kind::kMacro:
      break;
  }
  return CallMacro(*function, arguments);
}

absl::StatusOr<Value> Interpreter::CallMacro(const Function& function, const Arguments& arguments) {
  const Stmt& macro = *function.macro;
  auto scope = std::make_shared<Scope>();
  scope->parent = function.scope.lock();
  if (scope->parent == nullptr) return Error("macro '", macro.text, "' is called out of its scope");
  const size_t count = macro.parameters.size();
  std::vector<const Value*> bound(count, nullptr);
  JINJA_RETURN_IF_ERROR(BindMacro(macro, arguments, bound, *scope));
  for (size_t i = 0; i < count; ++i) {
    const auto& [name, fallback] = macro.parameters[i];
    if (bound[i] != nullptr) {
      scope->Set(name, *bound[i]);
    } else if (fallback != nullptr) {
      JINJA_ASSIGN_OR_RETURN(Value value, Evaluate(*fallback, scope));
      scope->Set(name, std::move(value));
    } else {
      scope->Set(name, Value::OfUndefined(absl::StrCat("parameter '", name, "' was not provided")));
    }
  }
  return Capture(macro.body, scope);
}

// What the parameters take into `bound`; the rest into the scope, under Jinja's names for it.
absl::Status Interpreter::BindMacro(const Stmt& macro, const Arguments& arguments,
                                    std::vector<const Value*>& bound, Scope& scope) {
  const size_t count = bound.size();
  const std::vector<Value>& given = arguments.positional;
  const size_t taken = std::min(count, given.size());
  for (size_t i = 0; i < taken; ++i) bound[i] = &given[i];
  if (given.size() > count && !macro.takes_varargs) {
    return Error("macro '", macro.text, "' takes no more than ", count, " arguments");
  }
  std::vector<std::pair<Value, Value>> rest;
  Value caller = Value::OfUndefined("No caller defined");
  for (const auto& [name, value] : arguments.named) {
    size_t at = 0;
    while (at < count && macro.parameters[at].first != name) ++at;
    if (at < count && bound[at] == nullptr) {
      bound[at] = &value;
    } else if (at < count) {
      return Error("macro '", macro.text, "' got '", name, "' twice");
    } else if (name == "caller" && macro.takes_caller) {
      caller = value;
    } else if (macro.takes_kwargs) {
      rest.emplace_back(Value::OfText(name), value);
    } else {
      return Error("macro '", macro.text, "' has no parameter '", name, "'");
    }
  }
  if (macro.takes_varargs) {
    std::vector<Value> more(given.begin() + static_cast<std::ptrdiff_t>(taken), given.end());
    JINJA_ASSIGN_OR_RETURN(Value varargs,
                           MakeSequence(Sequence::Kind::kTuple, std::move(more), budget_));
    scope.Set("varargs", std::move(varargs));
  }
  if (macro.takes_kwargs) {
    JINJA_ASSIGN_OR_RETURN(Value kwargs, MakeDict(std::move(rest), budget_));
    scope.Set("kwargs", std::move(kwargs));
  }
  if (macro.takes_caller) scope.Set("caller", std::move(caller));
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::EvaluateFilter(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(Value input, Evaluate(*expr.args[0], scope));
  JINJA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expr, scope));
  line_ = expr.line;
  if (expr.filter == nullptr) return Error("the filter '", expr.name, "' is not supported");
  auto result = expr.filter(input, arguments, budget_);
  if (result.ok()) return result;
  return Error("filter '", expr.name, "': ", result.status().message());
}

absl::StatusOr<Value> Interpreter::EvaluateTest(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(Value input, Evaluate(*expr.args[0], scope));
  JINJA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expr, scope));
  line_ = expr.line;
  if (expr.test == nullptr) return Error("the test '", expr.name, "' is not supported");
  auto result = expr.test(input, arguments, budget_);
  if (result.ok()) return Value::OfBool(*result);
  return Error("test '", expr.name, "': ", result.status().message());
}

absl::StatusOr<Value> Interpreter::EvaluateLogic(const Expr& expr, const ScopePtr& scope) {
  const bool stops_at = expr.kind == Expr::Kind::kOr;
  Value value;
  for (const ExprPtr& arg : expr.args) {
    JINJA_ASSIGN_OR_RETURN(value, Evaluate(*arg, scope));
    if (Truth(value) == stops_at) break;
  }
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateConcat(const Expr& expr, const ScopePtr& scope) {
  std::string out;
  for (const ExprPtr& arg : expr.args) {
    JINJA_ASSIGN_OR_RETURN(Value value, Evaluate(*arg, scope));
    JINJA_ASSIGN_OR_RETURN(std::string text, ToText(value, budget_));
    out += text;
    if (out.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
  }
  return MakeText(std::move(out), budget_);
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.args[0], scope));
  for (size_t i = 0; i < expr.comparisons.size(); ++i) {
    JINJA_ASSIGN_OR_RETURN(Value right, Evaluate(*expr.args[i + 1], scope));
    JINJA_ASSIGN_OR_RETURN(bool holds, Compare(expr.comparisons[i], left, right, budget_));
    if (!holds) return Value::OfBool(false);
    left = std::move(right);
  }
  return Value::OfBool(true);
}

absl::StatusOr<Value> Interpreter::EvaluateIf(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN_OR_RETURN(Value condition, Evaluate(*expr.args[0], scope));
  if (Truth(condition)) return Evaluate(*expr.args[1], scope);
  if (expr.args[2] != nullptr) return Evaluate(*expr.args[2], scope);
  return Value::OfUndefined("the inline if has no else and its condition is false");
}

}  // namespace nsa::engine::jinja
