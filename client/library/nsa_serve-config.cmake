# find_package(nsa_serve): target nsa_serve::client.
include(CMakeFindDependencyMacro)
find_dependency(absl)
find_dependency(Protobuf)
find_dependency(gRPC CONFIG)
include("${CMAKE_CURRENT_LIST_DIR}/nsa_serve-targets.cmake")
