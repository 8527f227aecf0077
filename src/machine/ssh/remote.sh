# What portdistrict does on a server, one act a call. The values stand before this text as pd_NAME='…'; a stream, where
# there is one, follows it on standard input. What is for the caller is a line `pd:NAME=VALUE`.
set -u
umask 022
LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH

pd_bin=/usr/local/lib/portdistrict/bin
pd_states=/var/lib/private/portdistrict
pd_links=/var/lib/portdistrict
pd_units=/etc/systemd/system
pd_name=portdistrict-$pd_label.service
pd_unit=$pd_units/$pd_name
pd_state=$pd_states/$pd_label
pd_link=$pd_links/$pd_label

say() { printf 'pd:%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\n' ' ')"; }
# The code tells the caller what to do about it; the text is for people.
fail() {
  say failed "$1 $2"
  exit 1
}
must() {
  what=$1
  shift
  why=$("$@" 2>&1) || fail io "cannot $what: $why"
}
# Replaces a file: there is the old content or the new one, never a part.
put() {
  new=$1.pd-new
  # `cat`, because not every shell's printf says why it cannot write.
  why=$({ umask 077 && printf '%s' "$3" | cat >"$new" && chmod "$2" "$new" && mv -f "$new" "$1"; } 2>&1) && return 0
  rm -f "$new"
  fail io "cannot write $1: $why"
}
is_root() { [ "$(id -u)" = 0 ]; }
up() { if is_root; then "$@"; else sudo -n -- "$@"; fi; }
# The nearest folder that is there.
near() {
  folder=$1
  while [ ! -d "$folder" ]; do folder=${folder%/*}; done
  printf '%s' "${folder:-/}"
}
# Whose a thing is by its mark: nobody's, ours or another's.
whose() {
  found=$(up head -n 1 "$1" 2>/dev/null) || { printf none; return; }
  if [ "$found" = "$2" ]; then printf ours; else printf other; fi
}
unit_whose() { whose "$pd_unit" "$pd_mark"; }
# A folder without a mark is half made, or half removed; systemd makes none there.
state_whose() {
  if ! up test -d "$pd_state"; then printf none; elif ! up test -e "$pd_state/owner"; then printf half; else whose "$pd_state/owner" "$pd_owner"; fi
}
only_ours() {
  [ "$(unit_whose)" != other ] || fail other "$pd_unit is not of this owner"
  [ "$(state_whose)" != other ] || fail other "$pd_state is not of this owner"
}
property() { systemctl show --property "$1" "$pd_name" 2>/dev/null | sed 's/^[^=]*=//'; }

act_facts() {
  root=yes
  if is_root; then say root root; elif why=$(sudo -n true 2>&1); then say root sudo; else
    root=
    say root "no $why"
  fi
  say system "$(. /etc/os-release 2>/dev/null && printf '%s' "${PRETTY_NAME-}")"
  say architecture "$(uname -m)"
  say time "$(date +%s)"
  [ ! -d /run/systemd/system ] || say systemd "$(systemctl --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')"
  for tool in awk chmod chown cp dd df head journalctl mv rm rmdir sed sha256sum systemctl tr; do
    command -v "$tool" >/dev/null || say missing "$tool"
  done
  for folder in "$pd_bin" "$pd_states" "$pd_units"; do
    folder=$(near "$folder")
    say space "$(df -Pk "$folder" 2>/dev/null | awk 'NR == 2 { print $4 }') $folder"
    [ -z "$root" ] || up test -w "$folder" 2>/dev/null || say readonly "$folder"
  done
  [ ! -s /proc/net/if_inet6 ] || say ipv6 "$(cat /proc/sys/net/ipv6/bindv6only 2>/dev/null)"
  for port in $(awk '$4 == "0A" { split($2, a, ":"); print a[2] }' /proc/net/tcp /proc/net/tcp6 2>/dev/null); do say listens "$port"; done
  case $(up ufw status 2>/dev/null) in *'Status: active'*) say firewall ufw ;; esac
  case $(up firewall-cmd --state 2>&1) in running) say firewall firewalld ;; esac
  [ -n "$pd_label" ] || return 0
  say unit "$(unit_whose)"
  say state "$(state_whose)"
  [ -n "$pd_program" ] && [ -e "$pd_bin/$pd_program" ] || return 0
  case $(sha256sum <"$pd_bin/$pd_program") in "$pd_digest"*) say program present ;; *) say program damaged ;; esac
}

act_push() {
  must "make the folder $pd_bin" mkdir -p "$pd_bin"
  new=$pd_bin/.$pd_program.$$
  trap 'rm -f "$new"' EXIT
  trap 'exit 1' HUP INT TERM PIPE
  why=$({ head -c "$pd_size" >"$new"; } 2>&1) || fail io "cannot write $new: $why"
  case $(sha256sum <"$new") in "$pd_digest"*) ;; *) fail digest "what arrived is not what was sent" ;; esac
  must "allow to run $new" chmod 0755 "$new"
  sync "$new" 2>/dev/null || sync
  why=$("$new" --version 2>&1) || fail exec "$why"
  case $why in portdistrict\ *) ;; *) fail exec "it says: $why" ;; esac
  must "name $pd_bin/$pd_program" mv -f "$new" "$pd_bin/$pd_program"
  # Where SELinux rules, a program needs its label.
  if command -v restorecon >/dev/null; then restorecon -F "$pd_bin/$pd_program" 2>/dev/null; fi
  say program "$why"
}

act_configure() {
  only_ours
  [ "$(unit_whose)" != ours ] || must "stop $pd_name" systemctl stop "$pd_name"
  must "clear $pd_state" rm -rf "$pd_state"
  umask 077
  [ -d /var/lib/private ] || must "make /var/lib/private" mkdir /var/lib/private
  # The owner of the folder is root, so that systemd gives it, with all that is in it, to the user that it makes.
  must "make the folder $pd_state" mkdir -p "$pd_state"
  put "$pd_state/owner" 0600 "$pd_owner"
  put "$pd_state/cover" 0600 "$pd_cover"
  [ -z "$pd_seed" ] || put "$pd_state/seed" 0600 "$pd_seed"
  [ -z "$pd_tor" ] || put "$pd_state/arti.toml" 0600 "$pd_tor"
  put "$pd_state/node.toml" 0600 "$pd_config"
}

act_install() {
  only_ours
  put "$pd_unit" 0644 "$pd_unit_text"
  must "have systemd read $pd_unit" systemctl daemon-reload
  must "enable $pd_name" systemctl enable --quiet "$pd_name"
}

# Waits until the service is up; says on the way what its node says. 1 if it will not be.
await() {
  end=$(($(date +%s) + pd_budget))
  told=
  while :; do
    now=$(up "$(program_in_use)" node status --state-dir "$pd_state/node" --json 2>/dev/null | head -c 65536 | tr -d '\n') || now=
    if [ -n "$now" ] && [ "$now" != "$told" ]; then
      say node "$now"
      told=$now
    fi
    case "$(property ActiveState)/$(property SubState)/$(property NRestarts)" in
      active/*) return 0 ;;
      activating/auto-restart/* | activating/*/[1-9]*)
        why="it ended: $(property Result)"
        return 1
        ;;
      activating/* | reloading/* | deactivating/*) ;;
      *)
        why="it does not run: $(property Result)"
        return 1
        ;;
    esac
    if [ "$(date +%s)" -ge "$end" ]; then
      why="it said nothing for $pd_budget seconds"
      return 1
    fi
    sleep 0.2 2>/dev/null || sleep 1
  done
}
program_in_use() { sed -n 's/^ExecStart="\([^"]*\)".*/\1/p' "$pd_unit"; }
last_words() {
  journalctl --unit "$pd_name" --output cat --lines 4 --no-pager --quiet 2>/dev/null | while IFS= read -r line; do say log "$line"; done
}

act_start() {
  [ "$(unit_whose)" = ours ] || fail gone "there is no $pd_unit of this owner"
  if [ "$(property ActiveState)" = active ]; then say running yes; else say running no; fi
  systemctl reset-failed "$pd_name" 2>/dev/null
  must "start $pd_name" systemctl start --no-block "$pd_name"
  await && return 0
  last_words
  # One that does not get ready is not left trying for ever.
  systemctl stop "$pd_name" 2>/dev/null
  fail unready "$why"
}

act_stop() {
  [ "$(unit_whose)" = ours ] || fail gone "there is no $pd_unit of this owner"
  must "stop $pd_name" systemctl stop "$pd_name"
}

act_power() {
  say unit "$(unit_whose)"
  say active "$(property ActiveState)"
  say program "$(program_in_use 2>/dev/null)"
}

act_logs() {
  set -- --output cat --no-pager --quiet --lines "$pd_lines" "_SYSTEMD_UNIT=$pd_name"
  [ -z "$pd_follow" ] || set -- --follow "$@"
  exec journalctl "$@"
}

# Whether another machine on this server runs a program, also another owner's.
in_use() {
  for other in "$pd_units"/portdistrict-*.service; do
    [ "$other" != "$pd_unit" ] && [ -e "$other" ] && grep -qF "\"$pd_bin/$1\"" "$other" && return 0
  done
  return 1
}

# Removes what it was named, and says what it could not. Again is no harm.
act_remove() {
  case " $pd_what " in *' unit '*)
    rm -f "$pd_unit.pd-new"
    case $(unit_whose) in
      other) say left "$pd_unit: it is not of this owner" ;;
      ours)
        systemctl disable --now --quiet "$pd_name" 2>/dev/null
        if why=$(rm -f "$pd_unit" 2>&1); then say removed "$pd_unit"; else say left "$why"; fi
        systemctl daemon-reload 2>/dev/null
        systemctl reset-failed "$pd_name" 2>/dev/null
        ;;
    esac
    ;;
  esac
  case " $pd_what " in *' state '*)
    case $(state_whose) in
      other) say left "$pd_state: it is not of this owner" ;;
      *)
        for folder in "$pd_link" "$pd_state"; do
          [ -e "$folder" ] || [ -L "$folder" ] || continue
          if why=$(rm -rf "$folder" 2>&1); then say removed "$folder"; else say left "$why"; fi
        done
        ;;
    esac
    ;;
  esac
  for program in $pd_programs; do
    rm -f "$pd_bin/.$program."* 2>/dev/null
    [ -e "$pd_bin/$program" ] || continue
    if in_use "$program"; then
      say kept "$pd_bin/$program: another machine runs it"
    elif why=$(rm -f "$pd_bin/$program" 2>&1); then
      say removed "$pd_bin/$program"
    else
      say left "$why"
    fi
  done
  rmdir "$pd_bin" "${pd_bin%/*}" "$pd_states" "$pd_links" 2>/dev/null
  return 0
}

