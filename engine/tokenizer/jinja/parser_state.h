#ifndef NSA_ENGINE_TOKENIZER_JINJA_PARSER_STATE_H_
#define NSA_ENGINE_TOKENIZER_JINJA_PARSER_STATE_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text.h"
#include "engine/tokenizer/jinja/lexer.h"
#include "engine/tokenizer/jinja/parser.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {

/// Recursive descent. Statements are in parser.cc, expressions in expression_parser.cc, what
/// follows a value (calls, items, filters, tests) in postfix_parser.cc.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  absl::StatusOr<Body> ParseAll();

 private:
  // Counts how deep the parser has called itself while it lives.
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) { ++parser_.nesting_; }
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    absl::Status Check() const {
      if (parser_.nesting_ <= kMaxNesting) return absl::OkStatus();
      return parser_.Fail("nested deeper than ", kMaxNesting);
    }

   private:
    Parser& parser_;
  };

  absl::StatusOr<Body> ParseBody(std::initializer_list<std::string_view> ends);
  absl::Status ParseTag(Stmt& stmt);
  absl::Status ParseIf(Stmt& stmt);
  absl::Status ParseFor(Stmt& stmt);
  absl::Status ParseSet(Stmt& stmt);
  absl::Status ParseMacro(Stmt& stmt);
  absl::Status ParseCallBlock(Stmt& stmt);
  absl::Status ParseFilterBlock(Stmt& stmt);
  absl::Status ParseWith(Stmt& stmt);
  absl::Status ParseSignature(Stmt& stmt);
  absl::Status ParseMacroBody(Stmt& stmt, std::string_view end);
  // A body that is a scope of its own.
  absl::StatusOr<Body> ParseInner(std::initializer_list<std::string_view> ends);
  absl::Status EndTag(std::string_view name);
  absl::StatusOr<Target> ParseTarget(bool attributes);

  // From the loosest to the tightest binding, as in jinja2: the conditional, or, and, not,
  // comparisons, + and -, ~, * / // %, signs, then what follows a value.
  absl::StatusOr<ExprPtr> ParseTuple(bool conditional);
  absl::StatusOr<ExprPtr> ParseExpression();
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  absl::StatusOr<ExprPtr> ParseComparison();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParseFactor();
  absl::StatusOr<ExprPtr> ParseOperand();
  absl::StatusOr<ExprPtr> ParseUnary(bool with_filters);
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParseNumber();
  absl::StatusOr<ExprPtr> ParseParenthesis();
  absl::StatusOr<ExprPtr> ParseList();
  absl::StatusOr<ExprPtr> ParseDict();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseCall(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr base);
  // The name and arguments behind a '|'.
  absl::StatusOr<ExprPtr> ParseFilter(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr base);
  absl::Status ParseArguments(Expr& call);
  absl::StatusOr<ExprPtr> ParseBinary(absl::StatusOr<ExprPtr> (Parser::*operand)(),
                                      std::initializer_list<std::pair<std::string_view, Operator>>);
  absl::StatusOr<ExprPtr> ParseLogic(absl::StatusOr<ExprPtr> (Parser::*operand)(),
                                     std::string_view word, Expr::Kind kind);

  // A filter or test that is not known is, as in jinja2, an error of its use where an `if` decides
  // on that, and an error of the template elsewhere. Which of these is known at the `if`'s end.
  struct Unknown {
    absl::Status error;
    bool settled;
  };
  void NoteUnknown(int line, std::string_view kind, std::string_view name);
  // Decides on those since `first`.
  void Excuse(size_t first);
  void Insist(size_t first);

  ExprPtr Make(Expr::Kind kind) const;
  // What a block printed, for the filters over it.
  ExprPtr Caught() const;
  // Ends the building of a node: its depth is bounded, for evaluation recurses.
  absl::StatusOr<ExprPtr> Done(ExprPtr expr) const;

  const Token& Peek(size_t ahead = 0) const {
    const size_t at = at_ + ahead;
    return at < tokens_.size() ? tokens_[at] : tokens_.back();
  }
  const Token& Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsName(std::string_view name, size_t ahead = 0) const {
    return Peek(ahead).kind == Token::Kind::kName && Peek(ahead).text == name;
  }
  bool IsOperator(std::string_view name) const {
    return Peek().kind == Token::Kind::kOperator && Peek().text == name;
  }
  bool TakeName(std::string_view name) { return IsName(name) && (Take(), true); }
  bool TakeOperator(std::string_view name) { return IsOperator(name) && (Take(), true); }
  absl::Status Expect(Token::Kind kind, std::string_view what) {
    if (Peek().kind != kind) return Fail("expected '", View(what), "'");
    Take();
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> ExpectName() {
    if (Peek().kind != Token::Kind::kName) return Fail("expected a name");
    return Take().text;
  }
  absl::StatusOr<std::string> ExpectDottedName();
  template <typename... Parts>
  absl::Status Fail(const Parts&... parts) const {
    const Token& token = Peek();
    absl::Status status = Error("line ", token.line, ": ", parts...);
    if (token.text.empty() || token.kind == Token::Kind::kText) return status;
    return Error(status.message(), " (at '", token.text.substr(0, 40), "')");
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  std::vector<Unknown> unknown_;
};

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_PARSER_STATE_H_
