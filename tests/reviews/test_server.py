"""The page's server: for this machine, this page and this run alone; sound, picture and answers by number."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, InputError
from ser_batch.plugins import PluginRecipe
from ser_batch.reviews.answers import AnswerJournal, read_answers
from ser_batch.reviews.choice import tasks_for_audit, tasks_for_files, tasks_for_label
from ser_batch.reviews.excerpts import CONTEXT_S, Excerpts
from ser_batch.reviews.sample import Unit
from ser_batch.reviews.server import application, listening
from ser_batch.reviews.session import Session, Visit
from ser_batch.run.read import Run, open_run

uvicorn = pytest.importorskip("uvicorn", reason="the review needs starlette and uvicorn")

TOKEN = "a-token"
RATE_HZ = 16_000
#: One that HTML would take for more, and one whose name is not UTF-8.
NAMES = ("<img src=x onerror=alert(1)>.wav", "a/b.wav", "latin\\xe9.wav", "long/tape.wav")


def tone(path: Path, seconds: float, hz: float = 220.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    times_s = np.arange(int(RATE_HZ * seconds)) / RATE_HZ
    samples = sum(np.sin(2 * np.pi * hz * k * times_s) / k for k in range(1, 8))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((8_000 * samples).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over four recordings, the last of 8 windows, so that windows are asked about."""
    folder = tmp_path_factory.mktemp("server")
    for name in NAMES:
        tone(folder / "audio" / name.replace("\\xe9", "\udce9"), 24.0 if "tape" in name else 3.0)
    info = {"root": str(folder / "audio")}
    plan = RunPlan(clip_ids=NAMES, failed_share=0.0, long_every=4, long_windows=8, info=info)
    # The generator makes the first of four long: the names are sorted so that it is not the tape.
    make_run(folder / "run", 0, plan)
    return folder


