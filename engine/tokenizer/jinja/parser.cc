#include "engine/tokenizer/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/numbers.h"
#include "engine/text.h"
#include "engine/tokenizer/jinja/lexer.h"
#include "engine/tokenizer/jinja/parser_state.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  JINJA_ASSIGN_OR_RETURN(std::vector<Token> tokens, Lex(source));
  return Parser(std::move(tokens)).ParseAll();
}

absl::StatusOr<Body> Parser::ParseAll() {
  JINJA_ASSIGN_OR_RETURN(Body body, ParseBody({}));
  return body;
}

absl::StatusOr<Body> Parser::ParseBody(std::initializer_list<std::string_view> ends) {
  const Nesting nesting(*this);
  JINJA_RETURN_IF_ERROR(nesting.Check());
  const int first_line = Peek().line;
  Body body;
  while (Peek().kind != Token::Kind::kEnd) {
    auto stmt = std::make_unique<Stmt>();
    stmt->line = Peek().line;
    if (Peek().kind == Token::Kind::kText) {
      stmt->kind = Stmt::Kind::kText;
      stmt->text = Take().text;
    } else if (Peek().kind == Token::Kind::kPrintBegin) {
      Take();
      stmt->kind = Stmt::Kind::kPrint;
      JINJA_ASSIGN_OR_RETURN(stmt->expr, ParseTuple(true));
      JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kPrintEnd, "}}"));
    } else {
      Take();  // {%
      if (Peek().kind != Token::Kind::kName) return Fail("expected the name of a tag");
      if (std::find(ends.begin(), ends.end(), Peek().text) != ends.end()) return body;
      JINJA_RETURN_IF_ERROR(ParseTag(*stmt, body));
      if (stmt->line < 0) continue;  // the tag put its own statements into the body
    }
    body.push_back(std::move(stmt));
  }
  if (ends.size() == 0) return body;
  return Error("line ", first_line, ": the block has no '", View(*(ends.end() - 1)), "'");
}

absl::Status Parser::EndTag(std::string_view name) {
  if (!TakeName(name)) return Fail("expected '", View(name), "'");
  return Expect(Token::Kind::kBlockEnd, "%}");
}

absl::Status Parser::ParseTag(Stmt& stmt, Body& body) {
  if (TakeName("if")) return ParseIf(stmt);
  if (TakeName("for")) return ParseFor(stmt);
  if (TakeName("set")) return ParseSet(stmt);
  if (TakeName("macro")) return ParseMacro(stmt);
  if (TakeName("break") || TakeName("continue")) {
    if (loops_ == 0) return Fail("'break' and 'continue' stand in loops only");
    stmt.kind = tokens_[at_ - 1].text == "break" ? Stmt::Kind::kBreak : Stmt::Kind::kContinue;
    return Expect(Token::Kind::kBlockEnd, "%}");
  }
  if (TakeName("generation")) {
    // It only marks what a model was trained on; its text is printed as any other.
    JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
    JINJA_ASSIGN_OR_RETURN(Body inner, ParseBody({"endgeneration"}));
    for (auto& part : inner) body.push_back(std::move(part));
    stmt.line = -1;
    return EndTag("endgeneration");
  }
  return Fail("the tag '", Peek().text,
              "' is not supported (if, for, set, macro, break, continue, generation are)");
}

absl::Status Parser::ParseIf(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kIf;
  while (true) {
    JINJA_ASSIGN_OR_RETURN(ExprPtr condition, ParseTuple(false));
    JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
    JINJA_ASSIGN_OR_RETURN(Body body, ParseBody({"elif", "else", "endif"}));
    stmt.branches.emplace_back(std::move(condition), std::move(body));
    if (TakeName("elif")) continue;
    if (TakeName("else")) {
      JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
      JINJA_ASSIGN_OR_RETURN(Body last, ParseBody({"endif"}));
      stmt.branches.emplace_back(nullptr, std::move(last));
    }
    return EndTag("endif");
  }
}

absl::Status Parser::ParseFor(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kFor;
  JINJA_ASSIGN_OR_RETURN(stmt.target, ParseTarget(false));
  if (!TakeName("in")) return Fail("expected 'in'");
  JINJA_ASSIGN_OR_RETURN(stmt.expr, ParseTuple(false));
  if (TakeName("if")) {
    JINJA_ASSIGN_OR_RETURN(stmt.filter, ParseExpression());
  }
  if (IsName("recursive")) return Fail("recursive loops are not supported");
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  ++loops_;
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseBody({"else", "endfor"}));
  --loops_;
  if (TakeName("else")) {
    JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
    JINJA_ASSIGN_OR_RETURN(stmt.otherwise, ParseBody({"endfor"}));
  }
  return EndTag("endfor");
}

absl::Status Parser::ParseSet(Stmt& stmt) {
  JINJA_ASSIGN_OR_RETURN(stmt.target, ParseTarget(true));
  if (TakeOperator("=")) {
    stmt.kind = Stmt::Kind::kSet;
    JINJA_ASSIGN_OR_RETURN(stmt.expr, ParseTuple(true));
    return Expect(Token::Kind::kBlockEnd, "%}");
  }
  if (IsOperator("|")) return Fail("filters on a 'set' block are not supported");
  stmt.kind = Stmt::Kind::kSetBlock;
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseBody({"endset"}));
  return EndTag("endset");
}

absl::Status Parser::ParseMacro(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kMacro;
  JINJA_ASSIGN_OR_RETURN(stmt.text, ExpectName());
  if (!TakeOperator("(")) return Fail("expected '(' after the macro's name");
  while (!TakeOperator(")")) {
    if (!stmt.parameters.empty() && !TakeOperator(",")) return Fail("expected ',' or ')'");
    JINJA_ASSIGN_OR_RETURN(std::string name, ExpectName());
    ExprPtr fallback;
    if (TakeOperator("=")) {
      JINJA_ASSIGN_OR_RETURN(fallback, ParseExpression());
    } else if (!stmt.parameters.empty() && stmt.parameters.back().second != nullptr) {
      return Fail("parameter '", name, "' without a default follows one with a default");
    }
    stmt.parameters.emplace_back(std::move(name), std::move(fallback));
  }
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  const int loops = std::exchange(loops_, 0);
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseBody({"endmacro"}));
  loops_ = loops;
  return EndTag("endmacro");
}

absl::StatusOr<Target> Parser::ParseTarget(bool attributes) {
  const Nesting nesting(*this);
  JINJA_RETURN_IF_ERROR(nesting.Check());
  Target all;
  while (true) {
    Target part;
    if (TakeOperator("(")) {
      JINJA_ASSIGN_OR_RETURN(part, ParseTarget(false));
      if (!TakeOperator(")")) return Fail("expected ')'");
    } else {
      JINJA_ASSIGN_OR_RETURN(part.name, ExpectName());
      const std::string& name = part.name;
      if (name == "true" || name == "false" || name == "none" || name == "True" ||
          name == "False" || name == "None") {
        return Fail("cannot assign to '", name, "'");
      }
      if (attributes && TakeOperator(".")) {
        JINJA_ASSIGN_OR_RETURN(part.attribute, ExpectName());
      }
    }
    all.parts.push_back(std::move(part));
    if (!TakeOperator(",")) break;
    if (IsName("in") || IsOperator("=") || IsOperator(")")) return all;
  }
  if (all.parts.size() > 1) return all;
  Target only = std::move(all.parts.front());
  return only;
}

}  // namespace nsa::engine::jinja
