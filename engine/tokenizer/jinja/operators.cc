#include <cmath>
#include <cstdint>

#include "engine/text.h"
#include "engine/tokenizer/jinja/interpreter_state.h"

namespace nsa::engine::jinja {
namespace {

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

absl::StatusOr<Value> Repeat(const std::string& text, int64_t count, Budget& budget) {
  if (count <= 0 || text.empty()) return Value::OfText("");
  if (static_cast<uint64_t>(count) > kMaxTextBytes / text.size()) {
    return Error("a string is over 64 MiB");
  }
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text.size() * static_cast<uint64_t>(count)));
  std::string out;
  out.reserve(text.size() * static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out += text;
  return Value::OfText(std::move(out));
}

std::string_view Sign(Operator op) {
  static constexpr std::string_view kSigns[] = {"+", "-", "*", "/", "//", "%"};
  return kSigns[static_cast<size_t>(op)];
}

}  // namespace

absl::StatusOr<Value> Compute(Operator op, const Value& a, const Value& b, Budget& budget) {
  for (const Value* value : {&a, &b}) {
    if (const Undefined* undefined = value->As<Undefined>()) return Error(*undefined->reason);
  }
  if (a.AsInt() && b.AsInt()) return ComputeInts(op, *a.AsInt(), *b.AsInt());
  if (a.AsNumber() && b.AsNumber()) return ComputeFloats(op, *a.AsNumber(), *b.AsNumber());
  if (op == Operator::kAdd && a.AsText() && b.AsText()) {
    if (a.AsText()->size() + b.AsText()->size() > kMaxTextBytes) {
      return Error("a string is over 64 MiB");
    }
    return MakeText(*a.AsText() + *b.AsText(), budget);
  }
  if (op == Operator::kMul && a.AsText() && b.AsInt()) {
    return Repeat(*a.AsText(), *b.AsInt(), budget);
  }
  if (op == Operator::kMul && a.AsInt() && b.AsText()) {
    return Repeat(*b.AsText(), *a.AsInt(), budget);
  }
  const Sequence* left = a.AsSequence();
  const Sequence* right = b.AsSequence();
  if (op == Operator::kAdd && left && right && left->kind == right->kind &&
      (left->kind == Sequence::Kind::kList || left->kind == Sequence::Kind::kTuple)) {
    JINJA_RETURN_IF_ERROR(budget.Charge(left->items.size() + right->items.size()));
    std::vector<Value> items = left->items;
    items.insert(items.end(), right->items.begin(), right->items.end());
    return MakeSequence(left->kind, std::move(items), budget);
  }
  return Error("cannot compute '", View(TypeName(a)), "' ", View(Sign(op)), " '", View(TypeName(b)),
               "'");
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
