"""The chart engine, in a process of its own: run as a script, so that it loads nothing else and is there soon.

Reads one Vega-Lite specification a line, answers with one line: its SVG, or what is wrong.
"""

from __future__ import annotations

import json
import sys

__all__ = ["main"]

_FIRST = {
    "data": {"values": [{"a": "a", "b": 1}]},
    "mark": "bar",
    "encoding": {"x": {"field": "b", "type": "quantitative"}, "y": {"field": "a", "type": "nominal"}},
}


def main() -> None:
    """Answer until there are no more questions."""
    import vl_convert  # noqa: PLC0415 - starts a JavaScript engine

    # The first chart takes as long as five more; whoever asks has other things to do meanwhile.
    vl_convert.vegalite_to_svg(_FIRST, allowed_base_urls=[])
    for line in sys.stdin:
        try:
            answer = {"svg": vl_convert.vegalite_to_svg(json.loads(line), allowed_base_urls=[])}
        except ValueError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
