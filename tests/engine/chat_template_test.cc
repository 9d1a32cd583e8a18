#include "engine/tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace nsa::engine {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

const Json& Golden() {
  static const Json* const golden = [] {
    const char* source = std::getenv("NSA_SOURCE_DIR");
    std::ifstream file(std::string(source == nullptr ? "." : source) +
                       "/tests/golden/chat_template/cases.json");
    return new Json(Json::parse(file));
  }();
  return *golden;
}

std::vector<ChatMessage> Messages(const Json& conversation) {
  std::vector<ChatMessage> messages;
  for (const Json& message : conversation) {
    messages.push_back({message.at("role"), message.at("content")});
  }
  return messages;
}

absl::StatusOr<std::string> Render(std::string_view source,
                                   const std::vector<ChatMessage>& messages = {},
                                   bool add_generation_prompt = false) {
  auto parsed = ChatTemplate::Parse(source, "<s>", "</s>");
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(messages, add_generation_prompt);
}

// The error's message; empty if there is none.
std::string ErrorOf(std::string_view source, const std::vector<ChatMessage>& messages = {}) {
  auto text = Render(source, messages);
  if (text.ok()) return "";
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(text.status().message());
}

std::string Repeat(std::string_view part, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += part;
  return out;
}

TEST(ChatTemplateTest, GoldenCasesAreEqualByteForByte) {
  ASSERT_GT(Golden().at("cases").size(), 600u);
  for (const Json& test_case : Golden().at("cases")) {
    const std::string source = test_case.contains("source")
                                   ? test_case.at("source")
                                   : Golden().at("templates").at(test_case.at("template"));
    SCOPED_TRACE(test_case.dump());
    auto text =
        Render(source, Messages(Golden().at("conversations").at(test_case.at("conversation"))),
               test_case.at("add_generation_prompt"));
    if (!test_case.at("expected").is_null()) {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, test_case.at("expected").get<std::string>());
      continue;
    }
    ASSERT_FALSE(text.ok()) << *text;
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(text.status().message()), HasSubstr("line "));
    if (test_case.contains("message")) {
      EXPECT_THAT(std::string(text.status().message()),
                  HasSubstr(test_case.at("message").get<std::string>()));
    }
  }
}

TEST(ChatTemplateTest, ErrorsNameTheLineAndWhatIsWrong) {
  EXPECT_THAT(ErrorOf("a\nb\n{{ 1 | frobnicate }}"), HasSubstr("line 3: the filter 'frobnicate'"));
  EXPECT_THAT(ErrorOf("\n{{ 1 is frobnicated }}"), HasSubstr("line 2: the test 'frobnicated'"));
  EXPECT_THAT(ErrorOf("{% include 'x' %}"), HasSubstr("line 1: the tag 'include'"));
  EXPECT_THAT(ErrorOf("\n\n{{ 2 ** 63 }}"), HasSubstr("line 3: an integer is over 64 bits"));
  EXPECT_THAT(ErrorOf("{% if 1 %}\n\n{{ nobody.name }}\n{% endif %}"),
              HasSubstr("line 3: 'nobody' is undefined"));
  EXPECT_THAT(ErrorOf("\n{{ [1, 2] | tojson(indent=1.5) }}"), HasSubstr("line 2: filter 'tojson'"));
  EXPECT_THAT(ErrorOf("{% if 1 %}\n{% for x in [] %}\n"), HasSubstr("endfor"));
  EXPECT_THAT(ErrorOf("a\n{# never\nends"), HasSubstr("line 2: the comment has no end"));
  EXPECT_THAT(ErrorOf("{{ '\\N{DASH}' }}"), HasSubstr("by name"));
  EXPECT_THAT(ErrorOf("{{ [] % 1 }}"), HasSubstr("cannot compute 'list' % 'int'"));
  EXPECT_THAT(ErrorOf("{{ 9223372036854775807 + 1 }}"), HasSubstr("over 64 bits"));
  EXPECT_THAT(ErrorOf("{{ (-9223372036854775807 - 1) // -1 }}"), HasSubstr("over 64 bits"));
  EXPECT_THAT(ErrorOf("{{ 9223372036854775808 }}"), HasSubstr("2^63-1"));
  EXPECT_THAT(ErrorOf("{{ 1e20 | int }}{{ '99999999999999999999' | int(7) }}"),
              HasSubstr("over 64 bits"));
  EXPECT_THAT(ErrorOf("{% if 1 %}\n{{ 1 | frobnicate }}{% endif %}"),
              HasSubstr("line 2: the filter 'frobnicate'"));
  EXPECT_THAT(ErrorOf("{% if 1 %}{{ 1 is frobnicated }}{% endif %}"),
              HasSubstr("line 1: the test 'frobnicated'"));
  EXPECT_THAT(ErrorOf("{% set ns = namespace() %}{% set ns._x = 1 %}"),
              HasSubstr("begins with '_'"));
}