# The unit and the node's memory as they were, beside the new ones.
restore() {
  systemctl stop "$pd_name" 2>/dev/null
  if [ -e "$pd_state/before/unit" ]; then
    [ ! -d "$pd_state/before/node" ] || { rm -rf "$pd_state/node" && mv "$pd_state/before/node" "$pd_state/node"; }
    put "$pd_unit" 0644 "$(cat "$pd_state/before/unit")
"
    systemctl daemon-reload
  fi
  rm -rf "$pd_state/before" "$pd_state/before.pd-new"
}

act_upgrade() {
  # It goes on to a good end also when nobody listens any more.
  trap '' HUP INT TERM PIPE
  [ "$(unit_whose)" = ours ] || fail gone "there is no $pd_unit of this owner"
  if [ -e "$pd_state/before/unit" ] && [ "$(property ActiveState)" != active ]; then restore; fi
  rm -rf "$pd_state/before" "$pd_state/before.pd-new"
  old=$(program_in_use)
  say before "${old##*/}"
  must "stop $pd_name" systemctl stop "$pd_name"
  keep=$pd_state/before.pd-new
  if ! why=$({ mkdir "$keep" && cp -a "$pd_state/node" "$keep/node" && cp "$pd_unit" "$keep/unit" && mv "$keep" "$pd_state/before"; } 2>&1); then
    rm -rf "$keep"
    systemctl start "$pd_name"
    fail io "cannot keep what there is: $why"
  fi
  if ! why=$( (put "$pd_unit" 0644 "$pd_unit_text") 2>&1) || ! systemctl daemon-reload; then
    restore
    systemctl start "$pd_name"
    fail io "$why"
  fi
  systemctl reset-failed "$pd_name" 2>/dev/null
  systemctl start --no-block "$pd_name"
  if await; then
    rm -rf "$pd_state/before"
    say upgraded yes
    return 0
  fi
  failed=$why
  last_words
  restore
  systemctl reset-failed "$pd_name" 2>/dev/null
  systemctl start --no-block "$pd_name"
  if await; then say back running; else say back "$why"; fi
  say upgraded "no $failed"
}

# Last of all, so that a text that was cut short does nothing.
"act_$pd_act"
say 'done' "$pd_act"
