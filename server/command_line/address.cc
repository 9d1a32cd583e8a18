#include "server/command_line/address.h"

#include <cstddef>

namespace nsa {

bool SplitAddress(const std::string& address, std::string& host, std::string& port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon + 1 == address.size()) return false;
  host = address.substr(0, colon);
  port = address.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return port.find_first_not_of("0123456789") == std::string::npos && port.size() <= 5 &&
         std::stoi(port) <= 65535;
}

bool IsLoopback(const std::string& address) {
  std::string host, port;
  if (!SplitAddress(address, host, port)) host = address;
  // A name may begin with digits too: "127.example.org" is another machine's.
  const bool is_number = host.find_first_not_of("0123456789.") == std::string::npos;
  return host == "localhost" || host == "::1" || (is_number && host.starts_with("127."));
}

}  // namespace nsa
