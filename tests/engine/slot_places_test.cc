#include "engine/slot_places.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace nsa::engine {
namespace {

TEST(SlotPlaces, PagesStandInAPieceWhileThereAreWholeFrames) {
  SlotPlaces places(9, 3, 4);
  EXPECT_EQ(places.place({0, 5}), -1);
  places.TakePage(5);
  EXPECT_EQ(std::vector<int32_t>(places.of_page(5).begin(), places.of_page(5).end()),
            (std::vector<int32_t>{0, 1, 2, 3}));
  places.Take({2, 7});  // breaks a frame
  places.Take({1, 8});  // of the same
  EXPECT_EQ(places.place({2, 7}) / 4, places.place({1, 8}) / 4);
  places.TakePage(6);
  EXPECT_EQ(places.place({3, 6}), places.place({0, 6}) + 3);
  EXPECT_EQ(places.num_free(), 2);
  places.Give({2, 7});
  places.Give({2, 7});
  EXPECT_EQ(places.num_free(), 3);
  EXPECT_TRUE(places.Consistent());
}

TEST(SlotPlaces, ChangedPagesAreToldOnceInOrder) {
  SlotPlaces places(9, 3, 2);
  EXPECT_TRUE(places.TakeChanged().empty());
  places.TakePage(7);
  places.Take({1, 2});
  places.Give({0, 7});
  EXPECT_EQ(places.TakeChanged(), (std::vector<int32_t>{2, 7}));
  EXPECT_TRUE(places.TakeChanged().empty());
  places.Take({1, 2});  // has one
  places.Give({0, 7});  // has none
  EXPECT_TRUE(places.TakeChanged().empty());
}

TEST(SlotPlacesDeathTest, TooManySlotsEndTheProcess) {
  SlotPlaces places(3, 1, 2);
  places.TakePage(0);
  EXPECT_DEATH(places.Take({0, 1}), "no place");
}

TEST(SlotPlaces, RandomUseGivesEachPlaceToOneSlot) {
  constexpr int32_t kPages = 20, kFrames = 6;
  constexpr int kLayers = 3;
  std::mt19937 random(1);
  SlotPlaces places(kPages, kFrames, kLayers);
  std::map<std::pair<int32_t, int>, int32_t> held;
  for (int step = 0; step < 50'000; ++step) {
    const Slot slot = {static_cast<int>(random() % kLayers),
                       static_cast<int32_t>(random() % kPages)};
    const uint32_t action = random() % 4;
    if (action == 0 && places.num_free() >= kLayers) {
      places.TakePage(slot.page);
      for (int layer = 0; layer < kLayers; ++layer) {
        held[{slot.page, layer}] = places.place({layer, slot.page});
      }
    } else if (action == 1 && places.num_free() > 0) {
      places.Take(slot);
      held[{slot.page, slot.layer}] = places.place(slot);
    } else if (action > 1) {
      places.Give(slot);
      held.erase({slot.page, slot.layer});
    }
    std::set<int32_t> distinct;
    for (const auto& [key, place] : held) {
      ASSERT_EQ(places.place({key.second, key.first}), place) << "a slot has moved";
      distinct.insert(place);
    }
    ASSERT_EQ(distinct.size(), held.size());
    ASSERT_EQ(places.num_free(), kFrames * kLayers - std::ssize(held));
    if (step % 100 == 0) {
      ASSERT_TRUE(places.Consistent());
    }
  }
}

}  // namespace
}  // namespace nsa::engine
