#ifndef NSA_SERVER_COMMAND_LINE_COMMAND_LINE_H_
#define NSA_SERVER_COMMAND_LINE_COMMAND_LINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

/// Abseil flags with our manners: exit code 2 and one clear line for what is wrong, and help in the
/// order that we give. Used by nsa_server and nsa_client; knows neither engine nor gRPC.
namespace nsa {

/// A part of the help text: a heading and flag names in order.
struct FlagGroup {
  std::string title;
  std::vector<std::string> flags;
};

/// Sets the flags of `groups` from `arguments` ("--name=value", "--name value", "--switch",
/// "--noswitch"; "--" ends flags) and returns what is no flag. Repeated flags: the last one counts.
/// InvalidArgument names an unknown flag, or a flag and the value that it does not take.
absl::StatusOr<std::vector<std::string>> ParseFlags(const std::vector<std::string>& arguments,
                                                    const std::vector<FlagGroup>& groups);

/// Names, defaults and meanings, group by group.
std::string FlagHelp(const std::vector<FlagGroup>& groups);

}  // namespace nsa

#endif  // NSA_SERVER_COMMAND_LINE_COMMAND_LINE_H_
