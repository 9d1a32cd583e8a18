// Calls, items, attributes, filters and tests.

#include <string>
#include <utility>

#include "engine/tokenizer/jinja/parser_state.h"

namespace nsa::engine::jinja {

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
    if (TakeOperator("|")) {
      JINJA_ASSIGN_OR_RETURN(base, ParseFilter(std::move(base)));
    } else if (IsName("is")) {
      JINJA_ASSIGN_OR_RETURN(base, ParseTest(std::move(base)));
    } else if (IsOperator("(")) {
      JINJA_ASSIGN_OR_RETURN(base, ParseCall(std::move(base)));
    } else {
      return base;
    }
  }
}

// Names of several parts are none of ours, but may stand where they are not used.
absl::StatusOr<std::string> Parser::ExpectDottedName() {
  JINJA_ASSIGN_OR_RETURN(std::string name, ExpectName());
  while (TakeOperator(".")) {
    JINJA_ASSIGN_OR_RETURN(std::string part, ExpectName());
    absl::StrAppend(&name, ".", part);
  }
  return name;
}

absl::StatusOr<ExprPtr> Parser::ParseFilter(ExprPtr base) {
  ExprPtr expr = Make(Expr::Kind::kFilter);
  JINJA_ASSIGN_OR_RETURN(expr->name, ExpectDottedName());
  expr->filter = FindFilter(expr->name);
  if (expr->filter == nullptr) NoteUnknown(expr->line, "filter", expr->name);
  expr->args.push_back(std::move(base));
  if (IsOperator("(")) JINJA_RETURN_IF_ERROR(ParseArguments(*expr));
  return Done(std::move(expr));
}

absl::StatusOr<ExprPtr> Parser::ParseTest(ExprPtr base) {
  ExprPtr expr = Make(Expr::Kind::kTest);
  Take();
  const bool negated = TakeName("not");
  const int line = Peek().line;
  JINJA_ASSIGN_OR_RETURN(expr->name, ExpectDottedName());
  expr->test = FindTest(expr->name);
  if (expr->test == nullptr) NoteUnknown(line, "test", expr->name);
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
  bool spread = false;   // behind *values
  bool spread2 = false;  // behind **values
  while (!TakeOperator(")")) {
    if (!comma) return Fail("expected ',' or ')'");
    const bool named = Peek().kind == Token::Kind::kName &&
                       Peek(1).kind == Token::Kind::kOperator && Peek(1).text == "=";
    if (spread2) return Fail("an argument follows '**'");
    if (IsOperator("*") || IsOperator("**")) {
      std::string name = Take().text;
      if (name == "*" && spread) return Fail("a second '*'");
      (name == "*" ? spread : spread2) = true;
      JINJA_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      call.named.emplace_back(std::move(name), std::move(value));
    } else if (named) {
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
