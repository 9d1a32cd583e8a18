#ifndef NSA_SERVER_COMMAND_LINE_ADDRESS_H_
#define NSA_SERVER_COMMAND_LINE_ADDRESS_H_

#include <string>

namespace nsa {

/// "HOST:PORT" and "[HOST]:PORT" apart, with a port up to 65535; false where it is neither.
bool SplitAddress(const std::string& address, std::string& host, std::string& port);

/// Whether the address, with a port or without, names the loopback interface: what is said to it
/// stays on this machine.
bool IsLoopback(const std::string& address);

}  // namespace nsa

#endif  // NSA_SERVER_COMMAND_LINE_ADDRESS_H_
