#!/bin/sh
# Installs ser-batch into .venv with what its tests need, and runs them: sh scripts/test.sh [OPTION of pytest]...
cd "$(dirname "$0")/.." || exit 1
. scripts/install.sh
install test
exec "$python" -m pytest "$@"
