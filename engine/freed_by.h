#ifndef NSA_ENGINE_FREED_BY_H_
#define NSA_ENGINE_FREED_BY_H_

namespace nsa::engine {

/// For std::unique_ptr of what a C library has made: the function of its that frees it.
template <auto kFree>
struct FreedBy {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_FREED_BY_H_
