"""docs/dataset/data-format.md says what the code does."""

import re
from pathlib import Path

import pytest

from tg80.shards.metadata import CHECKSUM_ATTRIBUTE, ShardMetadata

DOC = Path(__file__).parents[3] / "docs" / "dataset" / "data-format.md"


def test_every_metadata_field_is_explained():
    section = DOC.read_text().split("## Metadata")[1].split("## Reading")[0]
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|[^|]*\|", section, re.M))))
    assert explained == {*ShardMetadata.model_fields, CHECKSUM_ATTRIBUTE}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_python_examples_run(ethanol_shard, capsys, monkeypatch):
    monkeypatch.chdir(ethanol_shard.parent)
    examples = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, str(DOC), "exec"), {})
    assert "CCO" in capsys.readouterr().out
