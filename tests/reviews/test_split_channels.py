"""Where channels were analysed by themselves, a listener hears the one that is asked about, and judges it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from synthetic_run import RunPlan, make_run
from test_server import served

from ser_batch.heads.adapt import examples_of
from ser_batch.heads.answered import Answered, Found
from ser_batch.heads.recordings import audio_of
from ser_batch.plugins import PluginRecipe
from ser_batch.reviews.answers import read_answers
from ser_batch.reviews.choice import tasks_for_audit, tasks_for_files
from ser_batch.reviews.excerpts import Excerpts
from ser_batch.reviews.judged import predictions_for
from ser_batch.reviews.session import Visit
from ser_batch.run.read import Run, open_run

RATE_HZ = 16_000
N_WINDOWS = 8


def harmonics(hz: float) -> np.ndarray:
    times_s = np.arange(12 * RATE_HZ) / RATE_HZ
    return 0.1 * sum(np.sin(2 * np.pi * hz * k * times_s) / k for k in range(1, 8))


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over a call: channel 1 sounds at 220 Hz, channel 2 at 330, each in four windows at the same times."""
    folder = tmp_path_factory.mktemp("call")
    (folder / "audio").mkdir()
    both = np.column_stack([harmonics(220), harmonics(330)])
    soundfile.write(folder / "audio/call.wav", both, RATE_HZ)
    info = {"root": str(folder / "audio"), "config": {"extract": {"channels": "split"}}}
    plan = RunPlan(clip_ids=("call.wav",), failed_share=0.0, long_every=1, long_windows=N_WINDOWS, info=info)
    run = make_run(folder / "run", 0, plan)
    path = run / "windows/part-00000.parquet"
    rows = pq.read_table(path)
    starts_s = 3.0 * (np.arange(N_WINDOWS) % (N_WINDOWS // 2))
    channel = np.repeat([1, 2], N_WINDOWS // 2).astype(np.int16)
    for name, values in (("start_s", starts_s), ("end_s", starts_s + 3.0), ("channel", channel)):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values))
    pq.write_table(rows, path)
    return open_run(run)


def test_each_channel_is_asked_about_and_heard_alone(call: Run) -> None:
    tasks, _ = tasks_for_files(call, ["call.wav"])
    assert [(task.unit.start_s, task.unit.channel) for task in tasks] == [
        (start_s, channel) for start_s in (0.0, 3.0, 6.0, 9.0) for channel in (1, 2)
    ]
    excerpts = Excerpts(Path(str(call.info["root"])), PluginRecipe(entry_points=()).build(), 22_050)
    for task in tasks[2:4]:
        f0 = [place for place in excerpts.picture(task.unit)["f0"] if place is not None]
        assert 75 * 8 ** np.median(f0) == pytest.approx(110 + 110 * task.unit.channel, rel=0.01)
    sample, drawn = tasks_for_audit(call)
    assert {task.unit.channel for task in drawn} == {1, 2}
    assert tasks_for_audit(call) == (sample, drawn), "it is read as it was stored"


def test_answers_of_two_channels_at_one_time_stand_side_by_side(call: Run) -> None:
    tasks, _ = tasks_for_files(call, ["call.wav"])
    with served(call, Visit("run", "files", tasks, len(tasks), call.labels)) as asked:
        for number, heard in enumerate(["fear", "anger"]):
            _, state = asked.ask("answer", {"number": number, "answer": heard, "time_s": 1, "note": ""})
        assert state["task"]["channel"] == 1 and state["task"]["start_s"] == 3.0
        answers = read_answers(call.folder).answers
        assert [(answer.start_s, answer.channel, answer.answer) for answer in answers] == [
            (0.0, 1, "fear"), (0.0, 2, "anger"),
        ]  # fmt: skip
        asked.ask("undo", {})
        (left,) = read_answers(call.folder).answers
        assert (left.channel, left.answer) == (1, "fear")
    found = predictions_for(call, "windows", answers)
    rows = call.read("windows", [f"p_{label}" for label in call.labels], metadata=False).to_pandas().to_numpy()
    for answer, place in zip(answers, (0, N_WINDOWS // 2), strict=True):
        np.testing.assert_allclose(found[answer.stretch], rows[place], rtol=1e-6)


def test_a_model_learns_of_an_answer_what_its_channel_sounds_like() -> None:
    windows = {"call.wav": (np.array([[0.0, 3.0, 1], [0.0, 3.0, 2]]), np.ones(2), np.array([[1.0], [2.0]]))}
    for channel, heard in ((1, [[1.0]]), (2, [[2.0]]), (0, [[1.0], [2.0]])):
        item = Answered("call.wav", 0.0, 3.0, {"fear": 1.0}, channel=channel)
        assert examples_of([item], windows, ("anger", "fear")).inputs.tolist() == heard


def test_what_is_cut_out_for_a_whole_network_is_of_the_channel_that_was_answered(call: Run, tmp_path: Path) -> None:
    marks = [Answered("call.wav", start_s, start_s + 12.0 - 2 * start_s, {"fear": 1.0}, channel=channel)
             for start_s, channel in ((3.0, 1), (3.0, 2), (0.0, 2))]  # fmt: skip
    manager, root = PluginRecipe(entry_points=()).build(), Path(str(call.info["root"]))
    found = Found(list(marks))
    place = call.folder / "files/part-00000.parquet"
    rows = pq.read_table(place)
    size = pa.array([(root / "call.wav").stat().st_size])
    length = pa.array([12.0])
    for name, values in (("size_bytes", size), ("duration_s", length)):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(name), values)
    pq.write_table(rows, place)
    paths = audio_of(open_run(call.folder), found, root, manager, RATE_HZ, tmp_path)
    assert len(set(paths)) == len(marks) and found.notices == []
    for path, mark in zip(paths, marks, strict=True):
        samples, _ = soundfile.read(path)
        strongest_hz = np.abs(np.fft.rfft(samples)).argmax() * RATE_HZ / len(samples)
        assert strongest_hz == pytest.approx(110 + 110 * mark.channel, rel=0.01)
