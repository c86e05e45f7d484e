#!/usr/bin/env bash
# Make .venv from requirements.lock: uv, a Python, packages, armflow itself (editable), system libraries.
# Returns at once when .venv is up to date. PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAMP=.venv/armflow.stamp
wanted=$(cat requirements.lock pyproject.toml scripts/setup.sh | sha256sum)
[[ -f $STAMP && $(<"$STAMP") == "$wanted" ]] && exit 0

say() { printf '\033[1m%s\033[0m\n' "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

[[ $(uname -sm) == "Linux x86_64" ]] || fail "requirements.lock is for Linux on x86_64, this is $(uname -sm)"

# Install as root, name otherwise.
apt_packages() {
  if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
    say "installing system packages: $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  else
    say "please install: sudo apt-get install $*"
    false
  fi
}

# The uv on PATH if it runs (a pyenv shim may not), else the one that the lock pins.
find_uv() {
  if uv --version >/dev/null 2>&1; then
    command -v uv
    return
  fi
  if ! .uv/bin/uv --version >/dev/null 2>&1; then
    say "getting uv"
    python3 -m venv .uv >/dev/null 2>&1 || { apt_packages python3-venv ca-certificates && python3 -m venv .uv; } || return
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >.uv/requirements.txt
    .uv/bin/pip install --quiet --require-hashes --only-binary :all: -r .uv/requirements.txt || return
  fi
  echo .uv/bin/uv
}

# Print the real path of an interpreter that fits: a pyenv shim of a version that is not active does not run at all.
fits() { "$1" -c 'import sys; (3, 12) <= sys.version_info[:2] <= (3, 13) or sys.exit(1); print(sys.executable)' 2>/dev/null; }

find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    fits "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3.12 python3.13 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23].*/bin/python; do
    fits "$candidate" && return
  done
  say "there is no Python 3.12 or 3.13 here: getting one"
  "$uv" python install 3.12 >&2 && "$uv" python find --managed-python 3.12
}

uv=$(find_uv) || fail "there is neither uv nor a python3 that can make virtual environments; install one of them"
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300} # s; some wheels have hundreds of MB
if ! fits .venv/bin/python >/dev/null; then
  python=$(find_python) || fail "no Python 3.12 or 3.13; install one and run again with PYTHON=/path/to/it"
  rm -rf .venv
  "$uv" venv --quiet --python "$python" .venv
fi
say "installing packages into .venv (several GB the first time, torch comes with CUDA)"
# Wheels only, so that nothing needs a compiler; the SDK of Feetech's motors has none, but is plain Python.
"$uv" pip install --python .venv/bin/python --require-hashes --only-binary :all: --no-binary feetech-servo-sdk \
  --compile-bytecode -r requirements.lock
"$uv" pip install --python .venv/bin/python --no-deps --no-build-isolation --editable . \
  --editable plugins/lerobot_robot_armflow --editable plugins/lerobot_teleoperator_armflow

# Not having these stops neither everything nor silently: what needs them names them again.
works() { .venv/bin/python -c "$1" >/dev/null 2>&1; }
missing=()
works 'from armflow.robot.twin.gl import context; context(16, 16)' || missing+=(libegl1 libgl1-mesa-dri) # or libosmesa6
works 'import ctypes; ctypes.CDLL("libusb-1.0.so.0")' || missing+=(libusb-1.0-0) # RealSense cameras
# Some tests press real keys, on a display of their own or in a browser. Without these they are skipped; nothing else needs them.
if [[ $EUID -eq 0 ]] && ! { command -v Xvfb && command -v xdotool && command -v chromium; } >/dev/null; then
  apt_packages xvfb xdotool chromium || say "without xvfb, xdotool and chromium keyboard, browser and report are not tested"
fi
if [[ ${#missing[@]} -eq 0 ]] || apt_packages "${missing[@]}"; then
  printf '%s' "$wanted" >"$STAMP"
fi
