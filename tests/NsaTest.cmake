# nsa_add_tests(LIBRARIES a b [LABELS l] [PREFIX p] [EXCEPT test...])
# One executable and one ctest entry for each *_test.cc of the calling folder, so that each builds,
# runs and fails by itself. A prefix keeps names of two folders apart. EXCEPT names those to leave out.
function(nsa_add_tests)
  cmake_parse_arguments(ARG "" "PREFIX" "LIBRARIES;LABELS;EXCEPT" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  foreach(source ${sources})
    get_filename_component(name ${source} NAME_WE)
    if(name IN_LIST ARG_EXCEPT)
      continue()
    endif()
    string(PREPEND name "${ARG_PREFIX}")
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE nsa_options ${ARG_LIBRARIES} GTest::gtest GTest::gmock
                                          GTest::gtest_main Threads::Threads)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600
                         ENVIRONMENT "NSA_SOURCE_DIR=${CMAKE_SOURCE_DIR}")
  endforeach()
endfunction()