TEST(ChatTemplateTest, RaiseExceptionGivesItsOwnMessage) {
  const std::string source =
      "\n{% if messages[0].role != 'user' %}"
      "{{ raise_exception('Begin with \"user\", not ' ~ messages[0].role) }}{% endif %}ok";
  EXPECT_EQ(*Render(source, {{"user", "x"}}), "\nok");
  EXPECT_THAT(ErrorOf(source, {{"tool", "x"}}), HasSubstr("Begin with \"user\", not tool"));
}

// What is printed for a JSON object of variables; the error's message if that is what comes.
std::string RenderJson(std::string_view source, std::string_view variables) {
  auto parsed = ChatTemplate::Parse(source, "<s>", "</s>");
  if (!parsed.ok()) return std::string(parsed.status().message());
  auto text = (*parsed)->RenderJson(variables);
  if (text.ok()) return *text;
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(text.status().message());
}

TEST(ChatTemplateTest, JsonGivesEveryKindOfValueInOrder) {
  EXPECT_EQ(RenderJson("{{ x }}|{{ x | tojson }}",
                       R"({"x": {"b": [1, -2, 0.5, true, null, "é\n"], "a": {}, "\u0000": []}})"),
            "{'b': [1, -2, 0.5, True, None, 'é\\n'], 'a': {}, '\\x00': []}|"
            "{\"b\": [1, -2, 0.5, true, null, \"é\\n\"], \"a\": {}, \"\\u0000\": []}");
  EXPECT_EQ(RenderJson("{{ messages[0].content[0].text }}{{ tools | length }}",
                       R"({"messages": [{"role": "user", "content": [{"text": "t"}]}],
                           "tools": [{}, {}]})"),
            "t2");
}

TEST(ChatTemplateTest, TokensThatACheckpointLacksAreNotDefined) {
  auto parsed = ChatTemplate::Parse(
      "{{ bos_token is defined }}{{ bos_token }}{{ eos_token is defined }}{{ eos_token }}", "",
      "e");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*(*parsed)->Render({}, false), "FalseTruee");
  EXPECT_EQ(*(*parsed)->RenderJson("{}"), "FalseTruee");
}

TEST(ChatTemplateTest, WhatJsonDoesNotGiveIsAsTransformersHasIt) {
  const std::string source =
      "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}{{ documents }}"
      "{{ messages is defined }}{{ x is defined }}";
  EXPECT_EQ(RenderJson(source, "{}"), "<s></s>FalseNoneNoneFalseFalse");
  EXPECT_EQ(RenderJson(source, R"({"bos_token": "b", "eos_token": null, "messages": [],
                                   "add_generation_prompt": true, "tools": [], "x": 0})"),
            "bNoneTrue[]NoneTrueTrue");
}

TEST(ChatTemplateTest, ReasoningIsFoundUnderEachOfItsNames) {
  const std::string source = "{{ messages }}";
  EXPECT_EQ(RenderJson(source, R"({"messages": [{"role": "a", "reasoning": "r"}]})"),
            "[{'thinking': 'r', 'role': 'a', 'reasoning': 'r', 'reasoning_content': 'r'}]");
  EXPECT_EQ(RenderJson(source, R"({"messages": [{"thinking": "t", "reasoning_content": null}]})"),
            "[{'thinking': 't', 'reasoning_content': 't'}]");
  EXPECT_EQ(RenderJson(source, R"({"messages": [{"role": "a", "reasoning": null}, 5]})"),
            "[{'role': 'a', 'reasoning': None}, 5]");
}

TEST(ChatTemplateTest, JsonThatIsNoneOrTooMuchIsRefused) {
  for (const char* variables : {"", "[]", "{", "{\"a\": \"\xFF\"}", R"({"a": "\ud800"})"}) {
    EXPECT_THAT(RenderJson("a", variables), HasSubstr("no JSON object"));
  }
  EXPECT_THAT(RenderJson("a", R"({"x": [9223372036854775808]})"), HasSubstr("x: an integer"));
  EXPECT_THAT(RenderJson("a", R"({"x": )" + Repeat("[", 5000) + Repeat("]", 5000) + "}"),
              HasSubstr("x: values are nested deeper"));
}

