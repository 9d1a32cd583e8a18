#include "server/command_line/command_line.h"

#include <algorithm>
#include <cstddef>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace nsa {
namespace {

/// The flag, if it is one of the groups'.
absl::CommandLineFlag* Find(const std::string& name, const std::vector<FlagGroup>& groups) {
  for (const FlagGroup& group : groups) {
    if (std::find(group.flags.begin(), group.flags.end(), name) != group.flags.end()) {
      return absl::FindCommandLineFlag(name);
    }
  }
  return nullptr;
}

absl::Status Set(absl::CommandLineFlag& flag, const std::string& value) {
  std::string error;
  if (flag.ParseFrom(value, &error)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag.Name(), " does not take '", value, "'",
                                                 error.empty() ? "" : ": ", error));
}

/// Sets the flag of arguments[index] and moves index past the value where that is the next
/// argument.
absl::Status ParseOne(const std::vector<std::string>& arguments, size_t& index,
                      const std::vector<FlagGroup>& groups) {
  const std::string text = arguments[index].substr(2);
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  absl::CommandLineFlag* flag = Find(name, groups);
  if (flag == nullptr && name.starts_with("no")) {
    flag = Find(name.substr(2), groups);
    if (flag != nullptr && flag->IsOfType<bool>() && equals == std::string::npos) {
      return Set(*flag, "false");
    }
    flag = nullptr;
  }
  if (flag == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("unknown flag --", name, "; --help lists them"));
  }
  if (equals != std::string::npos) return Set(*flag, text.substr(equals + 1));
  if (flag->IsOfType<bool>()) return Set(*flag, "true");
  if (++index == arguments.size()) {
    return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
  }
  return Set(*flag, arguments[index]);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseFlags(const std::vector<std::string>& arguments,
                                                    const std::vector<FlagGroup>& groups) {
  std::vector<std::string> others;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--") {
      others.insert(others.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                    arguments.end());
      break;
    }
    if (!arguments[i].starts_with("--")) {
      others.push_back(arguments[i]);
      continue;
    }
    if (absl::Status status = ParseOne(arguments, i, groups); !status.ok()) return status;
  }
  return others;
}

std::string FlagHelp(const std::vector<FlagGroup>& groups) {
  std::string help;
  for (const FlagGroup& group : groups) {
    absl::StrAppend(&help, "\n", group.title, "\n");
    for (const std::string& name : group.flags) {
      const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
      std::string head = absl::StrCat("  --", name);
      if (!flag->DefaultValue().empty()) absl::StrAppend(&head, "=", flag->DefaultValue());
      if (head.size() < 34) head.resize(34, ' ');
      absl::StrAppend(&help, head, " ", flag->Help(), "\n");
    }
  }
  return help;
}

}  // namespace nsa
