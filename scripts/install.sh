# Read by demo.sh and test.sh, from the top of the checkout: makes a virtual environment and installs ser-batch into it
# with the versions of constraints.txt, unless that is done already. Sets $python. In the environment:
#   PYTHON  the Python to start from (python3)
#   VENV    the folder of the environment (.venv)

install() { # install [EXTRA]
    venv=${VENV:-.venv}
    python=$venv/bin/python
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "Python 3.11 or newer is needed. PYTHON=/path/to/python3 sh $0 names one that is not python3." >&2
            exit 1
        fi
        # Where Debian's python3-venv is missing, this says so.
        "${PYTHON:-python3}" -m venv "$venv" || exit 1
    fi
    # Known by what decides what is installed: an environment that is up to date costs no look at the network.
    wanted="$(pwd) $(cat pyproject.toml setup.cfg constraints.txt | cksum)"
    if [ "$(cat "$venv/installed-${1:-plain}" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing ser-batch and the libraries that it needs into $venv, once. This takes minutes."
        quiet=--quiet
        [ -t 1 ] && quiet=
        "$python" -m pip install $quiet -c constraints.txt -e ".${1:+[$1]}" || exit 1
        for extra in plain ${1:-}; do
            echo "$wanted" >"$venv/installed-$extra"
        done
    fi
}
