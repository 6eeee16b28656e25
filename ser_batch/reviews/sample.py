"""The audit sample: stretches drawn at random by known probabilities, so that their answers stand for the archive.

It is stratified by predicted label and confidence. Half of the effort goes to the labels in proportion to what was
given to them and half to all labels alike, so that rare ones can be judged, too. Items are in the order in which they
are asked about, and whatever number of them is answered, those are a sample of the same design: a listener may stop
early or go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ser_batch.atomic import make_folder, read_file, write_atomic
from ser_batch.errors import DataError, RunError
from ser_batch.kinds import COUNT, TEXT, Kind, is_count, is_number, problem_with, read_json
from ser_batch.reviews.answers import reviews_folder
from ser_batch.run.folder import writing
from ser_batch.run.read import Run
from ser_batch.run.where import expression_of
from ser_batch.stages.channels import WHOLE_CHANNEL

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Z_95",
    "AuditSample",
    "Drawing",
    "Population",
    "Stratum",
    "Unit",
    "UnitKind",
    "answers_needed",
    "channel_columns",
    "channels_of",
    "choose_unit",
    "draw",
    "draw_sample",
    "load_sample",
    "names_of",
    "population_of",
    "save_sample",
    "units_of",
]

Floats = NDArray[np.float64]
UnitKind = Literal["files", "windows", "segments"]

#: 97.5 % point of the standard normal distribution.
Z_95 = 1.959963984540054

_FORMAT = 1
#: Files of more windows than this cannot be heard in one go.
_HEARD_AT_ONCE = 5
#: Share of files that must be that short for files to be asked about as a whole.
_MOSTLY = 0.95
#: Bins of confidence per label.
_N_BINS = 3
#: Fewest units in a stratum.
_FEWEST = 12
#: Share of the effort that goes to all labels alike.
_EVEN = 0.5
#: Items drawn beyond those wanted, so that a listener can go on.
_SPARE = 3
_FEWEST_DRAWN = 1_500


@dataclass(frozen=True, slots=True)
class Unit:
    """What is asked about at once: a whole file, or one segment or window of it."""

    clip_id: str
    start_s: float
    end_s: float
    model_label: str
    model_confidence: float
    #: Of the recording, from 1; 0 for all of them, mixed.
    channel: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Item(Unit):
    """A unit of the sample."""

    stratum: int
    #: Of being among the `AuditSample.n_wanted` first, in (0, 1].
    inclusion_probability: float


@dataclass(frozen=True, slots=True)
class Stratum:
    """Units of one predicted label and a range of confidence, as they were when the sample was drawn."""

    label: str
    low: float
    high: float
    n_units: int
    n_sample: int


@dataclass(frozen=True, slots=True)
class AuditSample:
    """A drawn sample; ``RUN/reviews/audit.json`` holds it, so that all reviewers are asked the same."""

    run_id: str
    unit: UnitKind
    seed: int
    half_width: float
    #: Answers that the wanted half-width needs, as expected from the confidence of the model.
    n_wanted: int
    n_units: int
    strata: tuple[Stratum, ...]
    items: tuple[Item, ...]


class Population(NamedTuple):
    """All units of a run that have a label."""

    unit: UnitKind
    labels: tuple[str, ...]
    #: int16 (n_units,): place of the predicted label in `labels`.
    label: NDArray[np.int16]
    #: float32 (n_units,)
    confidence: NDArray[np.float32]
    #: float64 (n_labels,): mean probability of each label.
    mean_probability: Floats


def choose_unit(run: Run) -> UnitKind:
    """Ask about segments where the run has some, else about whole files where nearly all can be heard in one go.

    A whole channel is a segment of the run, and nothing that is heard in one go.
    """
    if run.has_table("segments") and any(map(len, run.tables("segments", ["source"], _asked("segments")))):
        return "segments"
    n_files = n_short = 0
    for rows in run.tables("files", ["n_windows"]):
        n_windows = rows.column("n_windows").to_numpy()
        n_files += int((n_windows > 0).sum())
        n_short += int(((n_windows > 0) & (n_windows <= _HEARD_AT_ONCE)).sum())
    return "files" if n_short >= _MOSTLY * n_files else "windows"


def _asked(unit: UnitKind) -> Any:
    """Return the condition on rows that can be asked about."""
    return expression_of([[("source", "!=", WHOLE_CHANNEL)]]) if unit == "segments" else None


class _Rows(NamedTuple):
    #: Column of names, as Arrow has it.
    clip_ids: Any
    start_s: Floats
    end_s: Floats
    #: int64 (n_rows,): as `Unit.channel`.
    channel: NDArray[np.int64]
    #: float32 (n_rows, n_labels)
    probabilities: NDArray[np.float32]


def _labelled(run: Run, unit: UnitKind) -> Iterator[_Rows]:
    """Yield the labelled rows of files that are there, in the order in which they are stored."""
    if not run.labels:
        raise RunError(
            f"{run.folder} has no labels to judge: it was made by `ser-batch features`, without a model. "
            f"`ser-batch scan` labels."
        )
    columns = [f"p_{label}" for label in run.labels]
    gone = _vanished(run)
    times = ["duration_s"] if unit == "files" else ["start_s", "end_s"]
    for rows in run.tables(unit, ["clip_id", *times, *channel_columns(run, unit), *columns], _asked(unit)):
        table = np.column_stack([rows.column(name).to_numpy() for name in columns])
        kept = np.isfinite(table).all(axis=1)
        if gone:
            kept &= np.array([name not in gone for name in rows.column("clip_id").to_pylist()])
        start_s = np.zeros(len(rows)) if unit == "files" else rows.column("start_s").to_numpy()
        end_s = rows.column(times[-1]).to_numpy()
        yield _Rows(
            rows.column("clip_id").filter(kept), start_s[kept], end_s[kept], channels_of(rows)[kept], table[kept]
        )


def channel_columns(run: Run, unit: UnitKind) -> list[str]:
    """Return the columns that say of which channel a unit is: one, where channels were analysed by themselves."""
    is_split = ((run.info.get("config") or {}).get("extract") or {}).get("channels") == "split"
    return ["channel"] if is_split and unit != "files" else []


def channels_of(rows: pa.Table) -> NDArray[np.int64]:
    """Return the channel of each row, 0 where nothing says."""
    if "channel" not in rows.column_names:
        return np.zeros(len(rows), np.int64)
    return np.asarray(rows.column("channel").fill_null(0).to_numpy().astype(np.int64))


def _vanished(run: Run) -> set[str]:
    gone: set[str] = set()
    for rows in run.tables("files", ["clip_id", "vanished"]):
        gone |= set(rows.column("clip_id").filter(rows.column("vanished")).to_pylist())
    return gone


def population_of(run: Run, unit: UnitKind) -> Population:
    """Read the labels and confidences of a run: about 6 bytes a unit in memory.

    Raises
    ------
    RunError
        A run without a model.
    """
    labels, confidences = [np.zeros(0, np.int16)], [np.zeros(0, np.float32)]
    total = np.zeros(len(run.labels))
    for rows in _labelled(run, unit):
        labels.append(rows.probabilities.argmax(axis=1).astype(np.int16))
        confidences.append(rows.probabilities.max(axis=1, initial=0))
        total += rows.probabilities.sum(axis=0, dtype=np.float64)
    label = np.concatenate(labels)
    return Population(unit, run.labels, label, np.concatenate(confidences), total / max(len(label), 1))


def names_of(run: Run, unit: UnitKind) -> Iterator[list[str]]:
    """Yield the names of the clips of all units, piece by piece, in the order of the population."""
    for rows in _labelled(run, unit):
        yield rows.clip_ids.to_pylist()


def units_of(run: Run, unit: UnitKind, places: NDArray[np.int64]) -> list[Unit]:
    """Return the units at `places` of the population, in that order."""
    found: dict[int, Unit] = {}
    wanted, first = np.unique(places), 0
    for rows in _labelled(run, unit):
        n = len(rows.start_s)
        here = wanted[(wanted >= first) & (wanted < first + n)] - first
        for place, name in zip(here.tolist(), rows.clip_ids.take(here).to_pylist(), strict=True):
            p = rows.probabilities[place]
            found[first + place] = Unit(
                name,
                round(float(rows.start_s[place]), 3),
                round(float(rows.end_s[place]), 3),
                run.labels[int(p.argmax())],
                round(float(p.max()), 6),
                channel=int(rows.channel[place]),
            )
        first += n
    return [found[place] for place in places.tolist()]


def draw_sample(run: Run, half_width: float = 0.05, unit: UnitKind | None = None) -> AuditSample:
    """Draw an audit sample.

    Parameters
    ----------
    run : Run
        A run with labels.
    half_width : float
        Wanted half of the 95 % interval of the accuracy, in (0, 0.5].
    unit : {"files", "windows", "segments"}, optional
        What is asked about; by `choose_unit`, unless given.

    Returns
    -------
    AuditSample
        The same for the same run: the seed comes from its id.

    Raises
    ------
    DataError
        The run holds nothing labelled.
    RunError
        A run without a model.
    """
    unit = unit or choose_unit(run)
    population = population_of(run, unit)
    n_units = len(population.label)
    if not n_units:
        raise DataError(f"{run.folder} holds no labelled {unit[:-1]}, so there is nothing to ask about.")
    run_id = str(run.info.get("run_id", ""))
    seed = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:6])
    drawing = draw(population, np.random.default_rng(seed), half_width)
    items = tuple(
        Item(**asdict(item), stratum=int(number), inclusion_probability=round(float(probability), 9))
        for item, number, probability in zip(
            units_of(run, unit, drawing.places), drawing.stratum, drawing.probability, strict=True
        )
    )
    n_sample = np.bincount(drawing.stratum[: drawing.n_wanted], minlength=len(drawing.bounds))
    strata = tuple(
        Stratum(run.labels[label], round(low, 6), round(high, 6), int(size), int(n))
        for (label, low, high), size, n in zip(drawing.bounds, drawing.sizes, n_sample, strict=True)
    )
    return AuditSample(run_id, unit, seed, half_width, drawing.n_wanted, n_units, strata, items)


class Drawing(NamedTuple):
    """What was drawn from a population, in the order in which it is asked about."""

    #: int64 (n_drawn,): places in the population.
    places: NDArray[np.int64]
    #: int64 (n_drawn,): stratum of each.
    stratum: NDArray[np.int64]
    #: float64 (n_drawn,): of being among the first `n_wanted`.
    probability: Floats
    n_wanted: int
    #: int64 (n_strata,): units of each stratum.
    sizes: NDArray[np.int64]
    #: Place of the label, and range of confidence, of each stratum.
    bounds: list[tuple[int, float, float]]


def draw(population: Population, generator: np.random.Generator, half_width: float = 0.05) -> Drawing:
    """Draw from a population that is not empty; see `draw_sample`."""
    stratum, bounds = _stratified(population)
    sizes = np.bincount(stratum, minlength=len(bounds))
    rates = _rates(sizes, [label for label, _, _ in bounds])
    confidence = np.bincount(stratum, population.confidence, len(bounds)) / sizes
    n_wanted = answers_needed(half_width, sizes, rates, confidence)
    n_drawn = min(int(sizes.sum()), max(_SPARE * n_wanted, _FEWEST_DRAWN))
    places, turns, of = [], [], []
    for number, size in enumerate(sizes):
        n = min(int(size), n_drawn)
        places.append(generator.permutation(np.flatnonzero(stratum == number))[:n])
        # Whoever stops anywhere has asked each stratum at its rate.
        turns.append((np.arange(n) + generator.random(n)) / rates[number])
        of.append(np.full(n, number))
    order = np.argsort(np.concatenate(turns), kind="stable")[:n_drawn]
    drawn, of_drawn = np.concatenate(places)[order], np.concatenate(of)[order]
    n_sample = np.bincount(of_drawn[:n_wanted], minlength=len(bounds))
    # A stratum that the first answers pass over would have no chance; its probability is that of its turn.
    probability = np.minimum(np.maximum(n_sample, n_wanted * rates * (n_sample == 0)) / sizes, 1.0)
    return Drawing(drawn, of_drawn, probability[of_drawn], n_wanted, sizes, bounds)


def _stratified(population: Population) -> tuple[NDArray[np.int64], list[tuple[int, float, float]]]:
    """Return the stratum of each unit, and label and range of confidence of each stratum."""
    stratum = np.zeros(len(population.label), np.int64)
    bounds: list[tuple[int, float, float]] = []
    for label in range(len(population.labels)):
        here = np.flatnonzero(population.label == label)
        if not len(here):
            continue
        confidence = population.confidence[here]
        n_bins = max(1, min(_N_BINS, len(here) // _FEWEST))
        # Ranks, not values: a bin of equal confidences would take all.
        rank = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
        bins = rank * n_bins // len(here)
        for number in range(n_bins):
            inside = bins == number
            stratum[here[inside]] = len(bounds)
            bounds.append((label, float(confidence[inside].min()), float(confidence[inside].max())))
    return stratum, bounds


def _rates(sizes: NDArray[np.int64], labels: Sequence[int]) -> Floats:
    """Return the share of the answers that goes to each stratum; they sum to 1."""
    of = np.asarray(labels)
    of_label = np.bincount(of, sizes)[of]
    even = sizes / of_label / len(set(labels))
    return np.asarray((1 - _EVEN) * sizes / sizes.sum() + _EVEN * even)


def answers_needed(half_width: float, sizes: NDArray[np.int64], rates: Floats, accuracy: Floats) -> int:
    """Return how many answers give the accuracy of an archive to within a half-width of its 95 % interval.

    Parameters
    ----------
    half_width : float
        In (0, 0.5].
    sizes, rates : (n_strata,)
        Units of each stratum, and the share of the answers that goes to it.
    accuracy : (n_strata,)
        What is expected in each stratum. It is moved half-way to a coin's, which needs the most: a model's confidence
        is not to be trusted where nobody has listened yet.

    Returns
    -------
    int
        At most the number of units.
    """
    expected = 0.5 * (np.clip(accuracy, 0, 1) + 0.5)
    shares = sizes / sizes.sum()
    # Of the mean: sum of W² s² / n, less what is known once a stratum is heard in full.
    variance = shares**2 * expected * (1 - expected)
    target = (half_width / Z_95) ** 2
    n = np.sum(variance / rates) / (target + np.sum(variance / sizes))
    return int(min(max(np.ceil(n), 1), sizes.sum()))


_NUMBER = Kind(is_number, "a number")
_SIZE = Kind(lambda value: is_count(value) and value > 0, "a whole number from 1")
_SHARE = Kind(lambda value: is_number(value) and 0 < value <= 1, "a number in (0, 1]")
_SAMPLE = {"run_id": TEXT, "unit": Kind(lambda value: value in get_args(UnitKind), f"one of {get_args(UnitKind)}")}
_SAMPLE |= {"seed": COUNT, "half_width": _SHARE, "n_wanted": _SIZE, "n_units": _SIZE}
_STRATUM = {"label": TEXT, "low": _NUMBER, "high": _NUMBER, "n_units": _SIZE, "n_sample": COUNT}
_ITEM = {"clip_id": TEXT, "start_s": _NUMBER, "end_s": _NUMBER, "model_label": TEXT, "model_confidence": _NUMBER}
_ITEM |= {"channel": COUNT, "stratum": COUNT, "inclusion_probability": _SHARE}


def _checked(values: Any, fields: Mapping[str, Kind]) -> dict[str, Any]:
    if problem := problem_with(values, fields):
        raise ValueError(problem)
    return dict(values)


def _path(run_dir: Path) -> Path:
    return reviews_folder(run_dir) / "audit.json"


def save_sample(run_dir: Path, sample: AuditSample) -> None:
    """Write ``RUN/reviews/audit.json``.

    Raises
    ------
    RunError
        The disk refuses.
    """
    with writing("audit sample"):
        make_folder(reviews_folder(run_dir))
        write_atomic(_path(run_dir), json.dumps({"format": _FORMAT, **asdict(sample)}))


def load_sample(run_dir: Path) -> AuditSample | None:
    """Return the sample of a run; None where none was drawn.

    Raises
    ------
    DataError
        The file is damaged.
    """
    path = _path(run_dir)
    try:
        values = read_json(read_file(path))
        if values.pop("format") != _FORMAT:
            raise ValueError("it is of another version of ser-batch")
        strata = tuple(Stratum(**_checked(item, _STRATUM)) for item in values.pop("strata"))
        items = tuple(Item(**_checked({"channel": 0} | item, _ITEM)) for item in values.pop("items"))
        if any(item.stratum >= len(strata) for item in items):
            raise ValueError("an item is of a stratum that there is not")
        return AuditSample(**_checked(values, _SAMPLE), strata=strata, items=items)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"The audit sample {path} cannot be read: {error}. Restore it from a copy; or delete it, and "
            f"`ser-batch review` draws it again (the same one, if the run is the same)."
        ) from None