TEST(ChatTemplateTest, TextThatIsNotUtf8IsRefused) {
  EXPECT_THAT(ErrorOf("a\xFFz"), HasSubstr("UTF-8"));
  EXPECT_THAT(ErrorOf("{{ 'a\xC3' }}"), HasSubstr("UTF-8"));
  EXPECT_FALSE(ChatTemplate::Parse("a", "\xFF", "").ok());
  EXPECT_FALSE(ChatTemplate::Parse("a", "", "\xED\xA0\x80").ok());
  EXPECT_THAT(ErrorOf("a", {{"user", "ok"}, {"user", "\xC3("}}), HasSubstr("messages[1]"));
  EXPECT_THAT(ErrorOf("a", {{"\x80", "ok"}}), HasSubstr("messages[0]"));
}

TEST(ChatTemplateTest, NulBytesAreText) {
  const std::string nul("a\0{{ '\0' }}b", 12);
  EXPECT_EQ(*Render(nul), std::string("a\0\0b", 4));
  EXPECT_EQ(*Render("{{ messages[0].content }}", {{"user", std::string("x\0y", 3)}}),
            std::string("x\0y", 3));
}

TEST(ChatTemplateTest, ExtensionsOfTransformers) {
  EXPECT_EQ(*Render("a{% generation %}\nb{{ 1 }}{% endgeneration %}\nc"), "ab1c");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  const std::string year = std::to_string(1900 + local.tm_year);
  const std::string next = std::to_string(1901 + local.tm_year);
  EXPECT_THAT(*Render("{{ strftime_now('%Y') }}"), ::testing::AnyOf(year, next));
  EXPECT_EQ(*Render("{{ strftime_now('') }}|{{ strftime_now('%%') }}"), "|%");
  EXPECT_NE(ErrorOf("{{ strftime_now('%c' * 1000) }}"), "");
}

// A list of 2^60 items that shares its parts.
const char* const kNestedLists =
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% endfor %}";

using Hostile = std::vector<std::pair<std::string, std::string>>;

// Each source must fail with an error that has the text beside it.
void ExpectErrors(const Hostile& hostile) {
  for (const auto& [source, reason] : hostile) {
    SCOPED_TRACE(source.substr(0, 200));
    const std::string error = ErrorOf(source);
    EXPECT_NE(error, "");
    EXPECT_THAT(error, HasSubstr(reason));
    EXPECT_LT(error.size(), 1000u);
  }
}

