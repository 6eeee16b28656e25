"""Charts as static SVG: the engine that draws them runs apart, so that its end costs pictures and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from ser_batch.report.charts import Chart

__all__ = ["Drawing"]

#: A chart takes some 20 ms.
_LIMIT_S = 30.0


class Drawing:
    """Draws the charts of a report; started early, the engine is ready when the first one is due.

    The engine is a process: it reserves 64 GB of addresses, which a limit (``ulimit -v``) may refuse, and there is text
    that ends it. Then charts say so in their place.
    """

    def __init__(self, limit_s: float = _LIMIT_S) -> None:
        self._limit_s = limit_s
        #: Why nothing can be drawn (any more).
        self._failure = ""
        self._engine: subprocess.Popen[str] | None = None
        # The script alone, without the folder that it lies in: modules there have the names of others.
        command = [sys.executable, "-P", str(Path(__file__).with_name("drawer.py"))]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._engine = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, encoding="utf-8")
        except OSError as error:
            self._failure = f"the chart engine cannot be started: {error.strerror}"

    def __enter__(self) -> Drawing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def markup(self, chart: Chart) -> Markup:
        """Return a chart as SVG, wide and narrow; or, in words, why there is none."""
        parts = []
        for kind, spec in (("wide", chart.wide), ("narrow", chart.narrow)):
            svg = self._svg(spec)
            if svg is None:
                return Markup('<p class="none">There is no picture here: {}.</p>').format(self._failure)
            # One picture with one description: the table under the chart gives the numbers to those who cannot see it.
            before, after = svg.split("<svg ", 1)
            after = after.replace('class="marks"', f'class="chart-{kind}"', 1)
            parts.append(f'{before}<svg role="img" aria-label="{escape(chart.label)}" {after}')
        return Markup("".join(parts))

    def _svg(self, spec: dict[str, Any]) -> str | None:
        engine = self._engine
        if engine is None or engine.stdin is None or engine.stdout is None:
            return None
        timer = Timer(self._limit_s, engine.kill)
        timer.start()
        try:
            engine.stdin.write(json.dumps(spec) + "\n")
            engine.stdin.flush()
            answer = json.loads(engine.stdout.readline())
        except (OSError, ValueError):
            self._end()
            late = not timer.is_alive()
            self._failure = f"the chart engine {'took too long' if late else f'ended with {engine.returncode}'}"
            return None
        finally:
            timer.cancel()
        if "svg" not in answer:
            self._failure = f"the chart engine refused it: {answer.get('error')}"
        return answer.get("svg")

    def _end(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.kill()
            engine.communicate()
