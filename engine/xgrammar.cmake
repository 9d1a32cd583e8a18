# Target nsa_xgrammar: xgrammar behind the C functions of engine/grammar/c_api.h, in one object file
# where every other symbol is local. Its allocations are led through functions that count them, so
# that no grammar can take more time or memory than it is given.
set(xgr ${NSA_XGRAMMAR_DIR})
if(NOT EXISTS ${xgr}/cpp/grammar_compiler.cc)
  message(FATAL_ERROR "No xgrammar source in ${xgr}: run deploy/fetch_xgrammar.sh, or set "
                      "NSA_XGRAMMAR_DIR to such a tree, or NSA_BUILD_GRAMMAR to OFF")
endif()

file(GLOB xgr_sources ${xgr}/cpp/*.cc ${xgr}/cpp/converter_ext/*.cc ${xgr}/cpp/support/*.cc)
add_library(nsa_xgrammar_objects OBJECT ${xgr_sources})
add_library(nsa_xgrammar_api OBJECT ${CMAKE_CURRENT_LIST_DIR}/grammar/c_api.cc)
foreach(target nsa_xgrammar_objects nsa_xgrammar_api)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/..)
  target_include_directories(${target} SYSTEM PRIVATE
    ${xgr}/include ${xgr}/3rdparty/picojson ${xgr}/3rdparty/dlpack/include)
  target_compile_definitions(${target} PRIVATE XGRAMMAR_ENABLE_CPPTRACE=0
                                               XGRAMMAR_ENABLE_INTERNAL_CHECK=0)
  nsa_set_foreign_options(${target})
endforeach()

# First xgrammar alone, with its calls of operator new and delete renamed; then with the interface,
# whose own calls are those of the program.
set(xgr_inner ${CMAKE_CURRENT_BINARY_DIR}/nsa_xgrammar_inner.o)
add_custom_command(
  OUTPUT ${xgr_inner}
  COMMAND ${CMAKE_LINKER} -r -o ${xgr_inner} "$<TARGET_OBJECTS:nsa_xgrammar_objects>"
  COMMAND ${CMAKE_OBJCOPY}
          --redefine-sym _Znwm=nsa_grammar_new --redefine-sym _Znam=nsa_grammar_new_array
          --redefine-sym _ZdlPv=nsa_grammar_delete --redefine-sym _ZdaPv=nsa_grammar_delete_array
          --redefine-sym _ZdlPvm=nsa_grammar_sized_delete ${xgr_inner}
  DEPENDS "$<TARGET_OBJECTS:nsa_xgrammar_objects>"
  COMMENT "Leading xgrammar's allocations through functions that count them"
  COMMAND_EXPAND_LISTS VERBATIM)
nsa_add_foreign_library(nsa_xgrammar nsa_grammar_ ${xgr_inner} "$<TARGET_OBJECTS:nsa_xgrammar_api>")
