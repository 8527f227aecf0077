#!/bin/sh
# Installs portdistrict for this user: the program, its man pages and its completions. Nothing else is touched.
#   ./install.sh --dev          build from this checkout and install
#   ./install.sh --uninstall    remove what an install put there; keys, ledger and settings stay
#   --prefix DIR                somewhere else than ~/.local
# Nothing but functions up to the last line, which calls the first one: a download that breaks off runs nothing.

portdistrict_install() {
  set -eu
  lane='' prefix=${PREFIX:-${HOME:-}/.local}
  while [ $# -gt 0 ]; do
    case $1 in
      --dev | --uninstall) lane=$1 ;;
      --prefix)
        [ $# -ge 2 ] || fail 2 '--prefix needs a folder' './install.sh --dev --prefix DIR'
        prefix=$2
        shift
        ;;
      --prefix=*) prefix=${1#--prefix=} ;;
      -h | --help)
        usage
        return 0
        ;;
      --stable | --nightly | --version | --version=* | --from | --from=*)
        fail 1 "$1 comes with the first release; until then there is only --dev" \
          'git clone the project, then: ./install.sh --dev'
        ;;
      *) fail 2 "unknown argument: $1" './install.sh --help' ;;
    esac
    shift
  done
  case $prefix in
    /.local | '') fail 2 'HOME is not set, so there is no place to install to' './install.sh --dev --prefix DIR' ;;
    /*) ;;
    *) prefix=$(pwd)/$prefix ;;
  esac
  program=$prefix/bin/portdistrict
  pages=$prefix/share/man/man1
  bash_script=$prefix/share/bash-completion/completions/portdistrict
  zsh_script=$prefix/share/zsh/site-functions/_portdistrict
  fish_script=$prefix/share/fish/vendor_completions.d/portdistrict.fish
  case $lane in
    --dev) from_checkout ;;
    --uninstall) uninstall ;;
    *)
      say 'error: there is no release to download yet'
      say '  hint: in a checkout of the project: ./install.sh --dev'
      exit 1
      ;;
  esac
}

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $2"
  say "  hint: $3"
  exit "$1"
}

usage() {
  cat <<'END'
Install portdistrict for this user

usage: ./install.sh --dev [--prefix DIR]
       ./install.sh --uninstall [--prefix DIR]

  --dev          build from this checkout and install the program, its man pages and completions
  --uninstall    remove them again; keys, ledger and settings stay
  --prefix DIR   install under DIR instead of ~/.local

Prebuilt programs come with the first release.
END
}

from_checkout() {
  case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
  here=$(cd "$here" && pwd)
  if [ ! -f "$here/ci/build" ] || [ ! -f "$here/Cargo.toml" ]; then
    fail 1 '--dev works in a checkout of the project' 'cd into the checkout, then: ./install.sh --dev'
  fi
  built=$("$here/ci/build" --unchecked)

  put 755 "$built" "$program"
  mkdir -p "$pages"
  # Pages of commands that no longer exist go first.
  rm -f "$pages"/portdistrict.1 "$pages"/portdistrict-*.1
  for page in "$here"/man/*.1; do put 644 "$page" "$pages/${page##*/}"; done
  put 644 "$here/completions/portdistrict.bash" "$bash_script"
  put 644 "$here/completions/_portdistrict" "$zsh_script"
  put 644 "$here/completions/portdistrict.fish" "$fish_script"

  say "installed: $("$program" --version) in $program"
  say "           man pages in $pages"
  say "           completions for bash, zsh and fish under $prefix/share"
  case ":${PATH:-}:" in
    *":$prefix/bin:"*) found=$(command -v portdistrict || :) ;;
    *)
      found=$program
      say "warning: $prefix/bin is not on PATH"
      say "  hint: export PATH=\"$prefix/bin:\$PATH\""
      ;;
  esac
  if [ "$found" != "$program" ]; then say "warning: another portdistrict comes first on PATH: $found"; fi
  say
  say 'next:'
  say '  portdistrict init'
  say '  portdistrict machine deploy --on local --label home'
}

# Written beside and moved over, so that a running program keeps its file and a broken copy is never found.
put() {
  mkdir -p "${3%/*}"
  cp "$2" "$3.new.$$"
  chmod "$1" "$3.new.$$"
  mv -f "$3.new.$$" "$3"
}

uninstall() {
  gone=0
  for file in "$program" "$pages"/portdistrict.1 "$pages"/portdistrict-*.1 "$bash_script" "$zsh_script" "$fish_script"; do
    [ -f "$file" ] || continue
    rm -f "$file"
    gone=$((gone + 1))
  done
  if [ "$gone" = 0 ]; then say "nothing of portdistrict is installed under $prefix"; else say "removed $gone files under $prefix"; fi
  say 'Keys, ledger and settings were left alone; machines that still run are ended with: portdistrict machine destroy'
}

portdistrict_install "$@"