class Client:
    """Asks as the page does, unless told otherwise."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, body: Any = None, token: str = TOKEN, **headers: str | None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Host": f"127.0.0.1:{self.port}", "Origin": None if body is None else f"http://127.0.0.1:{self.port}"}
        sent |= {name.capitalize(): value for name, value in headers.items()}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name: value for name, value in sent.items() if value is not None}
        connection.request("GET" if body is None else "POST", f"/{token}/{path}", data, named)
        answer = connection.getresponse()
        content = answer.read()
        self.headers = answer.headers
        connection.close()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(content) if is_json else content


@contextmanager
def served(run: Run, visit: Visit, reviewer: str = "anna") -> Iterator[Client]:
    root = Path(str(run.info["root"]))
    excerpts = Excerpts(root, PluginRecipe(entry_points=()).build(), 22_050)
    with AnswerJournal.open(run.folder, reviewer, str(run.info["run_id"])) as journal, listening(0) as listener:
        port = listener.getsockname()[1]
        app = application(Session(visit, journal), excerpts, TOKEN, port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Client(port)
        finally:
            server.should_exit = True
            thread.join()


def visit_of(run: Run) -> Visit:
    sample, tasks = tasks_for_audit(run)
    return Visit(run.folder.name, "audit", tasks, sample.n_wanted, run.labels)


@pytest.fixture
def client(archive: Path, tmp_path: Path) -> Iterator[Client]:
    run = open_run(archive / "run")
    for path in (archive / "run" / "reviews").glob("*.jsonl"):
        path.unlink()
    with served(run, visit_of(run)) as asked:
        yield asked


def test_an_answer_is_on_disk_before_the_next_question(client: Client, archive: Path) -> None:
    _, state = client.ask("state")
    assert (state["n_done"], state["n_standing"], state["reviewer"]) == (0, 0, "anna")
    assert [item["name"] for item in state["labels"]] == [*LABELS, "neutral"]
    first = state["task"]
    # Nothing of what the model thinks is in what comes before the answer.
    assert set(first) == {"number", "clip", "start_s", "end_s"}
    status, state = client.ask("answer", {"number": first["number"], "answer": "fear", "time_s": 2.5, "note": " hm "})
    assert status == 200
    (answer,) = read_answers(archive / "run").answers
    assert (answer.answer, answer.note, answer.time_s, answer.purpose) == ("fear", "hm", 2.5, "audit")
    assert answer.inclusion_probability is not None
    assert state["task"]["number"] != first["number"]
    assert state["last"]["model_label"] == answer.model_label
    _, state = client.ask("undo", {})
    assert state["task"] == first
    assert read_answers(archive / "run").answers == []


def test_a_clip_that_was_put_off_comes_last(client: Client) -> None:
    _, state = client.ask("state")
    first, n_tasks = state["task"]["number"], state["n_tasks"]
    _, state = client.ask("skip", {"number": first})
    seen = []
    while state["task"]:
        seen.append(state["task"]["number"])
        _, state = client.ask("answer", {"number": seen[-1], "answer": "no voice", "time_s": 1, "note": ""})
    assert len(seen) == n_tasks
    assert seen[-1] == first


def test_a_label_of_ones_own_is_offered_from_then_on(client: Client) -> None:
    _, state = client.ask("answer", {"number": 0, "answer": "laughter", "time_s": 1, "note": ""})
    assert [(item["name"], item["key"]) for item in state["labels"]][-1] == ("laughter", "8")
    keys = [item["key"] for item in [*state["labels"], *state["others"]]]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set("nsu .")


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({}, 400),
        ({"number": "0", "answer": "fear", "time_s": 1, "note": ""}, 400),
        ({"number": True, "answer": "fear", "time_s": 1, "note": ""}, 400),
        ({"number": 10**6, "answer": "fear", "time_s": 1, "note": ""}, 422),
        ({"number": 0, "answer": "fear", "time_s": float("nan"), "note": ""}, 400),
        ({"number": 0, "answer": "fear", "time_s": 10**400, "note": ""}, 400),
        ({"number": 0, "answer": "fear", "time_s": 1, "note": "\ud800"}, 400),
        ({"number": 0, "answer": " ", "time_s": 1, "note": ""}, 422),
        ({"number": 0, "answer": "a\nb", "time_s": 1, "note": ""}, 422),
        (b"not json", 400),
        (b"[]", 400),
        (b'{"note": "' + 30_000 * b"x" + b'"}', 413),
    ],
)
def test_an_answer_that_is_none_changes_nothing(client: Client, archive: Path, told: Any, status: int) -> None:
    assert client.ask("answer", told)[0] == status
    assert read_answers(archive / "run").answers == []


def test_only_the_page_itself_on_this_machine_with_its_token_is_answered(client: Client, archive: Path) -> None:
    here = f"127.0.0.1:{client.port}"
    good = {"number": 0, "answer": "fear", "time_s": 1, "note": ""}
    assert client.ask("state", host="evil.example")[0] == 421
    assert client.ask("state", host=f"evil.example:{client.port}")[0] == 421
    assert client.ask("state", token="another")[0] == 404
    assert client.ask("", token="%2e%2e")[0] == 404
    assert client.ask("state", origin="http://evil.example")[0] == 403
    for origin in ("http://evil.example", "null", f"https://{here}", None):
        assert client.ask("answer", good, origin=origin)[0] == 403
        assert client.ask("undo", {}, origin=origin)[0] == 403
    assert client.ask("answer", good, host="evil.example", origin="http://evil.example")[0] == 421
    assert read_answers(archive / "run").answers == []
    assert (
        client.ask("answer", good, host=f"localhost:{client.port}", origin=f"http://localhost:{client.port}")[0] == 200
    )


def test_no_request_reaches_a_file_outside_the_run(client: Client, archive: Path) -> None:
    (archive / "secret.wav").write_bytes(b"secret")
    for path in ("sound/../../secret.wav", "sound/..%2f..%2fsecret.wav", "sound/secret.wav", "../run.json", "run.json",
                 "sound/-1", "sound/99999", "picture/99999", "index.html", "%2e%2e/answers.py"):  # fmt: skip
        status, told = client.ask(path)
        assert status in (404, 405), path
        assert b"secret" not in (told if isinstance(told, bytes) else json.dumps(told).encode())


def test_a_run_made_to_lead_elsewhere_does_not(archive: Path, tmp_path: Path) -> None:
    tone(tmp_path / "outside.wav", 3.0)
    (tmp_path / "audio").mkdir()
    names = ("../outside.wav", str(tmp_path / "outside.wav"))
    plan = RunPlan(clip_ids=names, failed_share=0.0, long_every=10**9, info={"root": str(tmp_path / "audio")})
    run = open_run(make_run(tmp_path / "run", 0, plan))
    with served(run, visit_of(run)) as asked:
        for number in (0, 1):
            status, told = asked.ask(f"sound/{number}")
            assert status == 422
            assert "is no clip of this run: it lies outside" in told["problem"]


def test_pages_come_with_a_policy_that_lets_nothing_in(client: Client) -> None:
    assert b"<title>Review</title>" in client.ask("")[1]
    headers = client.headers
    assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    for name in ("review.js", "review.css"):
        text = client.ask(name)[1].decode()
        assert "http://" not in text
        assert "https://" not in text


def test_a_window_is_heard_and_drawn_with_its_context_marked(archive: Path) -> None:
    run = open_run(archive / "run")
    tasks, _ = tasks_for_files(run, ["long/tape.wav"])
    excerpts = Excerpts(archive / "audio", PluginRecipe(entry_points=()).build(), 22_050)
    (unit,) = [task.unit for task in tasks if task.unit.start_s == 0][:1]
    assert unit.end_s >= 2.9
    picture = excerpts.picture(unit)
    assert (picture["start_s"], picture["duration_s"]) == pytest.approx((0.0, unit.end_s + CONTEXT_S), abs=0.01)
    levels = np.frombuffer(base64.b64decode(picture["levels"]), np.uint8).reshape(picture["bands"], picture["frames"])
    assert levels.max() == 255
    f0 = np.array([np.nan if place is None else place for place in picture["f0"]])
    assert 75 * 8 ** np.nanmedian(f0) == pytest.approx(220, rel=0.01)
    with wave.open(io.BytesIO(excerpts.wav(unit))) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(float)
        rate_hz = sound.getframerate()
    inside, context = samples[rate_hz : 2 * rate_hz], samples[int((unit.end_s + 0.5) * rate_hz) :]
    assert np.std(context) / np.std(inside) == pytest.approx(0.35, abs=0.02)


def test_a_long_file_is_heard_for_a_minute_and_says_so(tmp_path: Path) -> None:
    tone(tmp_path / "hour.wav", 70.0)
    excerpts = Excerpts(tmp_path, PluginRecipe(entry_points=()).build(), 22_050)
    picture = excerpts.picture(Unit("hour.wav", 0.0, 70.0, "fear", 0.5))
    assert (picture["duration_s"], picture["is_cut"]) == (60.0, True)
    assert not excerpts.picture(Unit("hour.wav", 30.0, 33.0, "fear", 0.5))["is_cut"]


def test_names_that_are_not_text_are_found(archive: Path) -> None:
    excerpts = Excerpts(archive / "audio", PluginRecipe(entry_points=()).build(), 22_050)
    assert excerpts.path_of("latin\\xe9.wav").endswith("latin\udce9.wav")
    assert excerpts.path_of(NAMES[0]).endswith(NAMES[0])


def test_audio_that_has_moved_is_said_where_it_is_wanted(client: Client, archive: Path) -> None:
    (archive / "audio").rename(archive / "moved")
    try:
        status, told = client.ask("sound/0")
    finally:
        (archive / "moved").rename(archive / "audio")
    assert status == 422
    assert "If the recordings have moved, end this review and start it again with --audio FOLDER" in told["problem"]


def test_one_file_that_is_gone_stops_no_review(tmp_path: Path) -> None:
    tone(tmp_path / "here.wav", 1.0)
    excerpts = Excerpts(tmp_path, PluginRecipe(entry_points=()).build(), 22_050)
    gone, here = (Unit(f"{name}.wav", 0.0, 1.0, "fear", 0.5) for name in ("gone", "here"))
    excerpts.refuse_if_moved([gone, here])
    with pytest.raises(InputError, match=r"gone\.wav is not in .* any more. If the recordings have moved"):
        excerpts.refuse_if_moved([gone])


def test_answers_to_an_audit_stay_such_when_they_are_asked_again_by_name(archive: Path) -> None:
    run = open_run(archive / "run")
    for path in (archive / "run" / "reviews").glob("*.jsonl"):
        path.unlink()
    with served(run, visit_of(run)) as asked:
        asked.ask("answer", {"number": 0, "answer": "fear", "time_s": 1, "note": ""})
    (before,) = read_answers(run.folder).answers
    tasks, _ = tasks_for_files(run, [before.clip_id])
    number = [task.unit.start_s for task in tasks].index(before.start_s)
    with served(run, Visit("run", "files", tasks, len(tasks), run.labels)) as asked:
        _, state = asked.ask("state")
        assert state["n_done"] == 0
        _, state = asked.ask("answer", {"number": number, "answer": "anger", "time_s": 1, "note": ""})
        assert state["n_done"] == 1
    (after,) = read_answers(run.folder).answers
    assert (after.answer, after.purpose) == ("anger", "audit")
    assert after.inclusion_probability == before.inclusion_probability
    # Whoever answered is not asked again for other purposes.
    label = after.model_label
    with served(run, Visit("run", "only", tasks_for_label(run, label), 9, run.labels)) as asked:
        _, state = asked.ask("state")
        assert state["n_done"] == 1


# What the command refuses: one line each, with the cure.


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--only", "feer"], ExitCode.DATA, "has no label 'feer'"),
        (["--like", "a/b.wav"], ExitCode.RUN, "has no embeddings"),
        (["--like", "a/b.wav", "--only", "fear"], ExitCode.USAGE, "give one of them"),
        (["--for", "adapt", "--half-width", "3"], ExitCode.USAGE, "--half-width is the precision of an audit"),
        (["--reviewer", "../anna"], ExitCode.DATA, "cannot be the name of a reviewer"),
    ],
)
def test_options_that_cannot_be(
    archive: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: ExitCode, line: str
) -> None:
    assert main(["review", str(archive / "run"), "--no-browser", *options]) == code
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told


def test_a_port_in_use_and_audio_that_is_gone(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(archive / "run")
    with listening(0) as taken:
        port = taken.getsockname()[1]
        assert main(["review", run, "--no-browser", "--port", str(port)]) == ExitCode.INPUT
    assert f"Port {port} is in use. Give another by --port, or 0 for any that is free." in capsys.readouterr().err
    assert main(["review", run, "--no-browser", "--audio", str(tmp_path)]) == ExitCode.INPUT
    assert "is not in" in capsys.readouterr().err
    gone = make_run(tmp_path / "run", 20)
    assert main(["review", str(gone), "--no-browser"]) == ExitCode.INPUT
    assert "The recordings are no longer at /nowhere/archive: say by --audio FOLDER" in capsys.readouterr().err
