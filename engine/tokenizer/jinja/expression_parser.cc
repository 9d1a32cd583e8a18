#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "engine/tokenizer/jinja/parser_state.h"

namespace nsa::engine::jinja {

ExprPtr Parser::Make(Expr::Kind kind) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = Peek().line;
  return expr;
}

absl::StatusOr<ExprPtr> Parser::Done(ExprPtr expr) const {
  for (const ExprPtr& arg : expr->args) {
    if (arg != nullptr) expr->depth = std::max(expr->depth, arg->depth + 1);
  }
  for (const auto& named : expr->named) {
    expr->depth = std::max(expr->depth, named.second->depth + 1);
  }
  if (expr->depth > kMaxNesting) {
    return Fail("an expression is nested deeper than ", kMaxNesting);
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseTuple(bool conditional) {
  ExprPtr tuple = Make(Expr::Kind::kTuple);
  while (true) {
    JINJA_ASSIGN_OR_RETURN(ExprPtr item, conditional ? ParseExpression() : ParseOr());
    tuple->args.push_back(std::move(item));
    if (!TakeOperator(",")) break;
    const Token::Kind next = Peek().kind;
    if (next == Token::Kind::kBlockEnd || next == Token::Kind::kPrintEnd)
      return Done(std::move(tuple));
  }
  if (tuple->args.size() > 1) return Done(std::move(tuple));
  return std::move(tuple->args.front());
}

absl::StatusOr<ExprPtr> Parser::ParseExpression() {
  const Nesting nesting(*this);
  JINJA_RETURN_IF_ERROR(nesting.Check());
  const size_t first = unknown_.size();
  JINJA_ASSIGN_OR_RETURN(ExprPtr expr, ParseOr());
  while (IsName("if")) {
    ExprPtr choice = Make(Expr::Kind::kIf);
    Take();
    JINJA_ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (TakeName("else")) {
      JINJA_ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    choice->args.push_back(std::move(condition));
    choice->args.push_back(std::move(expr));
    choice->args.push_back(std::move(otherwise));
    JINJA_ASSIGN_OR_RETURN(expr, Done(std::move(choice)));
    Excuse(first);
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseLogic(absl::StatusOr<ExprPtr> (Parser::*operand)(),
                                           std::string_view word, Expr::Kind kind) {
  JINJA_ASSIGN_OR_RETURN(ExprPtr expr, (this->*operand)());
  if (!IsName(word)) return expr;
  ExprPtr all = Make(kind);
  all->args.push_back(std::move(expr));
  while (TakeName(word)) {
    JINJA_ASSIGN_OR_RETURN(ExprPtr next, (this->*operand)());
    all->args.push_back(std::move(next));
  }
  return Done(std::move(all));
}

absl::StatusOr<ExprPtr> Parser::ParseOr() {
  return ParseLogic(&Parser::ParseAnd, "or", Expr::Kind::kOr);
}

absl::StatusOr<ExprPtr> Parser::ParseAnd() {
  return ParseLogic(&Parser::ParseNot, "and", Expr::Kind::kAnd);
}

absl::StatusOr<ExprPtr> Parser::ParseNot() {
  if (!IsName("not")) return ParseComparison();
  const Nesting nesting(*this);
  JINJA_RETURN_IF_ERROR(nesting.Check());
  ExprPtr expr = Make(Expr::Kind::kNot);
  Take();
  JINJA_ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  expr->args.push_back(std::move(operand));
  return Done(std::move(expr));
}

absl::StatusOr<ExprPtr> Parser::ParseComparison() {
  JINJA_ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  ExprPtr chain = Make(Expr::Kind::kCompare);
  static constexpr std::pair<std::string_view, Comparison> kOperators[] = {
      {"==", Comparison::kEq}, {"!=", Comparison::kNe}, {"<", Comparison::kLt},
      {"<=", Comparison::kLe}, {">", Comparison::kGt},  {">=", Comparison::kGe}};
  while (true) {
    const auto* known = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [&](const auto& entry) { return IsOperator(entry.first); });
    if (known != std::end(kOperators)) {
      Take();
      chain->comparisons.push_back(known->second);
    } else if (TakeName("in")) {
      chain->comparisons.push_back(Comparison::kIn);
    } else if (IsName("not") && IsName("in", 1)) {
      Take();
      Take();
      chain->comparisons.push_back(Comparison::kNotIn);
    } else {
      break;
    }
    JINJA_ASSIGN_OR_RETURN(ExprPtr next, ParseSum());
    chain->args.push_back(std::move(next));
  }
  if (chain->args.empty()) return first;
  chain->args.insert(chain->args.begin(), std::move(first));
  return Done(std::move(chain));
}

absl::StatusOr<ExprPtr> Parser::ParseBinary(
    absl::StatusOr<ExprPtr> (Parser::*operand)(),
    std::initializer_list<std::pair<std::string_view, Operator>> operators) {
  JINJA_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (true) {
    const auto* known = std::find_if(operators.begin(), operators.end(),
                                     [&](const auto& entry) { return IsOperator(entry.first); });
    if (known == operators.end()) return left;
    ExprPtr expr = Make(Expr::Kind::kBinary);
    Take();
    expr->op = known->second;
    JINJA_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    expr->args.push_back(std::move(left));
    expr->args.push_back(std::move(right));
    JINJA_ASSIGN_OR_RETURN(left, Done(std::move(expr)));
  }
}

absl::StatusOr<ExprPtr> Parser::ParseSum() {
  return ParseBinary(&Parser::ParseConcat, {{"+", Operator::kAdd}, {"-", Operator::kSub}});
}

absl::StatusOr<ExprPtr> Parser::ParseConcat() {
  JINJA_ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!IsOperator("~")) return first;
  ExprPtr all = Make(Expr::Kind::kConcat);
  all->args.push_back(std::move(first));
  while (TakeOperator("~")) {
    JINJA_ASSIGN_OR_RETURN(ExprPtr next, ParseProduct());
    all->args.push_back(std::move(next));
  }
  return Done(std::move(all));
}

absl::StatusOr<ExprPtr> Parser::ParseProduct() {
  return ParseBinary(&Parser::ParseFactor, {{"*", Operator::kMul},
                                            {"/", Operator::kDiv},
                                            {"//", Operator::kFloorDiv},
                                            {"%", Operator::kMod}});
}

absl::StatusOr<ExprPtr> Parser::ParseFactor() {
  return ParseBinary(&Parser::ParseOperand, {{"**", Operator::kPow}});
}

absl::StatusOr<ExprPtr> Parser::ParseOperand() { return ParseUnary(true); }

absl::StatusOr<ExprPtr> Parser::ParseUnary(bool with_filters) {
  const Nesting nesting(*this);
  JINJA_RETURN_IF_ERROR(nesting.Check());
  ExprPtr expr;
  if (IsOperator("-") || IsOperator("+")) {
    ExprPtr sign = Make(IsOperator("-") ? Expr::Kind::kNegate : Expr::Kind::kPlus);
    Take();
    JINJA_ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(false));
    sign->args.push_back(std::move(operand));
    JINJA_ASSIGN_OR_RETURN(expr, Done(std::move(sign)));
  } else {
    JINJA_ASSIGN_OR_RETURN(expr, ParsePrimary());
  }
  JINJA_ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  if (!with_filters) return expr;
  return ParseFilters(std::move(expr));
}

absl::StatusOr<ExprPtr> Parser::ParsePrimary() {
  ExprPtr expr = Make(Expr::Kind::kConstant);
  switch (Peek().kind) {
    case Token::Kind::kName: {
      const std::string name = Take().text;
      if (name == "true" || name == "True") {
        expr->constant = Value::OfBool(true);
      } else if (name == "false" || name == "False") {
        expr->constant = Value::OfBool(false);
      } else if (name != "none" && name != "None") {
        expr->kind = Expr::Kind::kName;
        expr->name = name;
      }
      return expr;
    }
    case Token::Kind::kString: {
      std::string text;
      while (Peek().kind == Token::Kind::kString) text += Take().text;
      expr->constant = Value::OfText(std::move(text));
      return expr;
    }
    case Token::Kind::kInteger:
    case Token::Kind::kFloat:
      return ParseNumber();
    default:
      break;
  }
  if (IsOperator("(")) return ParseParenthesis();
  if (IsOperator("[")) return ParseList();
  if (IsOperator("{")) return ParseDict();
  return Fail("expected an expression");
}

absl::StatusOr<ExprPtr> Parser::ParseNumber() {
  ExprPtr expr = Make(Expr::Kind::kConstant);
  const Token& token = Peek();
  int64_t integer = 0;
  double real = 0;
  if (token.kind == Token::Kind::kInteger) {
    if (token.text.size() > 1 && token.text[0] == '0' &&
        token.text.find_first_not_of('0') != std::string::npos) {
      return Fail("an integer begins with 0");
    }
    if (!absl::SimpleAtoi(token.text, &integer)) return Fail("the integer is over 2^63-1");
    expr->constant = Value::OfInt(integer);
  } else {
    if (!absl::SimpleAtod(token.text, &real)) return Fail("not a number");
    expr->constant = Value::OfFloat(real);
  }
  Take();
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseParenthesis() {
  ExprPtr tuple = Make(Expr::Kind::kTuple);
  Take();
  bool comma = true;
  while (!TakeOperator(")")) {
    if (!comma) return Fail("expected ',' or ')'");
    JINJA_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    tuple->args.push_back(std::move(item));
    comma = TakeOperator(",");
  }
  if (tuple->args.size() == 1 && !comma) return std::move(tuple->args.front());
  return Done(std::move(tuple));
}

absl::StatusOr<ExprPtr> Parser::ParseList() {
  ExprPtr list = Make(Expr::Kind::kList);
  Take();
  bool comma = true;
  while (!TakeOperator("]")) {
    if (!comma) return Fail("expected ',' or ']'");
    JINJA_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    list->args.push_back(std::move(item));
    comma = TakeOperator(",");
  }
  return Done(std::move(list));
}

absl::StatusOr<ExprPtr> Parser::ParseDict() {
  ExprPtr dict = Make(Expr::Kind::kDict);
  Take();
  bool comma = true;
  while (!TakeOperator("}")) {
    if (!comma) return Fail("expected ',' or '}'");
    JINJA_ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    if (!TakeOperator(":")) return Fail("expected ':'");
    JINJA_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    dict->args.push_back(std::move(key));
    dict->args.push_back(std::move(value));
    comma = TakeOperator(",");
  }
  return Done(std::move(dict));
}

}  // namespace nsa::engine::jinja
