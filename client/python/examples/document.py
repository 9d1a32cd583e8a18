"""Several questions about one document. The server reads it once: later questions cost their own tokens."""

import argparse
import pathlib

from nsa_serve_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=pathlib.Path)
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--max_tokens", type=int, default=128)
    arguments = parser.parse_args()
    document = arguments.document.read_text(encoding="utf-8", errors="replace")
    with Client(arguments.server) as client:
        for question in arguments.questions:
            answer = client.complete(
                f"{document}\n\nQuestion: {question}\nAnswer:",
                max_tokens=arguments.max_tokens,
                temperature=0,
                stop=["\n\n"],
            )
            usage = answer.usage
            print(f"{question}\n  {answer.text.strip()}")
            print(f"  [{usage.prompt_tokens} tokens, {usage.cached_tokens} of them known already]")


if __name__ == "__main__":
    main()
