#!/bin/sh
# A program that does what its event says, and most of it is bad: the event's first word is the deed.
read -r deed rest
case $deed in
echo) echo "$rest" ;;
env) eval "printf %s \"\$$rest\"" ;;
told) cat <&"$TEMPOS_EVENT_FD" ;;
where) pwd ;;
exit) echo "leaves with $rest" >&2; exit "$rest" ;;
loop) while :; do :; done ;;
large) while :; do echo "$rest$rest$rest$rest"; done ;;
shouts) while :; do echo "$rest$rest$rest$rest" >&2; done ;;
crash) kill -SEGV $$ ;;
# It ends, and what it started holds its output open, in its group or in a session of its own.
leaves) sleep 600 & echo "$!" ;;
escapes) setsid sh -c 'sleep 600 & sleep 600' & echo "$!" ;;
waits) setsid sleep 600 & sleep 600 ;;
closes) exec >&-; sleep 0.1; exit 0 ;;
bomb) b() { [ "$1" = 0 ] && exec sleep 600; b $(($1 - 1)) & b $(($1 - 1)); }; b 6 ;;
limits) ulimit -d; ulimit -c; echo "$(id -un)" ;;
ignores) trap '' TERM INT HUP; sleep 600 ;;
esac
