"""What Hugging Face's tokenizer made of hard texts under every option, kept as data by tests/parity."""

import json
from pathlib import Path

import pytest

from minissl.text.tokenizer import BertTokenizer

FIXTURE = json.loads((Path(__file__).parent / "tokenizer_fixture.json").read_text("ascii"))


@pytest.mark.parametrize("group", FIXTURE["groups"], ids=lambda group: "-".join(map(str, group["setting"].values())))
def test_as_hugging_face(group):
    tokenizer = BertTokenizer(vocab=group["vocab"], model_max_length=40, **group["setting"])
    assert len(group["cases"]) >= 8
    for arguments, options, expected, sequence_ids in group["cases"]:
        encoding = tokenizer(*arguments, **options)
        assert json.loads(json.dumps(encoding)) == expected, ascii(arguments)
        assert [encoding.sequence_ids(row) for row in range(len(sequence_ids))] == sequence_ids
