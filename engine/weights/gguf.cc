#include "engine/weights/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"
#include "engine/weights/mapped_file.h"

namespace nsa::engine {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr int64_t kMaxAlignment = 1 << 20;
constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr uint32_t kMaxDimensions = 4;
// Smallest entry of each list: what the rest of the file must hold for a count to be believable.
constexpr uint64_t kMinTensorInfoBytes = 8 + 4 + 8 + 4 + 8;
constexpr uint64_t kMinKeyValueBytes = 8 + 4 + 1;

/// GGUF metadata value types.
enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

absl::StatusOr<std::string_view> ReadString(ByteCursor& cursor) {
  const auto length = cursor.Read<uint64_t>("a string's length");
  if (!length.ok()) return length.status();
  return cursor.ReadBytes(*length, "a string");
}

template <typename Stored>
using Widened = std::conditional_t<
    std::is_same_v<Stored, bool>, bool,
    std::conditional_t<std::is_floating_point_v<Stored>, double,
                       std::conditional_t<std::is_signed_v<Stored>, int64_t, uint64_t>>>;

/// A bool is one byte that must be 0 or 1.
template <typename Stored>
absl::StatusOr<Widened<Stored>> ReadNumber(ByteCursor& cursor) {
  if constexpr (std::is_same_v<Stored, bool>) {
    const auto byte = cursor.Read<uint8_t>("a bool");
    if (!byte.ok()) return byte.status();
    if (*byte > 1) return cursor.Error(absl::StrCat("bool is ", *byte, ", expected 0 or 1"));
    return *byte == 1;
  } else {
    const auto value = cursor.Read<Stored>("a number");
    if (!value.ok()) return value.status();
    return static_cast<Widened<Stored>>(*value);
  }
}

template <typename Stored>
absl::StatusOr<GgufValue> ReadScalar(ByteCursor& cursor) {
  const auto value = ReadNumber<Stored>(cursor);
  if (!value.ok()) return value.status();
  return GgufValue{*value};
}

template <typename Stored>
absl::StatusOr<GgufValue> ReadNumbers(ByteCursor& cursor, uint64_t count) {
  if (count > cursor.remaining() / sizeof(Stored)) {
    return cursor.Error(absl::StrCat("array of ", count, " elements, but only ", cursor.remaining(),
                                     " bytes are left"));
  }
  std::vector<Widened<Stored>> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const auto value = ReadNumber<Stored>(cursor);
    if (!value.ok()) return value.status();
    values.push_back(*value);
  }
  return GgufValue{std::move(values)};
}

absl::StatusOr<GgufValue> ReadStrings(ByteCursor& cursor, uint64_t count) {
  if (count > cursor.remaining() / sizeof(uint64_t)) {
    return cursor.Error(absl::StrCat("array of ", count, " strings, but only ", cursor.remaining(),
                                     " bytes are left"));
  }
  GgufValue::Strings strings;
  strings.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const auto text = ReadString(cursor);
    if (!text.ok()) return text.status();
    strings.push_back(*text);
  }
  return GgufValue{std::move(strings)};
}

absl::StatusOr<GgufValue> ReadArray(ByteCursor& cursor) {
  const auto type = cursor.Read<uint32_t>("an array element type");
  if (!type.ok()) return type.status();
  const auto count = cursor.Read<uint64_t>("an array length");
  if (!count.ok()) return count.status();
  switch (*type) {
    case kUint8:
      return ReadNumbers<uint8_t>(cursor, *count);
    case kInt8:
      return ReadNumbers<int8_t>(cursor, *count);
    case kUint16:
      return ReadNumbers<uint16_t>(cursor, *count);
    case kInt16:
      return ReadNumbers<int16_t>(cursor, *count);
    case kUint32:
      return ReadNumbers<uint32_t>(cursor, *count);
    case kInt32:
      return ReadNumbers<int32_t>(cursor, *count);
    case kUint64:
      return ReadNumbers<uint64_t>(cursor, *count);
    case kInt64:
      return ReadNumbers<int64_t>(cursor, *count);
    case kFloat32:
      return ReadNumbers<float>(cursor, *count);
    case kFloat64:
      return ReadNumbers<double>(cursor, *count);
    case kBool:
      return ReadNumbers<bool>(cursor, *count);
    case kString:
      return ReadStrings(cursor, *count);
    case kArray:
      return cursor.Error("arrays of arrays are not supported");
    default:
      return cursor.Error(absl::StrCat("array element type ", *type, ", expected 0 to 12"));
  }
}

