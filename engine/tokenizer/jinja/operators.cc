#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/text.h"
#include "engine/tokenizer/jinja/interpreter_state.h"
#include "engine/tokenizer/jinja/text_methods.h"

namespace nsa::engine::jinja {
namespace {

absl::StatusOr<Value> PowerOfFloats(double a, double b) {
  if (a == 0 && b < 0) return Error("zero to a negative power");
  const double result = std::pow(a, b);
  if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) {
    return Error("complex numbers are not supported");
  }
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
    return Error("the result is too large");
  }
  return Value::OfFloat(result);
}

absl::StatusOr<Value> PowerOfInts(int64_t a, int64_t b) {
  if (b < 0) return PowerOfFloats(static_cast<double>(a), static_cast<double>(b));
  int64_t result = 1;
  int64_t square = a;
  for (int64_t left = b; left > 0; left /= 2) {
    if (left % 2 != 0 && __builtin_mul_overflow(result, square, &result)) {
      return Error("an integer is over 64 bits");
    }
    if (left > 1 && __builtin_mul_overflow(square, square, &square)) {
      return Error("an integer is over 64 bits");
    }
  }
  return Value::OfInt(result);
}

absl::StatusOr<Value> ComputeInts(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSub:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMul:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kDiv:
      if (b == 0) return Error("division by zero");
      return Value::OfFloat(static_cast<double>(static_cast<long double>(a) / b));
    case Operator::kFloorDiv:
    case Operator::kMod: {
      if (b == 0) return Error("division by zero");
      const bool floor = op == Operator::kFloorDiv;
      if (b == -1) {  // INT64_MIN / -1 does not fit
        overflow = floor && __builtin_sub_overflow(int64_t{0}, a, &result);
        break;
      }
      // Python rounds down, C++ toward zero.
      const bool inexact = a % b != 0 && (a < 0) != (b < 0);
      result = floor ? a / b - (inexact ? 1 : 0) : a % b + (inexact ? b : 0);
      break;
    }
    case Operator::kPow:
      return PowerOfInts(a, b);
  }
  if (overflow) return Error("an integer is over 64 bits");
  return Value::OfInt(result);
}

absl::StatusOr<Value> ComputeFloats(Operator op, double a, double b) {
  const bool divides = op == Operator::kDiv || op == Operator::kFloorDiv || op == Operator::kMod;
  if (divides && b == 0) return Error("division by zero");
  switch (op) {
    case Operator::kAdd:
      return Value::OfFloat(a + b);
    case Operator::kSub:
      return Value::OfFloat(a - b);
    case Operator::kMul:
      return Value::OfFloat(a * b);
    case Operator::kDiv:
      return Value::OfFloat(a / b);
    case Operator::kPow:
      return PowerOfFloats(a, b);
    case Operator::kFloorDiv:
    case Operator::kMod:
      break;
  }
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) {
    rest += b;
    quotient -= 1;
  }
  if (rest == 0) rest = std::copysign(0.0, b);
  if (op == Operator::kMod) return Value::OfFloat(rest);
  if (quotient == 0) return Value::OfFloat(std::copysign(0.0, a / b));
  double floor = std::floor(quotient);
  if (quotient - floor > 0.5) floor += 1;
  return Value::OfFloat(floor);
}

absl::StatusOr<Value> Repeat(const Value& value, int64_t count, Budget& budget) {
  const std::string& text = *value.AsText();
  if (count <= 0 || text.empty()) {
    return value.IsSafe() ? Value::OfText("").AsSafe() : Value::OfText("");
  }
  if (static_cast<uint64_t>(count) > kMaxTextBytes / text.size()) {
    return Error("a string is over 64 MiB");
  }
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text.size() * static_cast<uint64_t>(count)));
  std::string out;
  out.reserve(text.size() * static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out += text;
  const Value repeated = Value::OfText(std::move(out));
  return value.IsSafe() ? repeated.AsSafe() : repeated;
}

// Python's [...] * count.
absl::StatusOr<Value> RepeatItems(const Sequence& list, int64_t count, Budget& budget) {
  const auto times = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  if (!list.items.empty() && times > kMaxSteps / list.items.size()) {
    return Error("a list is over ", kMaxSteps, " items");
  }
  JINJA_RETURN_IF_ERROR(budget.Charge(times * list.items.size()));
  std::vector<Value> items;
  for (uint64_t i = 0; i < times; ++i) {
    items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return MakeSequence(list.kind, std::move(items), budget);
}

bool IsListOrTuple(const Sequence* sequence) {
  return sequence != nullptr &&
         (sequence->kind == Sequence::Kind::kList || sequence->kind == Sequence::Kind::kTuple);
}

std::string_view Sign(Operator op) {
  static constexpr std::string_view kSigns[] = {"+", "-", "*", "/", "//", "%", "**"};
  return kSigns[static_cast<size_t>(op)];
}

}  // namespace

