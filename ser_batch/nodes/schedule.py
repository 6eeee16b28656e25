"""Which part a node does next: its own slice first, then what nobody has in hand, then what the silent or slow have.

Who has what in hand is written down before it is begun. What a node had in hand as it died is a loss. A bundle that was
lost twice is halved, and its halves again with each loss, down to one file, which gets the blame when two nodes were
lost with it alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ser_batch.run.attempts import Attempts, Span
from ser_batch.run.planned import PlanFile

__all__ = ["Careful", "Schedule"]

#: A node that is silent for longer may have died: another one may do its part, too.
_SILENT_S = 15.0
#: Losses until a bundle is halved, and until a single file is blamed.
_LOSSES = 2


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
    """

    def __init__(self, plan: PlanFile, attempts: Attempts, node: str, part_of: tuple[int, int], done: set[int]) -> None:
        self._plan, self._attempts, self._node = plan, attempts, node
        number, n_slices = part_of
        bundles = list(range(len(plan.bundles)))
        first, last = (
            (len(bundles) * (number - 1) // n_slices, len(bundles) * number // n_slices) if n_slices else (0, 0)
        )
        rest = [*bundles[:first], *bundles[last:]]
        random.shuffle(rest)
        self._order = [*bundles[first:last], *rest]
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
        """Give back what is in hand: it was not lost."""
        for task in self._in_hand.values():
            _give_back(task.path)
        self._in_hand.clear()

    def n_left(self) -> int:
        """Count the parts of the plan that nobody has published."""
        self._look()
        return len(self._plan.parts) - len(self._done)

    def _look(self) -> None:
        places = self._plan.place_of
        self._done |= {places[part] for part in self._attempts.published() if part in places}
        living = self._attempts.living()
        self._lost: dict[Span, int] = {}
        #: Rows that others have in hand -> how long the last of them has been silent.
        self._held: dict[Span, list[float]] = {}
        for span, nodes in self._attempts.tries().items():
            others = [node for node in nodes if node != self._node]
            self._lost[span] = sum(node not in living for node in others)
            ages = [living[node]["age_s"] for node in others if node in living]
            if ages:
                self._held[span] = ages

    def _choose(self) -> tuple[Path, list[int]] | None:
        self._look()
        for is_help in (False, True):
            for bundle in self._order:
                for span, _ in self._pieces(self._rows_of(bundle), is_bundle=True):
                    places = self._todo(span, bundle)
                    if not places or self._is_within_part(span, bundle) or not self._is_free(span, is_help):
                        continue
                    if is_help:
                        places.reverse()  # towards the one who has begun
                    if path := self._attempts.begin_try(span, self._node):
                        return path, places
        return None

    def careful(self) -> Careful | None:
        """Return a part that is to be done in pieces, if there is one to be had."""
        self._look()
        for bundle in self._order:
            pieces = self._pieces(self._rows_of(bundle), is_bundle=True)
            for place in range(*self._plan.bundles[bundle]):
                planned = self._plan.parts[place]
                rows = planned.first, planned.first + planned.n_rows
                own = [(span, is_lost) for span, is_lost in pieces if rows[0] <= span[0] and span[1] <= rows[1]]
                if place in self._done or not own or own == [(rows, False)] or not self._is_free(rows, False):
                    continue
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

    def _is_within_part(self, span: Span, bundle: int) -> bool:
        """Whether rows are a piece of a part, or a whole part that is to blame as it is."""
        parts = self._plan.parts
        is_whole = any(parts[place].first == span[0] for place in range(*self._plan.bundles[bundle]))
        return not is_whole or self._lost.get(span, 0) >= _LOSSES

    def _is_free(self, span: Span, is_help: bool) -> bool:
        """Whether rows may be taken in hand: nobody has them; or, to help, one node has, which is slow or silent."""
        held = [age for other, ages in self._held.items() if other[0] < span[1] and span[0] < other[1] for age in ages]
        if not is_help:
            return not held
        n_parts = sum(span[0] <= item.first < span[1] for item in self._plan.parts)
        return len(held) < 2 and (n_parts > 1 or all(age > _SILENT_S for age in held))

    def _pieces(self, span: Span, is_bundle: bool = False) -> list[tuple[Span, bool]]:
        """Cut rows with which nodes were lost; say of each piece whether it is a file that is to blame."""
        is_single = span[1] - span[0] <= 1
        if self._lost.get(span, 0) < (_LOSSES if is_bundle or is_single else 1):
            return [(span, False)]
        if is_single:
            return [(span, True)]
        inside = [item.first for item in self._plan.parts if span[0] < item.first < span[1]]
        middle = inside[len(inside) // 2] if inside else (span[0] + span[1]) // 2
        return [*self._pieces((span[0], middle)), *self._pieces((middle, span[1]))]


def _give_back(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
