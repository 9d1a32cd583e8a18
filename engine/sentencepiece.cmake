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
nsa_set_foreign_options(nsa_sentencepiece_objects)
nsa_add_foreign_library(nsa_sentencepiece nsa_spm_ "$<TARGET_OBJECTS:nsa_sentencepiece_objects>")
