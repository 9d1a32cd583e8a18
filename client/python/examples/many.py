"""Many requests at a time. The server batches them; a full one says when to come back, which is heeded."""

import argparse
import asyncio
import sys

from nsa_serve_client import AsyncClient


async def run(server: str, prompts: list[str], max_tokens: int) -> None:
    async with AsyncClient(server) as client:

        async def one(prompt: str) -> str:
            completion = await client.complete(prompt, max_tokens=max_tokens, temperature=0)
            return completion.text

        for prompt, text in zip(
            prompts, await asyncio.gather(*(one(prompt) for prompt in prompts)), strict=True
        ):
            print(f"{prompt!r} → {text!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--max_tokens", type=int, default=32)
    arguments = parser.parse_args()
    prompts = [line.strip() for line in sys.stdin if line.strip()]
    asyncio.run(run(arguments.server, prompts, arguments.max_tokens))


if __name__ == "__main__":
    main()
