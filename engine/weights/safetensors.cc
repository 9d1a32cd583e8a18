#include "engine/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

// The reference refuses longer ones too.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 16;

struct ElementType {
  std::string_view name;
  int num_bits;
  kernels::WeightType type;
};

// A checkpoint may hold tensors of any of these; models read three of them.
constexpr std::array kElementTypes = {
    ElementType{"F32", 32, kernels::WeightType::kF32},
    ElementType{"F16", 16, kernels::WeightType::kF16},
    ElementType{"BF16", 16, kernels::WeightType::kBF16},
    ElementType{"F64", 64, WeightTensor::kUnreadable},
    ElementType{"C64", 64, WeightTensor::kUnreadable},
    ElementType{"I64", 64, WeightTensor::kUnreadable},
    ElementType{"U64", 64, WeightTensor::kUnreadable},
    ElementType{"I32", 32, WeightTensor::kUnreadable},
    ElementType{"U32", 32, WeightTensor::kUnreadable},
    ElementType{"I16", 16, WeightTensor::kUnreadable},
    ElementType{"U16", 16, WeightTensor::kUnreadable},
    ElementType{"I8", 8, WeightTensor::kUnreadable},
    ElementType{"U8", 8, WeightTensor::kUnreadable},
    ElementType{"BOOL", 8, WeightTensor::kUnreadable},
    ElementType{"F8_E4M3", 8, WeightTensor::kUnreadable},
    ElementType{"F8_E5M2", 8, WeightTensor::kUnreadable},
    ElementType{"F8_E8M0", 8, WeightTensor::kUnreadable},
    ElementType{"F6_E2M3", 6, WeightTensor::kUnreadable},
    ElementType{"F6_E3M2", 6, WeightTensor::kUnreadable},
    ElementType{"F4", 4, WeightTensor::kUnreadable},
};

const ElementType* FindElementType(std::string_view name) {
  const auto* it = std::ranges::find(kElementTypes, name, &ElementType::name);
  return it == kElementTypes.end() ? nullptr : it;
}

/// A tensor as the header has it.
struct Entry {
  std::string name;
  const ElementType* type = nullptr;
  std::vector<int64_t> shape;
  std::vector<uint64_t> offsets;  // begin and end, from the begin of the data
  bool has_shape = false;
  bool has_offsets = false;
};

/// Takes the header apart as it is parsed: {name: {"dtype": …, "shape": […], "data_offsets": […]}},
/// and "__metadata__" with strings. Holds what the header says once, in no other form.
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  std::vector<Entry> TakeEntries() { return std::move(entries_); }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a bool"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return Unexpected("a number");
    if (field_ == Field::kShape) {
      if (entry().shape.size() == kMaxDimensions) return Fail("more than 16 dimensions");
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail("a dimension above 2^63");
      }
      entry().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (entry().offsets.size() == 2) return Fail("data_offsets has more than two numbers");
    entry().offsets.push_back(value);
    return true;
  }
  bool number_float(number_float_t, const string_t&) override { return Unexpected("a fraction"); }
  bool string(string_t& value) override {
    if (in_metadata_ && depth_ == 2) return true;
    if (depth_ != 2 || in_array_ || field_ != Field::kType) return Unexpected("a string");
    entry().type = FindElementType(value);
    return entry().type != nullptr || Fail(absl::StrCat("dtype ", Quoted(value), " is unknown"));
  }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool start_object(size_t) override {
    if (in_array_ || depth_ >= 2) return Unexpected("an object");
    ++depth_;
    field_ = Field::kNone;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) return BeginEntry(name);
    return in_metadata_ || BeginField(name);
  }
  bool end_object() override {
    --depth_;
    if (depth_ != 1) return true;
    if (!in_metadata_ && (entry().type == nullptr || !entry().has_shape || !entry().has_offsets)) {
      return Fail("expected dtype, shape and data_offsets");
    }
    if (!in_metadata_ && entry().offsets.size() != 2)
      return Fail("data_offsets has no two numbers");
    in_metadata_ = false;
    return true;
  }
  bool start_array(size_t) override {
    const bool wanted = field_ == Field::kShape || field_ == Field::kOffsets;
    if (depth_ != 2 || in_array_ || !wanted) return Unexpected("an array");
    in_array_ = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    if (error_.empty()) error_ = absl::StrCat("the header is no JSON at its byte ", position);
    return false;
  }

 private:
  enum class Field { kNone, kType, kShape, kOffsets };

  Entry& entry() { return entries_.back(); }

  bool BeginEntry(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    if (!names_.insert(name).second) {
      error_ = absl::StrCat("tensor ", Quoted(name), ": stands twice");
      return false;
    }
    if (!in_metadata_) {
      entries_.emplace_back();
      entry().name = name;
    }
    return true;
  }

  bool BeginField(const std::string& name) {
    field_ = name == "dtype"          ? Field::kType
             : name == "shape"        ? Field::kShape
             : name == "data_offsets" ? Field::kOffsets
                                      : Field::kNone;
    bool twice = false;
    if (field_ == Field::kNone) return Fail(absl::StrCat("unknown field ", Quoted(name)));
    if (field_ == Field::kType) twice = entry().type != nullptr;
    if (field_ == Field::kShape) twice = std::exchange(entry().has_shape, true);
    if (field_ == Field::kOffsets) twice = std::exchange(entry().has_offsets, true);
    return !twice || Fail(absl::StrCat("field ", Quoted(name), " stands twice"));
  }

  bool Fail(std::string_view what) {
    const bool in_tensor = !entries_.empty() && depth_ >= 1 && !in_metadata_;
    error_ = absl::StrCat(in_tensor ? absl::StrCat("tensor ", Quoted(entry().name), ": ") : "",
                          View(what));
    return false;
  }
  bool Unexpected(std::string_view found) {
    if (depth_ == 0) return Fail("expected a JSON object as the header");
    return Fail(absl::StrCat("found ", View(found),
                             ", expected {\"dtype\": …, \"shape\": […], \"data_offsets\": […]}"));
  }

  std::vector<Entry> entries_;
  absl::flat_hash_set<std::string> names_;
  std::string error_;
  int depth_ = 0;
  bool in_metadata_ = false;
  bool in_array_ = false;
  Field field_ = Field::kNone;
};

