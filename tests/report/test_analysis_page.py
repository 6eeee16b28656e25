"""Every block of docs/analysis.md runs: on a synthetic run always, on a scan of the real corpora where they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repository import REPOSITORY
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch.cli.main import main
from ser_batch.resources import shipped_models

PAGE = (REPOSITORY / "docs/analysis.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

#: Speakers of each corpus in the short scan, and files of each emotion of theirs.
N_SPEAKERS, N_FILES = 7, 1


def few_of(about: pd.DataFrame) -> pd.DataFrame:
    """Choose a few files of each emotion of a few speakers of each corpus."""
    about = about[about.meant.isin(LABELS)].sort_values(["corpus", "speaker", "meant", "path"])
    speakers = about.drop_duplicates("speaker").groupby("corpus").speaker.head(N_SPEAKERS)
    return about[about.speaker.isin(speakers)].groupby(["speaker", "meant"]).head(N_FILES)


def run_page(run: Path, corpora: Path) -> list[str]:
    """Run the blocks one after the other, as a notebook does; return what each printed."""
    told: list[str] = []
    names = {"RUN": str(run), "CORPORA": str(corpora), "print": lambda value: told.append(str(value))}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/analysis.md, block {number + 1}", "exec"), names)
    return told


def test_five_questions_are_asked_and_answered() -> None:
    questions = re.findall(r"^## (\d)\. (.+\?)$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in questions] == [1, 2, 3, 4, 5]
    for section in re.split(r"^## \d\. ", PAGE, flags=re.MULTILINE)[1:]:
        assert re.search(r"^```text\n.+?^```$", section, re.MULTILINE | re.DOTALL), section.splitlines()[0]


def test_every_block_runs_on_a_run_with_such_metadata(tmp_path: Path) -> None:
    clip_ids = [f"{corpus}/{i:04}.flac" for corpus in ("bursts", "sentences") for i in range(240)]
    run = make_run(tmp_path / "run", 0, RunPlan(clip_ids=clip_ids, long_every=4, long_windows=3))
    rng = np.random.default_rng(0)
    speaker = rng.integers(0, 8, len(clip_ids))
    about = pd.DataFrame(
        {
            "path": clip_ids,
            "corpus": [clip_id.split("/")[0] for clip_id in clip_ids],
            "meant": rng.choice([*LABELS, "calm"], len(clip_ids)),
            "speaker": [f"speaker-{i}" for i in speaker],
            "sex": np.where(speaker % 2, "female", "male"),
        }
    )
    about.to_csv(run / "metadata.csv", index=False)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"metadata": {"path": "metadata.csv"}}))
    told = run_page(run, tmp_path)
    assert len(told) == 6
    assert "bursts" in told[1]
    assert re.search(r"[+-]\d\.\d\d \([+-]\d\.\d\d to [+-]\d\.\d\d\)", told[1])


@pytest.mark.corpora
@pytest.mark.skipif(not shipped_models(), reason="no model is shipped")
def test_every_block_runs_on_a_scan_of_the_corpora(
    corpora_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"RUN": "run", "CORPORA": str(corpora_dir)}
    exec(BLOCKS[0], names)
    about = pd.read_csv("about.csv")
    few = few_of(about)
    Path("files.txt").write_text("".join(f"{corpora_dir / path}\n" for path in few.path))
    command = ["scan", "--files-from", "files.txt", "-o", "run", "--metadata", "about.csv", "--no-report", "--quiet"]
    assert main([*command, "--jobs", "1"]) == 0
    told = run_page(Path("run"), corpora_dir)
    assert len(told) == 6
    assert all(corpus in told[0] for corpus in ("emogator", "nemo", "ravdess"))
