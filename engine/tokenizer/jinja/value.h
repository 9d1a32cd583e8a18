#ifndef NSA_ENGINE_TOKENIZER_JINJA_VALUE_H_
#define NSA_ENGINE_TOKENIZER_JINJA_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::engine::jinja {

inline constexpr uint64_t kMaxSteps = 10'000'000;
inline constexpr uint64_t kBytesPerStep = 32;
inline constexpr size_t kMaxTextBytes = size_t{64} << 20;
inline constexpr int kMaxValueDepth = 100;

/// What one rendering may still spend. Templates come from files, so each loop, copy and walk
/// through a value is paid for here; a value that shares its parts may be exponentially large.
class Budget {
 public:
  absl::Status Charge(uint64_t steps);
  absl::Status ChargeBytes(uint64_t bytes) { return Charge(1 + bytes / kBytesPerStep); }

 private:
  uint64_t left_ = kMaxSteps;  // 0 for good once it did not suffice
};

class Value;
struct Arguments;
struct Sequence;
struct Dict;
struct Namespace;
struct Function;
class LoopObject;
using Text = std::shared_ptr<const std::string>;

struct Undefined {
  Text reason;
};
struct None {};
/// Text that HTML's escaping leaves as it is, for a filter has made it so or said so.
struct SafeText {
  Text text;
};

/// A value of the template language, with Python's meaning. Copies share. Immutable but for
/// Namespace, which therefore holds no other namespace: values never form a cycle.
class Value {
 public:
  using Variant = std::variant<Undefined, None, bool, int64_t, double, Text, SafeText,
                               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>,
                               std::shared_ptr<Namespace>, std::shared_ptr<const Function>,
                               std::shared_ptr<LoopObject>>;

  Value() : data_(None{}) {}
  explicit Value(Variant data) : data_(std::move(data)) {}
  static Value OfUndefined(std::string reason);
  static Value OfBool(bool value) { return Value(Variant(value)); }
  static Value OfInt(int64_t value) { return Value(Variant(value)); }
  static Value OfFloat(double value) { return Value(Variant(value)); }
  /// Not charged: for text that the template or the request already holds.
  static Value OfText(std::string text);
  /// The same text, marked; what is no text remains what it is.
  Value AsSafe() const;

  template <typename T>
  const T* As() const {
    return std::get_if<T>(&data_);
  }
  const std::string* AsText() const;  // of both kinds
  bool IsSafe() const { return As<SafeText>() != nullptr; }
  const Sequence* AsSequence() const;
  const Dict* AsDict() const;
  Namespace* AsNamespace() const;
  const Function* AsFunction() const;
  bool IsUndefined() const { return As<Undefined>() != nullptr; }
  bool IsNone() const { return As<None>() != nullptr; }
  /// Integers and, as in Python, booleans.
  std::optional<int64_t> AsInt() const;
  /// Integers, booleans and floats.
  std::optional<double> AsNumber() const;

  int depth() const;
  /// True if a namespace can be reached: such a value is not put into a namespace.
  bool reaches_namespace() const;

 private:
  Variant data_;
};

struct Sequence {
  /// Views (of a dict) and generators take part in loops but not in indexing, as in Python.
  enum class Kind { kList, kTuple, kRange, kView, kGenerator };
  Kind kind;
  std::vector<Value> items;
  int depth;
  bool reaches_namespace;
  mutable bool consumed = false;  // of a generator; a value belongs to one rendering
  absl::Status failure;           // of a generator: what it comes to after its items
  std::string label;              // a range's text; a view's name
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion, keys distinct
  int depth;
  bool reaches_namespace;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  const Value* Find(std::string_view name) const;
  absl::Status Set(std::string_view name, Value value);
};

struct Stmt;
struct Scope;

struct Function {
  enum class Kind { kGlobal, kMethod, kMacro };
  Kind kind;
  std::string name;
  Value self;  // of a method
  const Stmt* macro = nullptr;
  std::weak_ptr<Scope> scope;  // where the macro stands; weak, for the scope owns the macro
};

/// The variable `loop` inside of a loop.
class LoopObject : public std::enable_shared_from_this<LoopObject> {
 public:
  virtual ~LoopObject() = default;
  virtual absl::StatusOr<Value> Attribute(std::string_view name) = 0;
  /// Its methods; by an empty name the loop itself, which a recursive one takes for a loop further.
  virtual absl::StatusOr<Value> Call(std::string_view name, const Arguments& arguments) = 0;
  virtual int depth() const = 0;
};

/// Charged and bounded. An error if too long.
absl::StatusOr<Value> MakeText(std::string text, Budget& budget);
absl::StatusOr<Value> MakeSequence(Sequence::Kind kind, std::vector<Value> items, Budget& budget);
/// A range, or the view of a dict.
absl::StatusOr<Value> MakeLabelled(Sequence::Kind kind, std::string label, std::vector<Value> items,
                                   Budget& budget);
/// In Python a generator works when it is read. Ours has worked already, so it keeps its error.
absl::StatusOr<Value> MakeGenerator(std::vector<Value> items, absl::Status failure, Budget& budget);
/// A later key replaces the value of an equal earlier one.
absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> items, Budget& budget);
/// Null if absent.
absl::StatusOr<const Value*> FindKey(const Dict& dict, const Value& key, Budget& budget);

/// True if a first part is equal to `key`; an error for a key that Python cannot hash.
absl::StatusOr<bool> HasKey(const std::vector<std::pair<Value, Value>>& items, const Value& key,
                            Budget& budget);

/// Python's name of the type, for messages: "str", "int", ...
std::string_view TypeName(const Value& value);
bool Truth(const Value& value);
/// Python's ==. Values of different kinds are unequal.
absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget);
/// Python's <; an error where Python raises TypeError.
absl::StatusOr<bool> Less(const Value& a, const Value& b, Budget& budget);
/// What iterating yields: items, keys of a dict, characters of a string, nothing of an undefined.
/// An error for what cannot be iterated.
absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Budget& budget);
/// Python's len().
absl::StatusOr<int64_t> Length(const Value& value, Budget& budget);
/// Python's str(): what printing shows. An error for functions, generators and the like.
absl::StatusOr<std::string> ToText(const Value& value, Budget& budget);
/// Python's repr().
absl::StatusOr<std::string> ToRepr(const Value& value, Budget& budget);
/// Python's repr() of a float.
std::string FloatText(double value);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_VALUE_H_
