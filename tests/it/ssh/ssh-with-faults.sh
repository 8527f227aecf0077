#!/bin/bash
# Stands before the real ssh, and once does as the file `fault` beside it says: `STEP KIND`. A step is an act of the script on the
# server, or `connect`. Each step is noted in `steps`.
here=$(dirname "$0")
step=${*: -1}
step=${step##* }
case " $* " in
  *' -O exit '* | *' -G '*) exec /usr/bin/ssh "$@" ;;
  *' ControlMaster=yes '*) step=connect ;;
esac
echo "$step" >>"$here/steps"
read -r where kind 2>/dev/null <"$here/fault"
[ "$where" = "$step" ] || [ "$where" = all ] || exec /usr/bin/ssh "$@"
[ "$where" = all ] || rm -f "$here/fault"
lost() {
  echo 'Connection to server closed by remote host.' >&2
  exit 255
}
case $kind in
  lost-before) lost ;;
  # The server did it, and nobody heard of it.
  lost-after)
    /usr/bin/ssh "$@" >/dev/null 2>&1
    lost
    ;;
  # Broken off while the program is sent, or whatever else.
  lost-midway)
    timeout --signal=KILL 0.3 /usr/bin/ssh "$@"
    lost
    ;;
  killed-before)
    kill -KILL $PPID
    exit 255
    ;;
  killed-after)
    /usr/bin/ssh "$@" >/dev/null 2>&1
    kill -KILL $PPID
    exit 255
    ;;
  ctrl-c)
    kill -INT $PPID
    exec sleep 60 >/dev/null 2>&1
    ;;
  silence) exec sleep 60 2>/dev/null ;;
  # Somebody else filled the disk since it was looked at.
  disk-full)
    "$here/fill"
    exec /usr/bin/ssh "$@"
    ;;
esac