absl::StatusOr<GgufValue> ReadValue(ByteCursor& cursor) {
  const auto type = cursor.Read<uint32_t>("a value type");
  if (!type.ok()) return type.status();
  switch (*type) {
    case kUint8:
      return ReadScalar<uint8_t>(cursor);
    case kInt8:
      return ReadScalar<int8_t>(cursor);
    case kUint16:
      return ReadScalar<uint16_t>(cursor);
    case kInt16:
      return ReadScalar<int16_t>(cursor);
    case kUint32:
      return ReadScalar<uint32_t>(cursor);
    case kInt32:
      return ReadScalar<int32_t>(cursor);
    case kUint64:
      return ReadScalar<uint64_t>(cursor);
    case kInt64:
      return ReadScalar<int64_t>(cursor);
    case kFloat32:
      return ReadScalar<float>(cursor);
    case kFloat64:
      return ReadScalar<double>(cursor);
    case kBool:
      return ReadScalar<bool>(cursor);
    case kString: {
      const auto text = ReadString(cursor);
      if (!text.ok()) return text.status();
      return GgufValue{*text};
    }
    case kArray:
      return ReadArray(cursor);
    default:
      return cursor.Error(absl::StrCat("value type ", *type, ", expected 0 to 12"));
  }
}

constexpr kernels::WeightType kSupported[] = {
    kernels::WeightType::kF32,  kernels::WeightType::kF16,  kernels::WeightType::kBF16,
    kernels::WeightType::kQ4_0, kernels::WeightType::kQ4_1, kernels::WeightType::kQ5_0,
    kernels::WeightType::kQ5_1, kernels::WeightType::kQ8_0, kernels::WeightType::kQ4_K,
    kernels::WeightType::kQ5_K, kernels::WeightType::kQ6_K};

std::string SupportedTypes() {
  std::string names;
  for (const kernels::WeightType type : kSupported) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", kernels::FindWeightBlock(type)->name);
  }
  return names;
}

/// A tensor's entry; its data offset is still relative to the data section.
struct TensorInfo {
  WeightTensor tensor;
  uint64_t offset;
  uint64_t offset_at;  // where the file says so
};

