"""One node at work on a plan: it makes parts, and publishes each without holding the run."""

from __future__ import annotations

import platform
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ser_batch.dsp.kernel_cache import processor_class
from ser_batch.errors import RunError
from ser_batch.interrupt import Interruptions
from ser_batch.nodes.hello import check_archive, check_versions, gather_here, recipe_here
from ser_batch.nodes.outcomes import Line, choose_device
from ser_batch.nodes.scratch import node_scratch
from ser_batch.records import ClipOutcome, ClipRef
from ser_batch.run.attempts import Attempts, Manifest
from ser_batch.run.folder import writing
from ser_batch.run.journal import Entry
from ser_batch.run.plan import Shard
from ser_batch.run.planned import plan_of
from ser_batch.run.published import done_parts, is_done
from ser_batch.run.shards import make_part, row_maker
from ser_batch.run.steps import reached
from ser_batch.run.store import RunStore
from ser_batch.stages.processes import worker_count
from ser_batch.stages.progress import Progress
from ser_batch.stages.reach import Archive
from ser_batch.text import printable

__all__ = ["Message", "Node", "disks_named"]


@contextmanager
def disks_named() -> Iterator[None]:
    """Turn an error of a disk of this node, its own or that of the run, into one line.

    Raises
    ------
    RunError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        where = f" ({printable(error.filename)})" if isinstance(error.filename, str) else ""
        raise RunError(
            f"This node ({platform.node()}) cannot go on: {error.strerror or error}{where}. What it has published "
            f"stays. Mend that and start it again; other nodes do the rest meanwhile."
        ) from error


@dataclass
class Message:
    """What a node says of parts that it has worked on: small, whatever they hold."""

    node: str
    host: str
    #: Parts that it has published; and that another node had published before.
    n_published: int = 0
    n_second: int = 0
    n_files: int = 0
    #: Status -> files, of the parts published.
    statuses: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0


class Node:
    """This machine, working on the plan of a run; use as a context manager. Its workers are kept until the end.

    Parameters
    ----------
    run_dir : path
        A run with a plan, on a disk that all nodes share.
    plugin_files : sequence of str
        Plugin files in the place of those of the same names that the plan has.
    trust_plugins : bool
        Execute plugin files out of the plan.
    scratch : path, optional
        Where workers write; a folder on a disk of this machine. Temporary files lie there, too, unless given.
    jobs : int
        Worker processes; 0 leaves it to the plan, and that to the number of cores.
    progress : Progress, optional
    interruptions : Interruptions, optional
        Entered; signals wait while a part is published.

    Raises
    ------
    ConfigError
        Plugin files are neither given nor trusted, or `scratch` lies in the run.
    RunError
        There is no plan, this machine has other versions than it was made with, or cannot work.
    PluginError, ModelError
        Plugins or the model are others than those of the plan.
    InputError
        The archive is not to be seen from here.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        plugin_files: Sequence[str] = (),
        trust_plugins: bool = False,
        scratch: str | Path | None = None,
        jobs: int = 0,
        progress: Progress | None = None,
        interruptions: Interruptions | None = None,
    ) -> None:
        self.node_id, self.host = uuid.uuid4().hex[:12], platform.node()
        self.run_dir, self.plan = Path(run_dir), plan_of(Path(run_dir))
        self.attempts = Attempts(self.run_dir, self.plan.plan_id)
        self.progress = progress or Progress()
        self._plugin_files, self._trust, self._scratch, self._jobs = plugin_files, trust_plugins, scratch, jobs
        self._interruptions = interruptions or Interruptions()
        self._store = RunStore(self.run_dir)
        self._n_attempts = 0

    def __enter__(self) -> Node:
        plan = self.plan
        check_versions(plan)
        with ExitStack() as stack:
            folder = stack.enter_context(node_scratch(self._scratch, self.run_dir))
            recipe = recipe_here(plan, self._plugin_files, self._trust, folder)
            self._manager, ingredients = gather_here(plan, recipe)
            archive = Archive(plan.root, check_archive(plan))
            self._rows = row_maker(ingredients, plan.manifest)
            classifier, _ = choose_device(ingredients.config, self._manager, self.progress)
            with self._writing("the folder of nodes"):
                self.attempts.create()
                told = {"cpu": processor_class()}
                stack.enter_context(self.attempts.alive(self.node_id, told))
            n_jobs = worker_count(self._jobs or ingredients.config.extract.jobs, max(1, plan.n_files))
            place = folder / "workers"
            place.mkdir()
            self._line = stack.enter_context(Line(ingredients, classifier, n_jobs, place, archive, self.progress))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            with writing(what):
                yield
        except RunError as error:
            if isinstance(error.__cause__, FileNotFoundError) and not self.attempts.folder.exists():
                raise RunError(
                    f"The plan of {self.run_dir} that this node works on is gone: it is done, or was replaced."
                ) from None
            raise

    def process(self, parts: Iterable[int]) -> Message:
        """Make and publish parts, given by their numbers, of which nobody has published any; say what was done.

        Raises
        ------
        InputError
            The archive is gone.
        PluginError, ModelError, RunError
            This node cannot go on. What it has published stays.
        """
        begin, places = time.monotonic(), self.plan.place_of
        done = done_parts(self.plan, self._looked())
        told = Message(self.node_id, self.host)
        wanted = [places[part] for part in parts]
        for _ in self.run((place for place in wanted if place not in done), told):
            pass
        told.wall_s = time.monotonic() - begin
        return told

    def run(self, places: Iterable[int], told: Message) -> Iterator[int]:
        """Make and publish parts, given by their places in the plan, and yield each place then; `told` counts.

        Parts are taken from `places` as workers become free. Raises as `process`.
        """
        waiting: list[int] = []

        def shards() -> Iterator[Shard]:
            for place in places:
                if self.attempts.is_published(self.plan.parts[place].part):
                    continue
                waiting.append(place)
                yield self.plan.shard(place)

        begin_s = time.monotonic()
        for shard, outcomes in self._line.run(shards()):
            place = waiting.pop(0)
            self.publish(place, shard, outcomes, time.monotonic() - begin_s, told)
            begin_s = time.monotonic()
            yield place

    def outcomes(self, refs: Sequence[ClipRef]) -> list[ClipOutcome]:
        """Return the outcomes of some files, with nothing else in hand. Raises as `process`."""
        return self._line.outcomes(refs) if refs else []

    def publish(self, place: int, shard: Shard, outcomes: Sequence[ClipOutcome], wall_s: float, told: Message) -> None:
        """Stage the part of a shard and say so, unless somebody has done it meanwhile. Raises RunError."""
        planned, plan, entry, kept = self.plan.parts[place], self.plan, None, 0
        if shard.is_rewrite and is_done(plan, place, self._looked().get(planned.part)):
            told.n_second += 1
            return
        made = make_part(shard, outcomes, self._rows, self._store)
        kept = len(made.kept)
        with self._interruptions.deferred(), self._writing(f"part {shard.part}"):
            if made.tables:
                attempt = f"{plan.plan_id}/{self.node_id}-{self._n_attempts}"
                self._n_attempts += 1
                entry = self._store.stage(shard.part, made.tables, len(shard.refs), attempt)
            manifest = Manifest(
                plan.plan_id, shard.part, self.node_id, self.host, planned.base, kept, round(wall_s, 3), entry
            )
            is_first = self.attempts.publish(manifest)
        reached("part-published")
        if not is_first:
            told.n_second += 1
            return
        told.n_published += 1
        told.n_files += len(shard.refs)
        told.statuses.update(str(outcome.status) for outcome in outcomes)
        self._line.tell(self._manager, outcomes)

    def done(self) -> set[int]:
        """Return the places of parts that the run has, by its journal."""
        return done_parts(self.plan, self._looked())

    def _looked(self) -> Mapping[int, Entry]:
        self._store.look()
        return self._store.entries
