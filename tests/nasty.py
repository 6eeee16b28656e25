"""Files as somebody may have edited or damaged them."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, 10**400, -(10**400), 1.5, 1e308, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "\udce9", "../../etc/passwd", "/nowhere", "2026-03-01", "9" * 400, "\x1b[2J", "a" * 5000,
    [], [[]], [None], ["x", "x"], [1, 2, 3], [{}], {}, {"": None}, {"x": {}}, {"ok": "many"},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, as keys from the top."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def mutated(manifest: dict[str, Any], rng: random.Random) -> bytes:
    """Change a document in one place or a few; now and then its bytes."""
    manifest = copy.deepcopy(manifest)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        known = places(manifest)
        # Each field as often as any other, however much lies in it.
        top = rng.choice(list(manifest) or [()])
        path = rng.choice([place for place in known if place[:1] == (top,)] or [()])
        if not path:
            break
        holder: Any = manifest
        for key in path[:-1]:
            holder = holder[key]
        if rng.random() < 0.2:
            del holder[path[-1]]
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(NASTY))
    data = bytearray(json.dumps(manifest).encode())
    kind = rng.random()
    if kind < 0.02:
        del data[rng.randrange(len(data)) :]
    elif kind < 0.04:
        data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind < 0.05:
        data = bytearray(b"[" * 100_000)
    return bytes(data)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes of a file, or none: as editors, disks and interrupted copies do."""
    changed = bytearray(data)
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 5])):
        place = rng.randrange(len(changed) + 1)
        end = min(len(changed), place + rng.choice([1, 2, 20]))
        kind = rng.randrange(4)
        if kind == 0:
            del changed[place:end]
        elif kind == 1:
            changed[place:place] = changed[place:end]
        elif kind == 2:
            changed[place:end] = rng.choice([b"\0", b"\xff", b'"', b"\n", b"[", b"'", b"\xe9", b","])
        elif rng.random() < 0.2:
            del changed[place:]
    return bytes(changed)
