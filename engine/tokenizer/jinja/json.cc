// The filter `tojson`.

#include <algorithm>
#include <cmath>

#include "engine/text.h"
#include "engine/tokenizer/jinja/filters.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

struct JsonStyle {
  bool ascii = false;
  bool sorted = false;
  std::optional<std::string> indent;  // of one level; nothing: all in one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  absl::Status Write(const Value& value) {
    JINJA_RETURN_IF_ERROR(budget_.Charge(1));
    if (out_.size() > kMaxTextBytes) return Error("tojson: over 64 MiB");
    if (const std::string* text = value.AsText()) {
      JINJA_RETURN_IF_ERROR(budget_.ChargeBytes(text->size()));
      out_ += JsonText(*text, style_.ascii);
    } else if (const Dict* dict = value.AsDict()) {
      return WriteDict(*dict);
    } else if (const Sequence* sequence = value.AsSequence()) {
      if (sequence->kind != Sequence::Kind::kList && sequence->kind != Sequence::Kind::kTuple) {
        return Error("tojson: a ", View(TypeName(value)), " is not JSON; use |list first");
      }
      return WriteList(*sequence);
    } else {
      return WriteScalar(value);
    }
    return absl::OkStatus();
  }

  std::string Take() { return std::move(out_); }

 private:
  absl::Status WriteScalar(const Value& value) {
    if (value.IsNone()) {
      out_ += "null";
    } else if (const bool* boolean = value.As<bool>()) {
      out_ += *boolean ? "true" : "false";
    } else if (const int64_t* integer = value.As<int64_t>()) {
      out_ += std::to_string(*integer);
    } else if (const double* number = value.As<double>()) {
      out_ += std::isnan(*number)   ? "NaN"
              : std::isinf(*number) ? (*number < 0 ? "-Infinity" : "Infinity")
                                    : FloatText(*number);
    } else {
      return Error("tojson: a ", View(TypeName(value)), " is not JSON");
    }
    return absl::OkStatus();
  }

  absl::Status Separate(bool first) {
    if (!first) out_ += style_.item_separator;
    return NewLine();
  }

  absl::Status NewLine() {
    JINJA_RETURN_IF_ERROR(budget_.ChargeBytes(style_.item_separator.size()));
    if (!style_.indent) return absl::OkStatus();
    const size_t bytes = style_.indent->size() * depth_;
    JINJA_RETURN_IF_ERROR(budget_.ChargeBytes(bytes));
    if (out_.size() + bytes > kMaxTextBytes) return Error("tojson: over 64 MiB");
    out_ += '\n';
    for (size_t i = 0; i < depth_; ++i) out_ += *style_.indent;
    return absl::OkStatus();
  }

  absl::Status WriteList(const Sequence& sequence) {
    out_ += '[';
    ++depth_;
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      JINJA_RETURN_IF_ERROR(Separate(i == 0));
      JINJA_RETURN_IF_ERROR(Write(sequence.items[i]));
    }
    --depth_;
    if (!sequence.items.empty()) JINJA_RETURN_IF_ERROR(NewLine());
    out_ += ']';
    return absl::OkStatus();
  }

  absl::Status WriteDict(const Dict& dict) {
    std::vector<Value> keys;
    for (const auto& item : dict.items) keys.push_back(item.first);
    if (style_.sorted) JINJA_RETURN_IF_ERROR(SortBy(keys, keys, false, budget_));
    out_ += '{';
    ++depth_;
    for (size_t i = 0; i < keys.size(); ++i) {
      JINJA_RETURN_IF_ERROR(Separate(i == 0));
      if (keys[i].AsText()) {
        JINJA_RETURN_IF_ERROR(Write(keys[i]));
      } else {
        out_ += '"';
        JINJA_RETURN_IF_ERROR(WriteScalar(keys[i]));
        out_ += '"';
      }
      out_ += style_.key_separator;
      const Value* value = &dict.items[i].second;
      if (style_.sorted) {
        JINJA_ASSIGN_OR_RETURN(value, FindKey(dict, keys[i], budget_));
      }
      JINJA_RETURN_IF_ERROR(Write(*value));
    }
    --depth_;
    if (!dict.items.empty()) JINJA_RETURN_IF_ERROR(NewLine());
    out_ += '}';
    return absl::OkStatus();
  }

  const JsonStyle& style_;
  Budget& budget_;
  size_t depth_ = 0;
  std::string out_;
};

absl::Status SetIndent(const Value& indent, JsonStyle& style) {
  if (indent.IsNone()) return absl::OkStatus();
  style.item_separator.assign(1, ',');  // as in Python, unless separators are given
  if (const std::string* text = indent.AsText()) {
    style.indent = *text;
    return absl::OkStatus();
  }
  const std::optional<int64_t> width = indent.AsInt();
  if (!width) return Error("tojson: indent must be a number or a string");
  if (*width > static_cast<int64_t>(kMaxTextBytes)) return Error("tojson: over 64 MiB");
  style.indent = std::string(static_cast<size_t>(std::max<int64_t>(*width, 0)), ' ');
  return absl::OkStatus();
}

absl::Status SetSeparators(const Value& separators, JsonStyle& style, Budget& budget) {
  if (separators.IsNone()) return absl::OkStatus();
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> parts, Iterate(separators, budget));
  if (parts.size() != 2 || !parts[0].AsText() || !parts[1].AsText()) {
    return Error("tojson: separators must be two strings");
  }
  style.item_separator = *parts[0].AsText();
  style.key_separator = *parts[1].AsText();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Value> ToJsonFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound,
                         Bind(arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ascii = bound[0] != nullptr && Truth(*bound[0]);
  style.sorted = bound[3] != nullptr && Truth(*bound[3]);
  if (bound[1] != nullptr) JINJA_RETURN_IF_ERROR(SetIndent(*bound[1], style));
  if (bound[2] != nullptr) JINJA_RETURN_IF_ERROR(SetSeparators(*bound[2], style, budget));
  JsonWriter writer(style, budget);
  JINJA_RETURN_IF_ERROR(writer.Write(input));
  return MakeText(writer.Take(), budget);
}

}  // namespace nsa::engine::jinja
