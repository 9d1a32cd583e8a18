#include "engine/weights/weight_map.h"

#include <utility>

namespace nsa::engine {

bool WeightMap::Add(WeightTensor tensor) {
  if (!index_.emplace(tensor.name, tensors_.size()).second) return false;
  tensors_.push_back(std::move(tensor));
  return true;
}

const WeightTensor* WeightMap::Find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace nsa::engine
