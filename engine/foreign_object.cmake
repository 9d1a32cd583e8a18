# Sources of others behind C functions of ours, in one object file where every other symbol is local,
# so that what they carry cannot meet what the program links.

# How the objects of `target` are compiled. Not our sources, not our warnings. No link-time
# optimisation: objcopy needs machine code. No "unique" symbols, which GCC makes of inline functions'
# statics: objcopy cannot make them local.
function(nsa_set_foreign_options target)
  target_compile_options(${target} PRIVATE
    -w -fno-lto -fvisibility=hidden -fvisibility-inlines-hidden
    $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON
                                             EXPORT_COMPILE_COMMANDS OFF)
endfunction()

# Library `name` of object files (further arguments), whose global symbols are those with `prefix`
# alone. --force-group-allocation dissolves the groups of inline functions. Otherwise the final link
# would keep another object's copy of, say, std::string's, and drop the one that our now local
# symbols mean.
function(nsa_add_foreign_library name prefix)
  set(all ${CMAKE_CURRENT_BINARY_DIR}/${name}_all.o)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}_local.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${all} ${ARGN}
    COMMAND ${CMAKE_OBJCOPY} --wildcard "--keep-global-symbol=${prefix}*" ${all} ${object}
    COMMAND sh -c "! '${CMAKE_NM}' --defined-only --extern-only '${object}' | grep -v ' T ${prefix}'"
    DEPENDS ${ARGN}
    COMMENT "Making all but ${prefix}* local in ${name}"
    COMMAND_EXPAND_LISTS VERBATIM)
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  add_library(${name} STATIC ${object})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(${name} INTERFACE Threads::Threads)
endfunction()
