#include "engine/weights/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "tests/engine/gguf_builder.h"

namespace nsa::engine {
namespace {

using ::testing::HasSubstr;

void ExpectError(const std::string& path, absl::StatusCode code) {
  const absl::Status status = MappedFile::Open(path).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
}

TEST(MappedFile, HoldsTheFilesBytesAfterItsNameIsGone) {
  auto temp = std::make_unique<TempFile>(std::string_view("a\0b", 3));
  auto file = MappedFile::Open(temp->path());
  ASSERT_TRUE(file.ok()) << file.status();
  temp.reset();
  ASSERT_EQ((*file)->bytes().size(), 3u);
  EXPECT_EQ(std::memcmp((*file)->bytes().data(), "a\0b", 3), 0);
}

TEST(MappedFile, WhatWasReleasedCanBeReadAgain) {
  std::string bytes(100'000, 'x');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  const TempFile temp(bytes);
  const auto file = MappedFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const std::byte* data = (*file)->bytes().data();
  for (const auto& [first, size] :
       {std::pair(0, 100'000), {1, 50'000}, {4096, 4096}, {10, 5}, {7, 0}}) {
    ReleaseMapped(data + first, size);
    EXPECT_EQ(std::memcmp(data, bytes.data(), bytes.size()), 0);
  }
}

TEST(MappedFile, NamesWhatCannotBeMapped) {
  const TempFile empty;
  ExpectError(empty.path(), absl::StatusCode::kInvalidArgument);
  ExpectError(empty.path() + ".none", absl::StatusCode::kNotFound);
  ExpectError(testing::TempDir(), absl::StatusCode::kInvalidArgument);
}

TEST(MappedFile, DoesNotWaitForAPipe) {
  const TempFile temp;
  const std::string path = temp.path() + ".pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  ExpectError(path, absl::StatusCode::kInvalidArgument);
  unlink(path.c_str());
}

TEST(MappedFile, AFileWithoutPermissionIsDenied) {
  const TempFile temp("x");
  ASSERT_EQ(chmod(temp.path().c_str(), 0), 0);
  // Root may read every file, so root tries it as nobody.
  const uid_t user = geteuid();
  EXPECT_EQ(seteuid(user == 0 ? 65534 : user), 0);
  ExpectError(temp.path(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(seteuid(user), 0);
}

TEST(MappedFile, LeavesNoDescriptorOpen) {
  const TempFile temp("x");
  const TempFile empty;
  const int before = dup(0);
  close(before);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(MappedFile::Open(temp.path()).ok());
    EXPECT_FALSE(MappedFile::Open(empty.path()).ok());
  }
  const int after = dup(0);
  close(after);
  EXPECT_EQ(after, before);
}

}  // namespace
}  // namespace nsa::engine
