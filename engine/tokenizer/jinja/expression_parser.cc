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
  JINJA_ASSIGN_OR_RETURN(ExprPtr expr, ParseUnary(true));
  if (IsOperator("**")) return Fail("the operator '**' is not supported");
  return expr;
}

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

absl::StatusOr<ExprPtr> Parser::ParsePostfix(ExprPtr base) {
  while (true) {
    if (IsOperator(".")) {
      Take();
      ExprPtr expr = Make(Expr::Kind::kAttribute);
      expr->args.push_back(std::move(base));
      if (Peek().kind == Token::Kind::kInteger) {
        expr->kind = Expr::Kind::kItem;
        JINJA_ASSIGN_OR_RETURN(ExprPtr index, ParseNumber());
        expr->args.push_back(std::move(index));
      } else {
        JINJA_ASSIGN_OR_RETURN(expr->name, ExpectName());
      }
      JINJA_ASSIGN_OR_RETURN(base, Done(std::move(expr)));
    } else if (IsOperator("[")) {
      JINJA_ASSIGN_OR_RETURN(base, ParseSubscript(std::move(base)));
    } else if (IsOperator("(")) {
      JINJA_ASSIGN_OR_RETURN(base, ParseCall(std::move(base)));
    } else {
      return base;
    }
  }
}

absl::StatusOr<ExprPtr> Parser::ParseCall(ExprPtr base) {
  ExprPtr call = Make(Expr::Kind::kCall);
  call->args.push_back(std::move(base));
  JINJA_RETURN_IF_ERROR(ParseArguments(*call));
  return Done(std::move(call));
}

absl::StatusOr<ExprPtr> Parser::ParseSubscript(ExprPtr base) {
  ExprPtr expr = Make(Expr::Kind::kItem);
  expr->args.push_back(std::move(base));
  Take();
  while (true) {
    ExprPtr part;
    if (!IsOperator(":") && !IsOperator("]")) {
      JINJA_ASSIGN_OR_RETURN(part, ParseExpression());
    }
    expr->args.push_back(std::move(part));
    if (!TakeOperator(":")) break;
    if (expr->args.size() > 3) return Fail("a slice has three parts at most");
    expr->kind = Expr::Kind::kSlice;
  }
  if (!TakeOperator("]")) return Fail("expected ']'");
  if (expr->kind == Expr::Kind::kSlice) expr->args.resize(4);
  if (expr->kind == Expr::Kind::kItem && expr->args[1] == nullptr) {
    return Fail("expected an index before ']'");
  }
  return Done(std::move(expr));
}

absl::StatusOr<ExprPtr> Parser::ParseFilters(ExprPtr base) {
  while (true) {
    if (IsOperator("|")) {
      Take();
      ExprPtr expr = Make(Expr::Kind::kFilter);
      const Token& token = Peek();
      JINJA_ASSIGN_OR_RETURN(expr->name, ExpectName());
      expr->filter = FindFilter(expr->name);
      if (expr->filter == nullptr) {
        return Error("line ", token.line, ": the filter '", expr->name, "' is not supported");
      }
      expr->args.push_back(std::move(base));
      if (IsOperator("(")) JINJA_RETURN_IF_ERROR(ParseArguments(*expr));
      JINJA_ASSIGN_OR_RETURN(base, Done(std::move(expr)));
    } else if (IsName("is")) {
      JINJA_ASSIGN_OR_RETURN(base, ParseTest(std::move(base)));
    } else if (IsOperator("(")) {
      JINJA_ASSIGN_OR_RETURN(base, ParseCall(std::move(base)));
    } else {
      return base;
    }
  }
}

absl::StatusOr<ExprPtr> Parser::ParseTest(ExprPtr base) {
  ExprPtr expr = Make(Expr::Kind::kTest);
  Take();
  const bool negated = TakeName("not");
  const Token& token = Peek();
  JINJA_ASSIGN_OR_RETURN(expr->name, ExpectName());
  expr->test = FindTest(expr->name);
  if (expr->test == nullptr) {
    return Error("line ", token.line, ": the test '", expr->name, "' is not supported");
  }
  expr->args.push_back(std::move(base));
  const Token::Kind next = Peek().kind;
  const bool name =
      next == Token::Kind::kName && !IsName("else") && !IsName("or") && !IsName("and");
  if (IsOperator("(")) {
    JINJA_RETURN_IF_ERROR(ParseArguments(*expr));
  } else if (IsName("is")) {
    return Fail("tests cannot be chained");
  } else if (name || next == Token::Kind::kString || next == Token::Kind::kInteger ||
             next == Token::Kind::kFloat || IsOperator("[") || IsOperator("{")) {
    const Nesting nesting(*this);
    JINJA_RETURN_IF_ERROR(nesting.Check());
    JINJA_ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    JINJA_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    expr->args.push_back(std::move(argument));
  }
  JINJA_ASSIGN_OR_RETURN(expr, Done(std::move(expr)));
  if (!negated) return expr;
  ExprPtr inverse = Make(Expr::Kind::kNot);
  inverse->args.push_back(std::move(expr));
  return Done(std::move(inverse));
}

absl::Status Parser::ParseArguments(Expr& call) {
  Take();
  bool comma = true;
  while (!TakeOperator(")")) {
    if (!comma) return Fail("expected ',' or ')'");
    if (IsOperator("*") || IsOperator("**")) return Fail("'*' arguments are not supported");
    const bool named = Peek().kind == Token::Kind::kName &&
                       Peek(1).kind == Token::Kind::kOperator && Peek(1).text == "=";
    if (named) {
      std::string name = Take().text;
      Take();
      JINJA_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      call.named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.named.empty()) return Fail("a positional argument follows a named one");
      JINJA_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      call.args.push_back(std::move(value));
    }
    comma = TakeOperator(",");
  }
  return absl::OkStatus();
}

}  // namespace nsa::engine::jinja