// Each of these would take without bounds hours, all the memory or the whole stack.
TEST(ChatTemplateTest, HostileTemplatesEndWithAnError) {
  const Hostile hostile = {
      {Repeat("{% for i in range(99999) %}", 4) + "0123456789" + Repeat("{% endfor %}", 4),
       "steps"},
      {"{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
       "{% endfor %}",
       ""},
      {"{{ 'x' * 999999999999 }}", "64 MiB"},
      {"{{ ('x' * 100000) | replace('x', 'y' * 10000) }}", "64 MiB"},
      {"{% for i in range(99999) %}{{ 'x' * 1000000 }}{% endfor %}", "64 MiB"},
      {"{{ ('x' * 9000) | replace('', 'x' * 90000) }}", "64 MiB"},
      {"{{ ('x,' * 9000).split(',') | join('x' * 90000) }}", "64 MiB"},
      {std::string(kNestedLists) + "{{ ns.x }}", ""},
      {std::string(kNestedLists) + "{{ ns.x | tojson }}", ""},
      {std::string(kNestedLists) + "{{ ns.x | tojson(indent=16) }}", ""},
      {std::string(kNestedLists) +
           "{% set ns.y = ns.x[:1] + ns.x[1:] %}{{ ns.y == [ns.x[0], [1]] }}"
           "{{ (ns.x + []) == (ns.x + []) and ns.y < ns.x }}"
           "{% for i in range(99999) %}{{ ns.x[0] ~ '' }}{% endfor %}",
       ""},
      {"{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor "
       "%}",
       "nested deeper"},
      {"{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'k': ns.x.items} %}"
       "{% endfor %}",
       ""},
      {"{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "nested deeper"},
      {"{% macro f(n=f()) %}{% endmacro %}{{ f() }}", "nested deeper"},
      {"{{ " + Repeat("(", 50000) + "1" + Repeat(")", 50000) + " }}", "nested deeper"},
      {"{{ " + Repeat("[", 50000) + Repeat("]", 50000) + " }}", "nested deeper"},
      {"{{ " + Repeat("not ", 100000) + "1 }}", "nested deeper"},
      {"{{ " + Repeat("-", 100000) + "1 }}", "nested deeper"},
      {"{{ 1" + Repeat(" + 1", 100000) + " }}", "nested deeper"},
      {"{{ a" + Repeat(".b", 100000) + " }}", "nested deeper"},
      {"{{ a" + Repeat("|trim", 100000) + " }}", "nested deeper"},
      {"{{ a" + Repeat("[0]", 100000) + " }}", "nested deeper"},
      {"{{ a" + Repeat("()", 100000) + " }}", "nested deeper"},
      {"{{ 1" + Repeat(" if 1 else 1", 50000) + " }}", "nested deeper"},
      {"{{ 1" + Repeat(" if 1", 100000) + " }}", "nested deeper"},
      {"{{ 1 is eq " + Repeat("[", 50000) + Repeat("]", 50000) + " }}", "nested deeper"},
      {Repeat("{% if 1 %}", 50000), "nested deeper"},
      {"{% for " + Repeat("(", 50000) + "x" + Repeat(")", 50000) + " in y %}", "nested deeper"},
      {"{% set ns = namespace() %}{% set ns.me = ns %}", "namespace"},
      {"{% set ns = namespace() %}{% set ns.me = [{'a': (ns,)}] %}", "namespace"},
      {"{% set ns = namespace() %}{% for i in [ns] %}{% set ns.l = loop %}{% endfor %}",
       "namespace"},
      {"{{ range(-9223372036854775807, 9223372036854775807) }}", "100000"},
      {std::string(size_t{2} << 20, 'x'), "at most"},
  };
  ExpectErrors(hostile);
}

TEST(ChatTemplateTest, HostileArgumentsEndWithAnError) {
  const Hostile hostile = {
      {"{{ [0] * 99999999999 }}", "items"},
      {"{% set ns = namespace(x=[0]) %}{% for i in range(99) %}{% set ns.x = ns.x * 9 %}{% endfor "
       "%}",
       ""},
      {"{{ 'x'.center(999999999999) }}", "64 MiB"},
      {"{{ 'x'.zfill(9223372036854775807) }}", "64 MiB"},
      {"{{ '{:9999999999}'.format(1) }}", "width"},
      {"{{ '%9999999999d' % 1 }}", "width"},
      {"{% for i in range(99999) %}{{ '{:999999}'.format(i) }}{% endfor %}", ""},
      {"{% for i in range(99999) %}{{ '%999999d' % i }}{% endfor %}", ""},
      {"{{ ('{0}' * 9999).format('x' * 99999) }}", "64 MiB"},
      {"{{ " + Repeat("'{:{", 1) + Repeat("{:", 50000) + "}'.format(1) }}", ""},
      {"{{ [[[[1]]]] | tojson(indent=99999999999) }}", "64 MiB"},
      {"{{ [[[[1]]]] | tojson(indent=60000000) }}", "64 MiB"},
      {"{{ range(9999) | list | tojson(separators=('x' * 99999, '')) }}", ""},
      {"{{ ('\n' * 9999) | indent(99999, blank=true) }}", ""},
      {"{{ 'x' | indent(9223372036854775807) }}", "steps"},
      {"{{ [1] | batch(9223372036854775807, 1) | list }}", "steps"},
      {"{{ [1] | slice(9223372036854775807) | list }}", "steps"},
      {"{{ range(99999) | unique | list }}", "steps"},
      {"{{ ('ab' * 99999).rsplit('b' * 9999, 9) }}", "steps"},
      {std::string(kNestedLists) + "{{ [ns.x, ns.x[:1] + ns.x[1:]] | sort }}", ""},
      {std::string(kNestedLists) + "{{ [ns.x + [], ns.x + []] | sum(start=[]) }}", ""},
      {std::string(kNestedLists) + "{{ '%s' % (ns.x,) }}", ""},
      {std::string(kNestedLists) + "{{ '{}'.format(ns.x) }}", ""},
      {"{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", "nested deeper"},
      {"{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
       "nested deeper"},
      {"{% macro f() %}{{ f(*varargs, **kwargs) }}{% endmacro %}{{ f(1, a=2) }}", "nested deeper"},
      {Repeat("{% filter trim %}", 50000), "nested deeper"},
      {Repeat("{% with %}", 50000), "nested deeper"},
      {Repeat("{% call f() %}", 50000), "nested deeper"},
      {"{{ 2" + Repeat(" ** 1", 100000) + " }}", "nested deeper"},
      {"{{ " + Repeat("f(*", 50000) + "x" + Repeat(")", 50000) + " }}", "nested deeper"},
  };
  ExpectErrors(hostile);
}

TEST(ChatTemplateTest, SearchesTakeLinearTime) {
  const std::string text = Repeat("a", 1 << 20);
  const std::string part = Repeat("a", 1 << 19) + "b";
  EXPECT_EQ(*Render("{{ messages[1].content in messages[0].content }}"
                    "{{ messages[0].content.split(messages[1].content) | length }}"
                    "{{ messages[0].content.count(messages[1].content) }}",
                    {{"user", text}, {"user", part}}),
            "False10");
}

TEST(ChatTemplateTest, LongConversationsFitTheBounds) {
  std::vector<ChatMessage> messages;
  size_t bytes = 0;
  for (int i = 0; i < 4000; ++i) {
    messages.push_back({i % 2 == 0 ? "user" : "assistant", Repeat("word ", 400)});
    bytes += messages.back().content.size();
  }
  for (const auto& [name, source] : Golden().at("templates").items()) {
    if (name != "model" && name != "alternating" && name != "thinking") continue;
    auto text = Render(source.get<std::string>(), messages, true);
    ASSERT_TRUE(text.ok()) << name << ": " << text.status();
    EXPECT_GT(text->size(), bytes - 2 * messages.size());
  }
}

TEST(ChatTemplateTest, LoopsAndMacrosThatOutliveTheirScopeAreHarmless) {
  const std::string late_loop =
      "{% set ns = namespace() %}{% macro f(l) %}{{ l.index }}{{ l.last }}{% endmacro %}"
      "{% for i in [1, 2] if i %}{{ f(loop) }}{% endfor %}";
  EXPECT_EQ(*Render(late_loop), "1False2True");
  const std::string own_loop =
      "{% for i in [1, 2] %}{{ loop.changed(loop) }}{{ loop.changed([loop.cycle]) }}{% endfor %}";
  EXPECT_EQ(*Render(own_loop), "TrueTrueTrueTrue");
  const std::string late_macro =
      "{% set ns = namespace() %}{% for i in [1] %}{% macro f() %}{{ i }}{% endmacro %}"
      "{% set ns.f = f %}{{ ns.f() }}{% endfor %}{{ ns.f() }}";
  EXPECT_THAT(ErrorOf(late_macro), HasSubstr("out of its scope"));
}

TEST(ChatTemplateTest, EveryPrefixOfATemplateIsParsedOrRefused) {
  const std::vector<ChatMessage> messages = {{"system", "s"}, {"user", "u"}};
  for (const auto& [name, source] : Golden().at("templates").items()) {
    const std::string text = source.get<std::string>();
    for (size_t size = 0; size < text.size(); ++size) {
      (void)Render(text.substr(0, size), messages, true);
      (void)Render(text.substr(size), messages, true);
    }
  }
}

TEST(ChatTemplateTest, DamagedTemplatesNeverCrash) {
  std::mt19937 random(20240607);
  auto below = [&](size_t bound) { return static_cast<size_t>(random()) % bound; };
  std::vector<std::string> sources;
  for (const Json& test_case : Golden().at("cases")) {
    if (test_case.contains("source")) sources.push_back(test_case.at("source"));
  }
  for (const auto& [name, source] : Golden().at("templates").items()) sources.push_back(source);
  const std::vector<ChatMessage> messages = {{"system", "s"}, {"user", "é{{"}, {"assistant", ""}};
  int rendered = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = sources[below(sources.size())];
    if (text.empty()) continue;
    for (size_t edits = 1 + below(3); edits > 0; --edits) {
      const std::string& other = sources[below(sources.size())];
      const size_t at = below(text.size() + 1);
      const size_t from = below(other.size() + 1);
      switch (below(3)) {
        case 0:
          text.erase(at, 1 + below(4));
          break;
        case 1:
          text.insert(at, other.substr(from, 1 + below(12)));
          break;
        default:
          text.insert(at, 1, "{}%#-+|.[]()'\"\n 0,:=~"[below(22)]);
      }
    }
    rendered += Render(text, messages, true).ok() ? 1 : 0;
  }
  EXPECT_GT(rendered, 1000);  // else the damage is such that only the lexer is tested
}

TEST(ChatTemplateTest, OneTemplateServesManyThreads) {
  auto parsed = ChatTemplate::Parse(
      "{% for m in messages %}{{ m.role | upper ~ ': ' ~ m.content ~ eos_token }}{% endfor %}", "",
      "</s>");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string content = std::to_string(t);
      for (int i = 0; i < 200; ++i) {
        auto text = (*parsed)->Render({{"user", content}}, false);
        EXPECT_TRUE(text.ok() && *text == "USER: " + content + "</s>");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace nsa::engine
