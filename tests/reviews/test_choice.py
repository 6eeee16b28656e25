"""What comes next, for every purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from listeners import listen
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.errors import DataError, RunError
from ser_batch.reviews.audit import audit_run
from ser_batch.reviews.choice import (
    choose_for_adapt,
    tasks_for_adapt,
    tasks_for_audit,
    tasks_for_files,
    tasks_for_label,
    tasks_like,
)
from ser_batch.reviews.sample import choose_unit, population_of
from ser_batch.run.read import Run, open_run
from ser_batch.run.schema import Contents, schema_of


@pytest.fixture(scope="module", params=[10**9, 3], ids=["files", "windows"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    plan = RunPlan(
        long_every=request.param,
        long_windows=8,
        info={"tables": ["embeddings", "windows", "files"], "embeddings": {"n_numbers": 8}},
    )
    folder = make_run(tmp_path_factory.mktemp("choice") / "run", 300, plan)
    embed(folder)
    return open_run(folder)


def embed(folder: Path) -> None:
    """Give every window an embedding that is its probabilities and its place."""
    schema = schema_of("embeddings", Contents(LABELS, (), 8), {})
    for path in sorted((folder / "windows").glob("*.parquet")):
        rows = pq.read_table(path)
        numbers = np.column_stack([rows.column(f"p_{label}").to_numpy() for label in LABELS])
        numbers = np.column_stack([numbers, np.zeros((len(rows), 2))]).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 8)
        weight = pa.array(np.ones(len(rows), np.float32))
        table = pa.table([rows.column("clip_id"), rows.column("window_index"), weight, column], schema=schema)
        (folder / "embeddings").mkdir(exist_ok=True)
        pq.write_table(table, folder / "embeddings" / path.name)


def test_an_audit_asks_in_the_order_of_its_sample_and_draws_it_once(run: Run) -> None:
    sample, tasks = tasks_for_audit(run)
    assert [task.unit for task in tasks] == list(sample.items)
    assert [task.inclusion_probability for task in tasks] == [item.inclusion_probability for item in sample.items]
    assert tasks_for_audit(run) == (sample, tasks)
    narrower, more = tasks_for_audit(run, 0.02)
    assert narrower.n_wanted > sample.n_wanted
    assert [task.unit.clip_id for task in more] == [task.unit.clip_id for task in tasks]
    wider, _ = tasks_for_audit(run, 0.05)
    assert wider == sample


def test_only_one_label(run: Run) -> None:
    tasks = tasks_for_label(run, "fear")
    assert {task.unit.model_label for task in tasks} == {"fear"}
    assert {task.purpose for task in tasks} == {"only"}
    assert all(task.inclusion_probability is None for task in tasks)
    with pytest.raises(DataError, match=r"has no label 'feer'; it has anger, .*Did you mean 'fear'"):
        tasks_for_label(run, "feer")


def test_for_adapt_labels_take_turns(run: Run) -> None:
    tasks = tasks_for_adapt(run)
    assert [task.unit.model_label for task in tasks[:24]] == [*LABELS] * 4
    assert len({(task.unit.clip_id, task.unit.start_s) for task in tasks}) == len(tasks)


def test_like_a_clip_the_nearest_come_first_and_not_itself(run: Run) -> None:
    clip = tasks_for_label(run, "anger")[0].unit.clip_id
    tasks = tasks_like(run, clip)
    assert clip not in {task.unit.clip_id for task in tasks}
    windows = load_results(run.folder, "windows")
    columns = [f"p_{label}" for label in LABELS]
    own = windows[windows.clip_id == clip][columns].to_numpy().mean(axis=0)
    p = windows[columns].to_numpy()
    cosine = p @ own / np.linalg.norm(p, axis=1) / np.linalg.norm(own)
    others = windows.assign(cosine=cosine)[windows.clip_id != clip].sort_values("cosine", ascending=False)
    assert tasks[0].unit.clip_id in set(others.clip_id[:3])  # float16 may change places
    with pytest.raises(DataError, match=r"has no embedding of nowhere.wav"):
        tasks_like(run, "nowhere.wav")


def test_files_of_a_list_by_path_or_name_in_its_order(run: Run) -> None:
    names = load_results(run.folder, where=[("status", "==", "ok")]).clip_id[:3].tolist()
    tasks, notices = tasks_for_files(run, [f"/nowhere/archive/{names[2]}", names[0], "missing.wav"])
    assert list(dict.fromkeys(task.unit.clip_id for task in tasks)) == [names[2], names[0]]
    assert notices == [f"1 of 3 files, such as missing.wav, have no label in {run.folder}."]
    with pytest.raises(DataError, match=r"has no label for any of the 1 files of the list, such as missing"):
        tasks_for_files(run, ["missing.wav"])


@pytest.mark.parametrize("whole_channels", [0.0, 0.5, 1.0])
def test_segments_are_asked_about_where_a_run_has_some_but_no_whole_channels(
    tmp_path: Path, whole_channels: float
) -> None:
    tables = {"tables": ["embeddings", "segments", "windows", "files"], "embeddings": {"n_numbers": 8}}
    folder = make_run(tmp_path / "run", 60, RunPlan(failed_share=0.0, long_every=2, long_windows=5, info=tables))
    embed(folder)
    (path,) = (folder / "windows").glob("*.parquet")
    rows = pq.read_table(path)
    schema = schema_of("segments", Contents(LABELS, (), 8), {})
    columns = {name: rows.column(name) for name in schema.names if name in rows.column_names}
    columns["segment_index"] = rows.column("window_index")
    # Each of half a window, from its middle on.
    columns["start_s"] = pc.add(rows.column("start_s"), 1.5)
    nothing = {name: pa.nulls(len(rows), schema.field(name).type) for name in schema.names if name not in columns}
    is_whole = np.arange(len(rows)) < whole_channels * len(rows)
    nothing["source"] = pa.array(np.where(is_whole, "channel", "test")).dictionary_encode()
    nothing["context_s"] = pa.array(np.zeros(len(rows), np.float32))
    table = pa.table(columns | nothing).select(schema.names).cast(schema)
    (folder / "segments").mkdir()
    pq.write_table(table, folder / "segments" / path.name)
    made = open_run(folder)
    sample, tasks = tasks_for_audit(made)
    if whole_channels == 1:
        assert sample.unit == "files"
        return
    assert sample.unit == "segments"
    assert sample.n_units == (~is_whole).sum()
    assert {task.unit.end_s - task.unit.start_s for task in tasks} == {1.5}
    assert len(tasks_for_adapt(made)) == (~is_whole).sum()
    clip = tasks[0].unit.clip_id
    assert clip not in {task.unit.clip_id for task in tasks_like(made, clip)}
    listen(folder, lambda item: item.model_label, 40)
    found = audit_run(made)
    assert (found.unit, found.n_answers, found.accuracy.value) == ("segments", 40, 1.0)


def test_without_embeddings_likeness_is_refused(tmp_path: Path) -> None:
    made = open_run(make_run(tmp_path / "run", 200))
    assert {task.unit.model_label for task in tasks_for_adapt(made)[:6]} == set(LABELS)
    with pytest.raises(RunError, match=r"has no embeddings: "):
        tasks_like(made, "a.wav")


def test_a_sample_of_another_run_is_refused(tmp_path: Path) -> None:
    made = open_run(make_run(tmp_path / "run", 50))
    tasks_for_audit(made)
    made.info["run_id"] = "another"
    with pytest.raises(DataError, match=r"holds answers to the audit of another run. Move the folder back"):
        tasks_for_audit(made)


def test_labels_take_turns_until_nothing_of_one_is_left() -> None:
    label = np.array([0] * 60 + [1] * 17 + [2] * 3, np.int16)
    chosen = choose_for_adapt(label, 40)
    assert len(set(chosen.tolist())) == 40
    assert label[chosen[:9]].tolist() == [0, 1, 2] * 3
    assert label[chosen[9:15]].tolist() == [0, 1] * 3 and np.bincount(label[chosen]).tolist() == [20, 17, 3]
    # At random within each, and another time the same.
    assert chosen.tolist() == choose_for_adapt(label, 40).tolist() != choose_for_adapt(label, 40, seed=1).tolist()
    assert chosen[label[chosen] == 0].tolist() != sorted(chosen[label[chosen] == 0].tolist())


def test_tasks_for_adapt_are_each_of_another_unit(run: Run) -> None:
    label = population_of(run, choose_unit(run)).label
    units = [task.unit for task in tasks_for_adapt(run)]
    assert len(set(units)) == len(units) == min(500, len(label))
