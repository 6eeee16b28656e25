#!/bin/sh
# Installs ser-batch into .venv and labels the sample recordings: sh scripts/demo.sh [OPTION of ser-batch scan]...
cd "$(dirname "$0")/.." || exit 1
. scripts/install.sh
install
exec "$python" -m ser_batch scan data/samples -o runs/samples "$@"
