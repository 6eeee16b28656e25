"""The script by which SLURM works on a plan."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ser_batch.errors import RunError
from ser_batch.text import printable

__all__ = ["job_script"]

_SCRIPT = """\
#!/bin/sh
# Submits an array of nodes that work on {run}, and what takes in their parts once all have ended.
set -eu
nodes={nodes}
# An array has no more tasks than the cluster allows; fewer do the same work.
most=$(scontrol show config 2>/dev/null | sed -n 's/^MaxArraySize *= *\\([0-9]*\\).*/\\1/p')
if [ "${{most:-1001}}" -le "$nodes" ]; then
    nodes=$((${{most:-1001}} - 1))
    echo "This cluster takes arrays of $nodes tasks: so many are submitted." >&2
fi

array=$(sbatch --parsable --job-name=ser-batch --array="1-$nodes" --cpus-per-task={cpus} --time={time} \\
    --requeue --open-mode=append --signal=B:TERM@60{more} <<'TASK'
#!/bin/sh
# Kernels are compiled once per machine, since machines may differ.
export NUMBA_CACHE_DIR="${{NUMBA_CACHE_DIR-$HOME/.cache/ser-batch/$(uname -n)}}"
# Numbers of tasks may have gaps, as when some are submitted again: what belongs to none the others do.
step=${{SLURM_ARRAY_TASK_STEP:-1}}
first=${{SLURM_ARRAY_TASK_MIN:-$SLURM_ARRAY_TASK_ID}}
last=${{SLURM_ARRAY_TASK_MAX:-$SLURM_ARRAY_TASK_ID}}
slice=$(((SLURM_ARRAY_TASK_ID - first) / step + 1))/$(((last - first) / step + 1))
# In the place of this shell, so that SIGTERM reaches it.
exec {program} work {run} --slice "$slice" --jobs "${{SLURM_CPUS_PER_TASK:-0}}"{trust}
TASK
)
echo "Submitted array ${{array%%;*}}."

sbatch --job-name=ser-batch-complete --dependency="afterany:${{array%%;*}}"{more} <<'TASK'
#!/bin/sh
exec {program} complete {run}
TASK
"""


def job_script(
    run_dir: Path, n_nodes: int, n_cpus: int, time_limit: str, more: Sequence[str], trust_plugins: bool
) -> str:
    """Return a shell script that submits an array of `work`, and `complete` by dependency.

    Parameters
    ----------
    run_dir : Path
    n_nodes : int
        Tasks of the array.
    n_cpus : int
        CPUs of each.
    time_limit : str
        Of each, as sbatch takes it.
    more : sequence of str
        Options for sbatch.
    trust_plugins : bool
        Let nodes execute the plugin files of the plan.

    Raises
    ------
    RunError
        Lines of a script cannot name the run.
    """
    run = os.path.abspath(run_dir)  # noqa: PTH100 - resolve() would follow links
    if not run.isprintable():
        # Quotes are nothing in a comment, nor to the line that ends a script within the script.
        raise RunError(f"A script cannot name {printable(run)}: give the run by a symbolic link that has a plain name.")
    return _SCRIPT.format(
        run=shlex.quote(run),
        nodes=n_nodes,
        cpus=n_cpus,
        time=shlex.quote(time_limit),
        more="".join(f" {shlex.quote(option)}" for option in more),
        program=f"{shlex.quote(sys.executable)} -P -m ser_batch",
        trust=" --trust-plugins" if trust_plugins else "",
    )
