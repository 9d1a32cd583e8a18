#ifndef NSA_SERVER_VERSION_H_
#define NSA_SERVER_VERSION_H_

namespace nsa::server {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace nsa::server

#endif  // NSA_SERVER_VERSION_H_
