# Target nsa_sentencepiece: SentencePiece's encoder behind the C functions of
# engine/tokenizer/sentencepiece/c_api.h, in one object file where every other symbol is local. Its
# protobuf 3.14 and Abseil stand-ins so cannot meet the protobuf and Abseil of the server, however
# those are linked.
set(spm ${NSA_SENTENCEPIECE_DIR})
if(NOT EXISTS ${spm}/src/sentencepiece_processor.cc)
  message(FATAL_ERROR "No SentencePiece source in ${spm}: run deploy/fetch_sentencepiece.sh, or set "
                      "NSA_SENTENCEPIECE_DIR to such a tree")
endif()


set(spm_lite
  arena arenastring bytestream coded_stream common extension_set generated_enum_util
  generated_message_table_driven_lite generated_message_util implicit_weak_message int128
  message_lite parse_context repeated_field status statusor stringpiece stringprintf
  structurally_valid strutil time wire_format_lite zero_copy_stream zero_copy_stream_impl
  zero_copy_stream_impl_lite)
list(TRANSFORM spm_lite REPLACE "(.+)" "${spm}/third_party/protobuf-lite/\\1.cc")
set(spm_sources
  bpe_model builtin_pb/sentencepiece.pb builtin_pb/sentencepiece_model.pb char_model error
  filesystem model_factory model_interface normalizer sentencepiece_processor unigram_model util
  word_model)
list(TRANSFORM spm_sources REPLACE "(.+)" "${spm}/src/\\1.cc")

# SentencePiece's sources want a generated config.h; ours has what they read of it.
set(spm_generated ${CMAKE_CURRENT_BINARY_DIR}/sentencepiece)
file(CONFIGURE OUTPUT ${spm_generated}/config.h
     CONTENT "#define VERSION \"0.2.1\"\n#define PACKAGE \"sentencepiece\"\n\
#define PACKAGE_STRING \"sentencepiece\"\n#define INSTALL_DATADIR \"\"\n")

add_library(nsa_sentencepiece_objects OBJECT
  ${CMAKE_CURRENT_LIST_DIR}/tokenizer/sentencepiece/c_api.cc ${spm_sources} ${spm_lite}
  ${spm}/third_party/absl/flags/flag.cc)
target_include_directories(nsa_sentencepiece_objects PRIVATE ${CMAKE_CURRENT_LIST_DIR}/..)
target_include_directories(nsa_sentencepiece_objects SYSTEM BEFORE PRIVATE
  ${spm_generated} ${spm}/src ${spm}/src/builtin_pb ${spm}/third_party/protobuf-lite
  ${spm}/third_party ${spm})
target_compile_definitions(nsa_sentencepiece_objects PRIVATE HAVE_PTHREAD=1
                                                             _USE_INTERNAL_STRING_VIEW)
# Not our sources, not our warnings. No link-time optimisation: objcopy needs machine code. No "unique"
# symbols, which GCC makes of inline functions' statics: objcopy cannot make them local.
target_compile_options(nsa_sentencepiece_objects PRIVATE
  -w -fno-lto -fvisibility=hidden -fvisibility-inlines-hidden
  $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
set_target_properties(nsa_sentencepiece_objects PROPERTIES POSITION_INDEPENDENT_CODE ON
                                                           EXPORT_COMPILE_COMMANDS OFF)

# --force-group-allocation dissolves the groups of inline functions. Otherwise the final link would
# keep another object's copy of, say, std::string's, and drop the one that our now local symbols mean.
set(spm_all ${CMAKE_CURRENT_BINARY_DIR}/nsa_sentencepiece_all.o)
set(spm_object ${CMAKE_CURRENT_BINARY_DIR}/nsa_sentencepiece_local.o)
add_custom_command(
  OUTPUT ${spm_object}
  COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${spm_all}
          "$<TARGET_OBJECTS:nsa_sentencepiece_objects>"
  COMMAND ${CMAKE_OBJCOPY} --wildcard "--keep-global-symbol=nsa_spm_*" ${spm_all} ${spm_object}
  COMMAND sh -c "! '${CMAKE_NM}' --defined-only --extern-only '${spm_object}' | grep -v ' T nsa_spm_'"
  DEPENDS nsa_sentencepiece_objects "$<TARGET_OBJECTS:nsa_sentencepiece_objects>"
  COMMENT "Making all but nsa_spm_* local in SentencePiece"
  COMMAND_EXPAND_LISTS VERBATIM)
set_source_files_properties(${spm_object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
add_library(nsa_sentencepiece STATIC ${spm_object})
set_target_properties(nsa_sentencepiece PROPERTIES LINKER_LANGUAGE CXX)
target_link_libraries(nsa_sentencepiece INTERFACE Threads::Threads)
