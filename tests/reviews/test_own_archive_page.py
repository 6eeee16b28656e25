"""docs/own-archive.md, followed: one archive from scan to review, audit and report, and another labelling judged."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from repository import REPOSITORY
from test_review_page import reviewing
from test_server import Client

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode
from ser_batch.reviews.answers import read_answers

PAGE = (REPOSITORY / "docs/own-archive.md").read_text()


def commands() -> list[list[str]]:
    """Return the words of every ``ser-batch`` line of the page's consoles, in order."""
    consoles = "\n".join(re.findall(r"```console\n(.+?)```", PAGE, re.DOTALL))
    return [line.split("#")[0].split() for line in re.findall(r"^\$ ser-batch (.+)$", consoles, re.MULTILINE)]


def test_the_page_is_followed_from_scan_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = tmp_path / "RUN", tmp_path / "RUN2"
    named = {"ARCHIVE": str(REPOSITORY / "data/samples"), "RUN": str(run), "RUN2": str(other)}
    first = [[named.get(word, word) for word in words] for words in commands()[:4]]
    assert [words[0] for words in first] == ["scan", "review", "audit", "report"]
    assert main([*first[0], "--jobs", "1", "--exclude", "long/*", "--no-report"]) == ExitCode.OK
    labels = load_results(run).set_index("clip_id").emotion.dropna()

    with reviewing(run) as review:
        client = Client(int(review.address.split(":")[2].split("/")[0]))
        token = review.address.rstrip("/").rpartition("/")[2]
        _, state = client.ask("state", token=token)
        n_asked = 0
        while state["task"] is not None:
            number = state["task"]["number"]
            assert client.ask(f"sound/{number}", token=token)[1].startswith(b"RIFF")
            # A listener who hears what the model said in two of three clips.
            answer = labels[state["task"]["clip"]] if n_asked % 3 else "neutral"
            told = {"number": number, "answer": answer, "time_s": 4.0, "note": ""}
            _, state = client.ask("answer", told, token=token)
            n_asked += 1
        assert f"+{n_asked} answers" in review.end(signal.SIGTERM)
    assert len(read_answers(run).answers) == len(labels) == n_asked

    capsys.readouterr()
    assert main([*first[2], "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    # Everything was heard, so that there is no doubt.
    right = 1 - len(range(0, n_asked, 3)) / n_asked
    assert (told["accuracy"]["value"], told["accuracy"]["low"]) == pytest.approx((right, right), abs=0.001)
    assert main(first[3]) == ExitCode.OK
    assert "How right are these labels?" in (run / "report.html").read_text()

    # The answers judge another labelling of the same audio, too, and reviews are no strangers in a run.
    assert main(["label", str(run), "--labels", "anger,sadness", "-o", str(other), "--no-report"]) == ExitCode.OK
    capsys.readouterr()
    assert main(["audit", str(other), "--answers", str(run), "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    relabelled = load_results(other).set_index("clip_id").emotion
    given = {answer.clip_id: answer.answer for answer in read_answers(run).answers}
    expected = sum(relabelled[name] == answer for name, answer in given.items()) / len(given)
    assert told["accuracy"]["value"] == pytest.approx(expected)
    assert main(["verify", str(run)]) == ExitCode.OK

    # A model of these answers, the archive labelled by it without audio, and what changed.
    named["models/mine.safetensors"] = str(tmp_path / "models/mine.safetensors")
    rest = [[named.get(word, word) for word in words] for words in commands()[4:]]
    adapt, label, diff = (
        next(words for words in rest if words[0] == name and not {"--labels", "--deep"} & set(words))
        for name in ("adapt", "label", "diff")
    )
    assert main(adapt) == ExitCode.OK
    assert f"{n_asked} answers. Held out together" in capsys.readouterr().out
    assert main([*label, "--no-report"]) == ExitCode.OK
    assert main(diff) in (ExitCode.OK, ExitCode.SOME_FILES_FAILED)
    assert main(["audit", str(other), "--answers", str(run)]) == ExitCode.OK
