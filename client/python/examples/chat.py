"""A conversation in the terminal: each line is a turn; an empty one or the input's end ends it."""

import argparse
import sys

from nsa_serve_client import Client, Delta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--max_tokens", type=int, default=256)
    arguments = parser.parse_args()
    messages = []
    with Client(arguments.server) as client:
        for line in sys.stdin:
            if not line.strip():
                break
            messages.append({"role": "user", "content": line.strip()})
            answer = ""
            for event in client.stream_chat(messages, max_tokens=arguments.max_tokens):
                if isinstance(event, Delta):
                    answer += event.text
                    print(event.text, end="", flush=True)
            print()
            messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main()