/// Shape (the file has the fastest dimension first) and size in bytes, without overflow.
absl::Status ReadShape(ByteCursor& cursor, uint32_t num_dimensions, WeightTensor& tensor,
                       uint64_t& num_elements) {
  num_elements = 1;
  for (uint32_t i = 0; i < num_dimensions; ++i) {
    const auto size = cursor.Read<uint64_t>("a tensor dimension");
    if (!size.ok()) return size.status();
    const auto limit = static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 512;
    if (*size == 0 || *size > limit / num_elements) {
      return cursor.Error(absl::StrCat("dimension ", i, " is ", *size,
                                       ", expected at least 1 and a product below 2^54"));
    }
    num_elements *= *size;
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(*size));
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorInfo> ReadTensorInfo(ByteCursor& cursor) {
  const auto name = ReadString(cursor);
  if (!name.ok()) return name.status();
  TensorInfo info;
  info.tensor.name = *name;
  cursor.SetContext("tensor", *name);
  const auto num_dimensions = cursor.Read<uint32_t>("the number of dimensions");
  if (!num_dimensions.ok()) return num_dimensions.status();
  if (*num_dimensions < 1 || *num_dimensions > kMaxDimensions) {
    return cursor.Error(
        absl::StrCat(*num_dimensions, " dimensions, expected 1 to ", kMaxDimensions));
  }
  uint64_t num_elements = 0;
  if (absl::Status s = ReadShape(cursor, *num_dimensions, info.tensor, num_elements); !s.ok()) {
    return s;
  }
  const auto type = cursor.Read<uint32_t>("a tensor type");
  if (!type.ok()) return type.status();
  info.tensor.type = static_cast<kernels::WeightType>(*type);
  const kernels::WeightBlock* block = kernels::FindWeightBlock(info.tensor.type);
  if (block == nullptr) {
    return cursor.Error(
        absl::StrCat("type ", *type, " is not supported; supported: ", SupportedTypes()));
  }
  if (info.tensor.shape.back() % block->num_elements != 0) {
    return cursor.Error(absl::StrCat("rows of ", info.tensor.shape.back(), " elements of type ",
                                     block->name, ", expected a multiple of ",
                                     block->num_elements));
  }
  info.tensor.type_name = block->name;
  info.tensor.num_bytes =
      static_cast<int64_t>(num_elements) / block->num_elements * block->num_bytes;
  const auto offset = cursor.Read<uint64_t>("a tensor offset");
  if (!offset.ok()) return offset.status();
  info.offset = *offset;
  info.offset_at = cursor.field_offset();
  return info;
}

/// Each tensor aligned, inside the data section, and apart from the others.
absl::Status PlaceTensors(ByteCursor& cursor, uint64_t alignment, std::span<const std::byte> file,
                          std::vector<TensorInfo>& infos) {
  const uint64_t data_begin = (cursor.offset() + alignment - 1) / alignment * alignment;
  const uint64_t data_size = file.size() - std::min<uint64_t>(file.size(), data_begin);
  std::vector<std::pair<uint64_t, const TensorInfo*>> order;
  for (TensorInfo& info : infos) {
    const auto bytes = static_cast<uint64_t>(info.tensor.num_bytes);
    cursor.SetContext("tensor", info.tensor.name);
    if (info.offset % alignment != 0) {
      return cursor.ErrorAt(info.offset_at, absl::StrCat("offset ", info.offset,
                                                         ", expected a multiple of ", alignment));
    }
    if (info.offset > data_size || bytes > data_size - info.offset) {
      return cursor.ErrorAt(
          info.offset_at,
          absl::StrCat(bytes, " bytes at offset ", info.offset, ", expected at most ", data_size,
                       ", as the file has after its header (truncated?)"));
    }
    info.tensor.data = file.data() + data_begin + info.offset;
    order.emplace_back(info.offset, &info);
  }
  std::sort(order.begin(), order.end());
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorInfo& before = *order[i - 1].second;
    if (before.offset + static_cast<uint64_t>(before.tensor.num_bytes) > order[i].first) {
      const TensorInfo& after = *order[i].second;
      cursor.SetContext("tensor", after.tensor.name);
      return cursor.ErrorAt(after.offset_at, absl::StrCat("offset ", after.offset, " is within ",
                                                          Quoted(before.tensor.name)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

GgufFile::~GgufFile() = default;

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  auto mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  auto file = absl::WrapUnique(new GgufFile(path));
  file->file_ = *std::move(mapped);
  if (absl::Status status = file->Parse(); !status.ok()) return status;
  return file;
}

absl::Status GgufFile::ParseHeader(ByteCursor& cursor, uint64_t& num_tensors,
                                   uint64_t& num_values) {
  const auto magic = cursor.Read<uint32_t>("the magic");
  if (!magic.ok()) return magic.status();
  if (*magic != kMagic) return cursor.Error("no GGUF file (its first four bytes are not 'GGUF')");
  const auto version = cursor.Read<uint32_t>("the version");
  if (!version.ok()) return version.status();
  if (*version == 0x02000000 || *version == 0x03000000) {
    return cursor.Error("big-endian GGUF files are not supported");
  }
  if (*version != 2 && *version != 3) {
    return cursor.Error(absl::StrCat("GGUF version ", *version, ", expected 2 or 3"));
  }
  version_ = *version;
  const auto tensors = cursor.Read<uint64_t>("the tensor count");
  if (!tensors.ok()) return tensors.status();
  const auto values = cursor.Read<uint64_t>("the metadata count");
  if (!values.ok()) return values.status();
  const uint64_t left = cursor.remaining();
  if (*tensors > left / kMinTensorInfoBytes || *values > left / kMinKeyValueBytes) {
    return cursor.Error(absl::StrCat(*tensors, " tensors and ", *values,
                                     " metadata values do not fit in the ", left, " bytes left"));
  }
  num_tensors = *tensors;
  num_values = *values;
  return absl::OkStatus();
}

absl::Status GgufFile::ParseValues(ByteCursor& cursor, uint64_t num_values) {
  for (uint64_t i = 0; i < num_values; ++i) {
    cursor.SetContext("", "");
    const auto key = ReadString(cursor);
    if (!key.ok()) return key.status();
    const uint64_t key_at = cursor.field_offset();
    cursor.SetContext("metadata key", *key);
    auto value = ReadValue(cursor);
    if (!value.ok()) return value.status();
    if (!values_.emplace(*key, *std::move(value)).second) {
      return cursor.ErrorAt(key_at, "stands twice");
    }
    if (*key == kAlignmentKey) {
      const auto alignment = GetInt(*key);
      if (!alignment.ok()) return alignment.status();
      if (*alignment < 1 || *alignment > kMaxAlignment ||
          !std::has_single_bit(static_cast<uint64_t>(*alignment))) {
        return cursor.Error(
            absl::StrCat(*alignment, ", expected a power of two up to ", kMaxAlignment));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status GgufFile::Parse() {
  ByteCursor cursor(path(), file_->bytes());
  uint64_t num_tensors = 0, num_values = 0;
  if (absl::Status s = ParseHeader(cursor, num_tensors, num_values); !s.ok()) return s;
  if (absl::Status s = ParseValues(cursor, num_values); !s.ok()) return s;
  std::vector<TensorInfo> infos;
  absl::flat_hash_set<std::string_view> names;
  for (uint64_t i = 0; i < num_tensors; ++i) {
    cursor.SetContext("", "");
    auto info = ReadTensorInfo(cursor);
    if (!info.ok()) return info.status();
    if (!names.insert(info->tensor.name).second) return cursor.Error("stands twice");
    infos.push_back(*std::move(info));
  }
  const uint64_t alignment = FindValue(kAlignmentKey) == nullptr
                                 ? kDefaultAlignment
                                 : static_cast<uint64_t>(GetInt(kAlignmentKey).value());
  if (absl::Status s = PlaceTensors(cursor, alignment, file_->bytes(), infos); !s.ok()) return s;
  for (TensorInfo& info : infos) weights_.Add(std::move(info.tensor));
  return absl::OkStatus();
}

const GgufValue* GgufFile::FindValue(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

}  // namespace nsa::engine