/// Bytes of a tensor; nothing where the product overflows or is no whole number of bytes.
absl::StatusOr<uint64_t> NumBytes(const Entry& entry) {
  uint64_t bits = static_cast<uint64_t>(entry.type->num_bits);
  for (const int64_t size : entry.shape) {
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(size), &bits)) {
      return absl::InvalidArgumentError("the product of its shape overflows");
    }
  }
  if (bits % 8 != 0) return absl::InvalidArgumentError("its elements fill no whole bytes");
  return bits / 8;
}

/// Each tensor as long as it says, one after the other, to the end of the data.
absl::Status CheckPlaces(const std::vector<Entry>& entries, uint64_t data_bytes) {
  uint64_t end = 0;
  for (const Entry& entry : entries) {
    const auto fail = [&](const auto&... parts) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(entry.name), ": ", parts...));
    };
    const uint64_t first = entry.offsets[0], last = entry.offsets[1];
    if (first != end || last < first) {
      return fail("data_offsets [", first, ", ", last, "], expected to begin at ", end,
                  " where the tensor before ends");
    }
    if (last > data_bytes) {
      return fail("data_offsets end at ", last, ", but the file has ", data_bytes,
                  " bytes of data (truncated?)");
    }
    const auto num_bytes = NumBytes(entry);
    if (!num_bytes.ok()) return fail(num_bytes.status().message());
    if (*num_bytes != last - first) {
      return fail("data_offsets span ", last - first, " bytes, expected ", *num_bytes,
                  " for its dtype and shape");
    }
    end = last;
  }
  if (end == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "its tensors end at byte ", end, " of the data, expected ", data_bytes, ", the file's end"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  auto mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  auto file = absl::WrapUnique(new SafetensorsFile(path));
  file->file_ = *std::move(mapped);
  if (absl::Status status = file->Parse(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  return file;
}

absl::Status SafetensorsFile::Parse() {
  const auto bytes = file_->bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::InvalidArgumentError("no safetensors file: shorter than eight bytes");
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const uint64_t rest = bytes.size() - sizeof(header_bytes);
  if (header_bytes > std::min(rest, kMaxHeaderBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", header_bytes, " bytes, expected at most ",
                     std::min(rest, kMaxHeaderBytes), " (no safetensors file, or truncated)"));
  }
  const auto* begin = reinterpret_cast<const char*>(bytes.data()) + sizeof(header_bytes);
  if (header_bytes == 0 || *begin != '{') {
    return absl::InvalidArgumentError("the header does not begin with '{': no safetensors file");
  }
  HeaderReader reader;
  if (!json::sax_parse(begin, begin + header_bytes, &reader)) {
    return absl::InvalidArgumentError(reader.error());
  }
  std::vector<Entry> entries = reader.TakeEntries();
  std::ranges::stable_sort(entries, {}, &Entry::offsets);
  if (absl::Status status = CheckPlaces(entries, rest - header_bytes); !status.ok()) return status;
  const std::byte* data = bytes.data() + sizeof(header_bytes) + header_bytes;
  names_.reserve(entries.size());
  tensors_.reserve(entries.size());
  for (Entry& entry : entries) {
    names_.push_back(std::move(entry.name));
    tensors_.push_back({.name = names_.back(),
                        .type = entry.type->type,
                        .type_name = entry.type->name,
                        .shape = std::move(entry.shape),
                        .data = data + entry.offsets[0],
                        .num_bytes = static_cast<int64_t>(entry.offsets[1] - entry.offsets[0])});
  }
  return absl::OkStatus();
}

}  // namespace nsa::engine
