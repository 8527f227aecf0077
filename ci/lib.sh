# shellcheck shell=bash
# Sourced by the scripts beside it: where things are built, how they talk, which tools they need.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Outside the checkout, so that a fresh clone finds what an earlier one built and `git status` stays clean.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/portdistrict/target}
# Incremental files only pay for someone who edits; a clone each time would pile them up.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

say() { printf '%s\n' "$*" >&2; }
step() { printf '\n== %s\n' "$*" >&2; }
die() {
  say "error: $1"
  [ $# -lt 2 ] || say "  hint: $2"
  exit 1
}
# A command, or a file by its path.
have() { command -v "$1" >/dev/null 2>&1 || { [ "${1#/}" != "$1" ] && [ -e "$1" ]; }; }
in_ci() { [ "${CI:-}" = true ]; }
is_root() { [ "$(id -u)" = 0 ]; }

# Installs the packages of missing commands: words are command=package. Without root it only says what is missing.
# What is missing afterwards stands in $missing, one command a word.
missing=
want() {
  local pair packages=()
  for pair in "$@"; do have "${pair%%=*}" || packages+=("${pair#*=}"); done
  if [ ${#packages[@]} -gt 0 ] && is_root && have apt-get; then
    say "installing: ${packages[*]}"
    # One bad package must not keep the others away, so a failed try is followed by one for each.
    apt_install "${packages[@]}" || for pair in "${packages[@]}"; do apt_install "$pair" || say "could not install $pair"; done
  fi
  missing=
  for pair in "$@"; do have "${pair%%=*}" || missing="$missing ${pair%%=*}"; done
}
apt_updated=
apt_install() {
  if [ -z "$apt_updated" ]; then
    apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are there"
    apt_updated=yes
  fi
  # Services that a package brings are not to be started: tests start their own, on ports of their own.
  local policy=/usr/sbin/policy-rc.d made=
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=yes; }
  local status=0
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
  [ -z "$made" ] || rm -f "$policy"
  return "$status"
}

# Python packages in a folder of their own, whole or not at all: `python_packages FOLDER PACKAGE==VERSION…`.
python_packages() {
  local folder=$1
  shift
  [ ! -d "$folder" ] || return 0
  rm -rf "$folder.part"
  python3 -m pip install -q --target "$folder.part" "$@" && mv "$folder.part" "$folder"
}

# Google's own clients, and its words for its interfaces.
google_clients() {
  python_packages "$1" google-api-python-client==2.202.0 google-cloud-compute==1.57.0 google-cloud-storage==3.17.1 gcp-storage-emulator==2026.7.19
}

# What compiling needs. The C compiler is for SQLite and for the assembly of ring and aws-lc.
want_toolchain() {
  want cc=gcc
  [ -z "$missing" ] || die "no C compiler" "apt-get install gcc"
  have cargo || die "no Rust toolchain (cargo is not on PATH)" "install Rust 1.92 or newer, then run this again"
}

# Cargo for the static release: `release_cargo build …`. With --target the flag stays off build scripts and procedural macros,
# which cannot be static. An own RUSTFLAGS would replace it, so that one is put aside. In a static binary getrandom does not
# find libc's function by name and would want /dev/random, which an empty root has not: so it is told to call it.
release_target() { rustc -vV | sed -n 's/^host: //p'; }
release_cargo() {
  local target command=$1
  target=$(release_target)
  shift
  case "$target" in *-linux-*) ;; *) die "the release binary is for Linux, this is $target" ;; esac
  env -u RUSTFLAGS "CARGO_TARGET_$(printf %s "$target" | tr 'a-z-' 'A-Z_')_RUSTFLAGS=-C target-feature=+crt-static --cfg=getrandom_backend=\"linux_getrandom\"" \
    cargo "$command" --release --locked --target "$target" "$@"
}

# Where cargo puts what it builds for the profile folder $1 (debug, release), as seen by others.
built() { printf '%s/%s/portdistrict\n' "$CARGO_TARGET_DIR" "$1"; }
