#!/bin/sh
# Installs ser-batch into .venv with what its tests need, and runs them: sh scripts/test.sh [OPTION of pytest]...
cd "$(dirname "$0")/.." || exit 1
. scripts/install.sh
install test
# Files side by side: much of a test is waiting. Beyond four the processes that tests start get in each other's way.
# In the order of their names: files of few tests, which take longest, would come last else.
exec "$python" -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
