"""Our tokenizers against PyPI tokenizers, sentencepiece and llama-cpp-python."""

import sys

import pytest

from tests.support import model_files


@pytest.mark.oracle
@pytest.mark.slow
def test_tokenizers_match_the_references(monkeypatch):
    from tests.oracles import tokenizer_oracle

    arguments = ["tokenizer_oracle.py", f"--binary={model_files.tool('nsa_tokenize')}",
                 f"--model={model_files.model_path()}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as result:
        tokenizer_oracle.main()
    assert not result.value.code
