#ifndef NSA_ENGINE_TOKENIZER_JINJA_PARSER_H_
#define NSA_ENGINE_TOKENIZER_JINJA_PARSER_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/value.h"

namespace nsa::engine::jinja {

inline constexpr int kMaxNesting = 100;  // of the source's brackets, blocks and operators

enum class Operator { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind {
    kConstant,
    kName,
    kList,
    kTuple,
    kDict,       // args: key, value, key, value, ...
    kAttribute,  // args[0].name
    kItem,       // args[0][args[1]]
    kSlice,      // args[0][args[1]:args[2]:args[3]], the last three may be null
    kCall,       // args[0](args[1:], **named); the names "*" and "**" spread their values
    kFilter,     // args[0]|name(args[1:], **named)
    kTest,       // args[0] is name(args[1:], **named)
    kNot,
    kNegate,
    kPlus,
    kAnd,
    kOr,
    kBinary,
    kConcat,
    kCompare,  // args[0] comparisons[0] args[1] comparisons[1] ...
    kIf,       // args[1] if args[0] else args[2] (may be null)
  };
  Kind kind;
  int line;
  int depth = 1;
  Value constant;
  std::string name;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  Operator op = Operator::kAdd;
  std::vector<Comparison> comparisons;
  FilterFunction filter = nullptr;
  TestFunction test = nullptr;
};

using Body = std::vector<std::unique_ptr<Stmt>>;

/// What an assignment or a loop writes to: a name, a namespace's attribute, or several of them.
struct Target {
  std::string name;
  std::string attribute;
  std::vector<Target> parts;  // not empty: unpack into these
};

struct Stmt {
  enum class Kind {
    kText,
    kPrint,     // expr
    kIf,        // branches in order; one without a condition is the else
    kFor,       // target, expr, filter (may be null), body, otherwise
    kSet,       // target, expr
    kSetBlock,  // target, body; expr: the filters over what is caught, may be null
    kMacro,     // text is its name; parameters, body
    kCall,      // expr is called with parameters and body as the macro `caller`
    kFilter,    // body, expr: the filters over what is caught
    kWith,      // parameters, body
    kBreak,
    kContinue,
  };
  /// The name that filters over a caught text know it by; no template can say it.
  static constexpr std::string_view kCaught = "";
  Kind kind;
  int line;
  std::string text;
  ExprPtr expr;
  ExprPtr filter;
  bool recursive = false;  // of a loop
  // Whether a macro takes what its parameters do not, under the names that Jinja has for it.
  bool takes_varargs = false;
  bool takes_kwargs = false;
  bool takes_caller = false;
  Target target;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // the default may be null
  Body body;
  Body otherwise;
};

/// InvalidArgument names the line and what is wrong or not known.
absl::StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_PARSER_H_
