// Renders chat templates for tests/parity/chat_templates_test.py.
//
//   nsa_render_chat < lines > lines
// A line is a JSON object: "template", and "inputs", each an object of the template's variables.
// The answer is a line with a JSON array: for each input {"text"} or {"error"}.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/tokenizer/chat_template.h"

namespace {

using Json = nlohmann::ordered_json;

Json Answer(const absl::StatusOr<std::string>& text) {
  if (text.ok()) return {{"text", *text}};
  return {{"error", std::string(text.status().message())}};
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    const Json task = Json::parse(line);
    const auto parsed =
        nsa::engine::ChatTemplate::Parse(task.at("template").get<std::string>(), "", "");
    Json answers = Json::array();
    for (const Json& input : task.at("inputs")) {
      answers.push_back(parsed.ok() ? Answer((*parsed)->RenderJson(input.dump()))
                                    : Answer(parsed.status()));
    }
    std::cout << answers.dump() << '\n';
  }
}
