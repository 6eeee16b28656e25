"""docs/training.md says what the code does: every setting with its default, every name of an emotion, every corpus."""

from __future__ import annotations

import json
import re
import tomllib

from repository import REPOSITORY

from ser_batch.config import Config
from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.corpora.emotions import EMOTIONS
from ser_batch.training.train_config import TrainConfig

PAGE = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
#: The section [audio] is that of a scan, and on the page of its settings.
SECTIONS = {name: keys for name, keys in TrainConfig().as_dict().items() if name != "audio"}


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    section = re.split(rf"^#+ {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1]
    lines = section.partition("\n|")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


def test_every_key_is_there_with_its_default_and_no_other() -> None:
    shown = dict(re.findall(r"^\| `(\w+\.\w+)` \| `(.+?)` \|", PAGE, re.MULTILINE))
    defaults = {
        f"{section}.{key}": json.dumps(value) for section, part in SECTIONS.items() for key, value in part.items()
    }
    assert shown == defaults


def test_keys_stand_below_their_section_with_a_meaning() -> None:
    for section in SECTIONS:
        for key, _, meaning in rows(section):
            assert key.startswith(f"`{section}.")
            assert len(meaning) > 3


def test_the_example_is_a_valid_configuration() -> None:
    (example,) = re.findall(r"```toml\n(.+?)```", PAGE, re.DOTALL)
    config = TrainConfig().with_values(tomllib.loads(example))
    assert config != TrainConfig()


def test_every_emotion_is_there_with_its_other_names() -> None:
    shown = {row[0].strip("`"): tuple(filter(None, row[1].split(", "))) for row in rows("Folders by emotion")}
    assert shown == EMOTIONS


def test_every_corpus_is_there() -> None:
    listed = [name for row in rows("What goes in") for name in re.findall(r"`([\w-]+)`", row[0])]
    assert sorted(listed) == sorted(corpus.name for corpus in BUILT_IN_CORPORA)
    assert TrainConfig().audio == Config().audio
