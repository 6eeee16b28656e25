"""Which part a node does next: its own slice first, then what nobody has in hand, then what the silent or slow have.

Who has what in hand is written down before it is begun. What a node had in hand as it died is a loss. A bundle that was
lost twice is halved, and its halves again with each loss: first by parts, which are done side by side with others; then
by files, with nothing else in hand. A file gets the blame when two nodes were lost with it alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ser_batch.run.attempts import Attempts, Span
from ser_batch.run.planned import PlanFile, PlannedPart

__all__ = ["Careful", "Schedule"]

#: A node that is silent for longer may have died: another one may do its part, too.
_SILENT_S = 15.0
#: Losses until a bundle is halved, and until a single file is blamed.
_LOSSES = 2


class _How(Enum):
    """How some rows are to be done."""

    #: Side by side with others.
    WHOLE = "whole"
    #: With nothing else in hand.
    ALONE = "alone"
    #: Not at all: they are one file that is to blame.
    LOST = "lost"


@dataclass(eq=False)
class _Task:
    path: Path
    left: set[int]


@dataclass(frozen=True, slots=True)
class Careful:
    """A part that is done in pieces, one at a time, since nodes were lost with it."""

    place: int
    #: Rows of the plan, and whether they are one file that is to blame.
    pieces: tuple[tuple[Span, bool], ...]


class Schedule:
    """What a node does of a plan.

    Parameters
    ----------
    plan : PlanFile
    attempts : Attempts
    node : str
        This one.
    part_of : (int, int)
        Number of its slice, from 1, and how many there are; (0, 0) for none of its own.
    done : set of int
        Places of parts that the run has already.
    only : sequence of int, optional
        The bundles that it is about, in this order; all, unless given.
    """

    def __init__(
        self,
        plan: PlanFile,
        attempts: Attempts,
        node: str,
        part_of: tuple[int, int],
        done: set[int],
        only: Sequence[int] | None = None,
    ) -> None:
        self._plan, self._attempts, self._node = plan, attempts, node
        number, n_slices = part_of
        bundles = list(range(len(plan.bundles)))
        first, last = (
            (len(bundles) * (number - 1) // n_slices, len(bundles) * number // n_slices) if n_slices else (0, 0)
        )
        rest = [*bundles[:first], *bundles[last:]]
        random.shuffle(rest)
        self._order = [*bundles[first:last], *rest] if only is None else list(only)
        self._done = done
        self._in_hand: dict[int, _Task] = {}

    def whole(self) -> Iterator[int]:
        """Yield the places of parts to be done, each taken in hand; ends where there is nothing to be had just now."""
        while (chosen := self._choose()) is not None:
            path, places = chosen
            task = _Task(path, set(places))
            self._in_hand |= dict.fromkeys(places, task)
            for place in places:
                if self._attempts.is_published(self._plan.parts[place].part):
                    self.finished(place)
                else:
                    yield place

    def finished(self, place: int) -> None:
        """Take in that a part is published."""
        self._done.add(place)
        task = self._in_hand.pop(place, None)
        if task is not None:
            task.left.discard(place)
            if not task.left:
                _give_back(task.path)

    def release(self) -> None:
        """Give back what is in hand, also what an interruption came before it was noted here."""
        self._attempts.give_back(self._node)
        self._in_hand.clear()

    def n_left(self) -> int:
        """Count the parts of the plan that nobody has published."""
        self._look()
        return len(self._plan.parts) - len(self._done)

    def _look(self) -> None:
        places = self._plan.place_of
        self._done |= {places[part] for part in self._attempts.published() if part in places}
        living = self._attempts.living()
        #: Rows, and whether nothing was in hand beside them -> nodes that were lost with them.
        self._lost: dict[tuple[Span, bool], int] = {}
        #: Rows that others have in hand -> how long the last of them has been silent.
        self._held: dict[Span, list[float]] = {}
        for (span, is_alone), nodes in self._attempts.tries().items():
            others = [node for node in nodes if node != self._node]
            self._lost[span, is_alone] = sum(node not in living for node in others)
            ages = [living[node]["age_s"] for node in others if node in living]
            if ages:
                self._held.setdefault(span, []).extend(ages)

    def _choose(self) -> tuple[Path, list[int]] | None:
        self._look()
        for is_help in (False, True):
            for bundle in self._unfinished():
                for span, how in self._pieces(bundle):
                    places = self._todo(span, bundle) if how is _How.WHOLE else []
                    if not places or not self._is_free(span, len(places) if is_help else 0):
                        continue
                    if is_help:
                        places.reverse()  # towards the one who has begun
                    if path := self._attempts.begin_try(span, self._node, is_alone=False):
                        return path, places
        return None

    def careful(self) -> Careful | None:
        """Return a part that is to be done in pieces, if there is one to be had."""
        self._look()
        for bundle in self._unfinished():
            pieces = self._pieces(bundle)
            for place in range(*self._plan.bundles[bundle]):
                planned = self._plan.parts[place]
                rows = planned.first, planned.first + planned.n_rows
                own = [
                    (span, how is _How.LOST)
                    for span, how in pieces
                    if how is not _How.WHOLE and rows[0] <= span[0] and span[1] <= rows[1]
                ]
                if own and place not in self._done and self._is_free(rows, 0):
                    return Careful(place, tuple(own))
        return None

    def _rows_of(self, bundle: int) -> Span:
        first, last = self._plan.bundles[bundle]
        end = self._plan.parts[last - 1]
        return self._plan.parts[first].first, end.first + end.n_rows

    def _todo(self, span: Span, bundle: int) -> list[int]:
        parts = self._plan.parts
        return [
            place
            for place in range(*self._plan.bundles[bundle])
            if place not in self._done
            and place not in self._in_hand
            and span[0] <= parts[place].first
            and parts[place].first + parts[place].n_rows <= span[1]
        ]

    def _is_free(self, span: Span, n_parts: int) -> bool:
        """Whether rows may be had: nobody has them; or, to help with so many parts, one slow or silent node has."""
        held = [age for other, ages in self._held.items() if other[0] < span[1] and span[0] < other[1] for age in ages]
        if not n_parts:
            return not held
        return len(held) < 2 and (n_parts > 1 or all(age > _SILENT_S for age in held))

    def _unfinished(self) -> list[int]:
        """Return the bundles of which something is left to do, in the order in which this node takes them."""
        bundles = self._plan.bundles
        self._order = [bundle for bundle in self._order if not self._done.issuperset(range(*bundles[bundle]))]
        return self._order

    def _pieces(self, bundle: int) -> list[tuple[Span, _How]]:
        """Cut the rows of a bundle with which nodes were lost, and say how each piece is to be done."""
        return self._cut(self._rows_of(bundle), self._plan.parts[slice(*self._plan.bundles[bundle])], _LOSSES)

    def _cut(self, span: Span, parts: Sequence[PlannedPart], n_losses: int = 1) -> list[tuple[Span, _How]]:
        """Cut some rows; `parts` are those that may lie in them, `n_losses` how many it takes to cut whole ones."""
        inside = [item for item in parts if span[0] <= item.first and item.first + item.n_rows <= span[1]]
        if inside and self._lost.get((span, False), 0) < n_losses:
            return [(span, _How.WHOLE)]
        n_lost = self._lost.get((span, True), 0)
        if span[1] - span[0] <= 1:
            return [(span, _How.LOST if n_lost >= _LOSSES else _How.ALONE)]
        if not inside and not n_lost:
            return [(span, _How.ALONE)]
        middle = inside[len(inside) // 2].first if len(inside) > 1 else (span[0] + span[1]) // 2
        return [*self._cut((span[0], middle), inside), *self._cut((middle, span[1]), inside)]


def _give_back(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
