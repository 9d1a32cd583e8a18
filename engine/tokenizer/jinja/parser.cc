#include "engine/tokenizer/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

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
  for (const Unknown& unknown : unknown_) JINJA_RETURN_IF_ERROR(unknown.error);
  return body;
}

void Parser::NoteUnknown(int line, std::string_view kind, std::string_view name) {
  unknown_.push_back(
      {Error("line ", line, ": the ", View(kind), " '", View(name), "' is not supported"), false});
}

void Parser::Excuse(size_t first) {
  const auto begin = unknown_.begin() + static_cast<std::ptrdiff_t>(first);
  unknown_.erase(std::remove_if(begin, unknown_.end(),
                                [](const Unknown& unknown) { return !unknown.settled; }),
                 unknown_.end());
}

void Parser::Insist(size_t first) {
  for (size_t i = first; i < unknown_.size(); ++i) unknown_[i].settled = true;
}

absl::StatusOr<Body> Parser::ParseInner(std::initializer_list<std::string_view> ends) {
  const size_t first = unknown_.size();
  JINJA_ASSIGN_OR_RETURN(Body body, ParseBody(ends));
  Insist(first);
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
      JINJA_RETURN_IF_ERROR(ParseTag(*stmt));
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

absl::Status Parser::ParseTag(Stmt& stmt) {
  static constexpr std::pair<std::string_view, absl::Status (Parser::*)(Stmt&)> kTags[] = {
      {"if", &Parser::ParseIf},          {"for", &Parser::ParseFor},
      {"set", &Parser::ParseSet},        {"macro", &Parser::ParseMacro},
      {"call", &Parser::ParseCallBlock}, {"filter", &Parser::ParseFilterBlock},
      {"with", &Parser::ParseWith}};
  for (const auto& [name, parse] : kTags) {
    if (TakeName(name)) return (this->*parse)(stmt);
  }
  if (TakeName("break") || TakeName("continue")) {
    if (loops_ == 0) return Fail("'break' and 'continue' stand in loops only");
    stmt.kind = tokens_[at_ - 1].text == "break" ? Stmt::Kind::kBreak : Stmt::Kind::kContinue;
    return Expect(Token::Kind::kBlockEnd, "%}");
  }
  if (TakeName("generation")) {
    // It only marks what a model was trained on: a scope of its own, and printed as any other.
    stmt.kind = Stmt::Kind::kWith;
    return ParseMacroBody(stmt, "endgeneration");
  }
  return Fail("the tag '", Peek().text,
              "' is not supported (if, for, set, macro, call, filter, with, break, continue, raw, "
              "generation are)");
}

absl::Status Parser::ParseIf(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kIf;
  const size_t first = unknown_.size();
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
    Excuse(first);
    return EndTag("endif");
  }
}

absl::Status Parser::ParseFor(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kFor;
  JINJA_ASSIGN_OR_RETURN(stmt.target, ParseTarget(false));
  if (!TakeName("in")) return Fail("expected 'in'");
  JINJA_ASSIGN_OR_RETURN(stmt.expr, ParseTuple(false));
  const size_t first = unknown_.size();
  if (TakeName("if")) {
    JINJA_ASSIGN_OR_RETURN(stmt.filter, ParseExpression());
  }
  Insist(first);
  stmt.recursive = TakeName("recursive");
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  ++loops_;
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseInner({"else", "endfor"}));
  --loops_;
  if (TakeName("else")) {
    JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
    JINJA_ASSIGN_OR_RETURN(stmt.otherwise, ParseInner({"endfor"}));
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
  stmt.kind = Stmt::Kind::kSetBlock;
  const size_t first = unknown_.size();
  while (TakeOperator("|")) {
    if (stmt.expr == nullptr) stmt.expr = Caught();
    JINJA_ASSIGN_OR_RETURN(stmt.expr, ParseFilter(std::move(stmt.expr)));
  }
  Insist(first);
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseInner({"endset"}));
  return EndTag("endset");
}

ExprPtr Parser::Caught() const {
  ExprPtr caught = Make(Expr::Kind::kName);
  caught->name = std::string(Stmt::kCaught);
  return caught;
}

absl::Status Parser::ParseFilterBlock(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kFilter;
  const size_t first = unknown_.size();
  JINJA_ASSIGN_OR_RETURN(stmt.expr, ParseFilter(Caught()));
  while (TakeOperator("|")) {
    JINJA_ASSIGN_OR_RETURN(stmt.expr, ParseFilter(std::move(stmt.expr)));
  }
  Insist(first);
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseInner({"endfilter"}));
  return EndTag("endfilter");
}

absl::Status Parser::ParseSignature(Stmt& stmt) {
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
  return absl::OkStatus();
}

absl::Status Parser::ParseMacroBody(Stmt& stmt, std::string_view end) {
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  const int loops = std::exchange(loops_, 0);
  const size_t begin = at_;
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseInner({end}));
  loops_ = loops;
  // A macro takes more than its parameters where its body says the name of what is more.
  for (size_t i = begin; i < at_; ++i) {
    if (tokens_[i].kind != Token::Kind::kName) continue;
    stmt.takes_varargs = stmt.takes_varargs || tokens_[i].text == "varargs";
    stmt.takes_kwargs = stmt.takes_kwargs || tokens_[i].text == "kwargs";
    stmt.takes_caller = stmt.takes_caller || tokens_[i].text == "caller";
  }
  return EndTag(end);
}

absl::Status Parser::ParseMacro(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kMacro;
  JINJA_ASSIGN_OR_RETURN(stmt.text, ExpectName());
  const size_t first = unknown_.size();
  if (!TakeOperator("(")) return Fail("expected '(' after the macro's name");
  JINJA_RETURN_IF_ERROR(ParseSignature(stmt));
  Insist(first);
  return ParseMacroBody(stmt, "endmacro");
}

absl::Status Parser::ParseCallBlock(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kCall;
  stmt.text = "caller";
  const size_t first = unknown_.size();
  if (TakeOperator("(")) JINJA_RETURN_IF_ERROR(ParseSignature(stmt));
  Insist(first);
  JINJA_ASSIGN_OR_RETURN(stmt.expr, ParseExpression());
  if (stmt.expr->kind != Expr::Kind::kCall) return Fail("expected a call");
  return ParseMacroBody(stmt, "endcall");
}

absl::Status Parser::ParseWith(Stmt& stmt) {
  stmt.kind = Stmt::Kind::kWith;
  while (Peek().kind != Token::Kind::kBlockEnd) {
    if (!stmt.parameters.empty() && !TakeOperator(",")) return Fail("expected ',' or '%}'");
    JINJA_ASSIGN_OR_RETURN(std::string name, ExpectName());
    if (!TakeOperator("=")) return Fail("expected '='");
    JINJA_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    stmt.parameters.emplace_back(std::move(name), std::move(value));
  }
  JINJA_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "%}"));
  JINJA_ASSIGN_OR_RETURN(stmt.body, ParseInner({"endwith"}));
  return EndTag("endwith");
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