absl::StatusOr<Value> Compute(Operator op, const Value& a, const Value& b, Budget& budget) {
  if (op == Operator::kMod && a.AsText()) return FormatPercent(a, b, budget);
  for (const Value* value : {&a, &b}) {
    if (const Undefined* undefined = value->As<Undefined>()) return Error(*undefined->reason);
  }
  if (a.AsInt() && b.AsInt()) return ComputeInts(op, *a.AsInt(), *b.AsInt());
  if (a.AsNumber() && b.AsNumber()) return ComputeFloats(op, *a.AsNumber(), *b.AsNumber());
  if (op == Operator::kAdd && a.AsText() && b.AsText()) {
    if (a.AsText()->size() + b.AsText()->size() > kMaxTextBytes) {
      return Error("a string is over 64 MiB");
    }
    if (!a.IsSafe() && !b.IsSafe()) return MakeText(*a.AsText() + *b.AsText(), budget);
    JINJA_ASSIGN_OR_RETURN(Value first, Escape(a, budget));
    JINJA_ASSIGN_OR_RETURN(Value second, Escape(b, budget));
    JINJA_ASSIGN_OR_RETURN(Value sum, MakeText(*first.AsText() + *second.AsText(), budget));
    return sum.AsSafe();
  }
  if (op == Operator::kMul && a.AsText() && b.AsInt()) return Repeat(a, *b.AsInt(), budget);
  if (op == Operator::kMul && a.AsInt() && b.AsText()) return Repeat(b, *a.AsInt(), budget);
  const Sequence* left = a.AsSequence();
  const Sequence* right = b.AsSequence();
  if (op == Operator::kMul && IsListOrTuple(left) && b.AsInt()) {
    return RepeatItems(*left, *b.AsInt(), budget);
  }
  if (op == Operator::kMul && a.AsInt() && IsListOrTuple(right)) {
    return RepeatItems(*right, *a.AsInt(), budget);
  }
  if (op == Operator::kAdd && IsListOrTuple(left) && right && left->kind == right->kind) {
    JINJA_RETURN_IF_ERROR(budget.Charge(left->items.size() + right->items.size()));
    std::vector<Value> items = left->items;
    items.insert(items.end(), right->items.begin(), right->items.end());
    return MakeSequence(left->kind, std::move(items), budget);
  }
  return Error("cannot compute '", View(TypeName(a)), "' ", View(Sign(op)), " '", View(TypeName(b)),
               "'");
}

absl::StatusOr<Value> Add(const Value& a, const Value& b, Budget& budget) {
  return Compute(Operator::kAdd, a, b, budget);
}

absl::StatusOr<Value> Modulo(const Value& a, const Value& b, Budget& budget) {
  return Compute(Operator::kMod, a, b, budget);
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (const Undefined* undefined = value.As<Undefined>()) return Error(*undefined->reason);
  if (const double* number = value.As<double>()) return Value::OfFloat(-*number);
  if (const auto integer = value.AsInt()) return ComputeInts(Operator::kSub, 0, *integer);
  return Error("cannot negate a '", View(TypeName(value)), "'");
}

absl::StatusOr<bool> Compare(Comparison op, const Value& a, const Value& b, Budget& budget) {
  const bool orders = op == Comparison::kLt || op == Comparison::kLe || op == Comparison::kGt ||
                      op == Comparison::kGe;
  for (const Value* value : {&a, &b}) {
    if (orders && value->IsUndefined()) return Error(*value->As<Undefined>()->reason);
  }
  if (op == Comparison::kIn || op == Comparison::kNotIn) {
    JINJA_ASSIGN_OR_RETURN(bool contains, Contains(b, a, budget));
    return contains == (op == Comparison::kIn);
  }
  bool result = false;
  if (op != Comparison::kLt && op != Comparison::kGt) {
    JINJA_ASSIGN_OR_RETURN(result, Equal(a, b, budget));
    if (op == Comparison::kNe) return !result;
    if (op == Comparison::kEq) return result;
  }
  const bool swapped = op == Comparison::kGt || op == Comparison::kGe;
  JINJA_ASSIGN_OR_RETURN(bool less, swapped ? Less(b, a, budget) : Less(a, b, budget));
  return less || result;
}

}  // namespace nsa::engine::jinja
