#!/usr/bin/env bash
# Every system package that flywheel needs, in one place. Looks first, and does nothing if all is there.
#   scripts/system-packages.sh            for flywheel and for its tests
#   scripts/system-packages.sh core       for flywheel alone
#   PYTHON=python3.12 scripts/system-packages.sh     to look for the headers of another Python
set -euo pipefail

python=${PYTHON:-python3}
for_tests=yes
[[ ${1-} != core ]] || for_tests=

# A package counts as there when what we want of it works, wherever it came from (pyenv, conda, another distribution).
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() { "$python" -c 'import pathlib, sysconfig; (pathlib.Path(sysconfig.get_path("include")) / "Python.h").stat()' 2>/dev/null; }
has_compiler() { command -v g++ >/dev/null; }
has() { PATH=/usr/local/bin:/usr/bin:/bin type -P "$@" >/dev/null; } # where sandboxed programs look, not a user's own
has_jdk() { has javac && has java; }
has_perl_module() { /usr/bin/perl "-M$1" -e1 2>/dev/null; }
has_daemons() { PATH=$PATH:/usr/sbin:/sbin type -P "$@" >/dev/null; } # Debian keeps them off a user's PATH

has_library() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }

missing_core() {
  has_venv || echo python3-venv   # make install
  has_headers || echo python3-dev # DeepSpeed and Triton compile their operators on first use
  has_compiler || echo g++        # the same
  has bwrap || echo bubblewrap    # isolates programs that a model wrote
  has_library libseccomp.so.2 || echo libseccomp2 # says which system calls they may make
}

# Several machines are namespaces of this one in the tests (iproute2), under a Slurm of their own; nothing of it is
# configured or needs to run on the machine itself.
missing_for_tests() {
  has_daemons ip || echo iproute2
  has_daemons slurmctld slurmd sbatch || echo slurm-wlm
  missing_languages
  has podman || echo podman # programs in containers; runc, since podman's own choice does not start everywhere
  has_daemons runc || echo runc
}

# A row each in flywheel/sandbox/languages.py; the modules are what the tests of MultiPL-E, HumanEval-X and
# MBXP import.
missing_languages() {
  has node || echo nodejs
  has tsc || echo node-typescript
  has bc || echo bc # Bash's only fractions
  has php || echo php-cli
  has_jdk || echo default-jdk-headless
  has gcc || echo gcc
  has go || echo golang-go
  has rustc || echo rustc
  has ruby || echo ruby
  has perl || echo perl
  has lua5.4 || echo lua5.4
  has sqlite3 || echo sqlite3
  has_perl_module Test::Deep || echo libtest-deep-perl
  has_perl_module Data::Compare || echo libdata-compare-perl
  [[ -d /usr/share/gocode/src/github.com/stretchr/testify ]] || echo golang-github-stretchr-testify-dev
  [[ -e /usr/share/java/javatuples.jar ]] || echo libjavatuples-java
  [[ -e /usr/share/lua/5.4/luaunit.lua ]] || echo lua-unit
  [[ -d /usr/share/nodejs/lodash ]] || echo node-lodash
  [[ $(php -m 2>/dev/null) == *mbstring* ]] || echo php-mbstring
}

missing() {
  missing_core
  [[ -z $for_tests ]] || missing_for_tests
}

mapfile -t packages < <(missing)
((${#packages[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
  echo "system packages: please install what this system calls ${packages[*]} (Debian's names); going on without" >&2
  exit 0
fi

if ((EUID == 0)); then
  as_root=()
elif sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  echo "system packages: ${packages[*]} missing, and installing them needs root. Please run:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
  [[ -n $(missing_core) ]] || { echo "system packages: going on, since only tests need them" >&2; exit 0; }
  exit 1
fi

echo "system packages: installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null

mapfile -t packages < <(missing_core)
if ((${#packages[@]})); then
  echo "system packages: $python still lacks what ${packages[*]} gives the system's Python;" \
    "choose another with PYTHON=, or install its headers and venv module" >&2
fi
