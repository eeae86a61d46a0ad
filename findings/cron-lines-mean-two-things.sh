#!/bin/sh
# The same cron line runs on other days, and another number of times, by cronsim than by croniter: a star makes it so.
#
# Versions    cronsim 2.8, croniter 7.0.0, each as it is by default; Debian's cron goes by the rule of the first.
# Expected    A field stands for the set of moments that it names: */2 and 1-31/2 are one set of days. Where day and weekday
#             are both given, either is enough (crontab(5)). And half past two, in the night in which there is no half past
#             two, or two of them, is one thing, however the line is written.
# What it does  By cronsim it matters whether a field begins with a star, whatever follows it: with */2 for the day, day AND
#             weekday have to fit, with 1-31/2 either does; by croniter either always does. Where summer time begins,
#             "30 2 * * *" runs right after the gap by both; "*/30 2 * * *" and "0 30 2 * * *" (six fields, seconds in
#             front) not at all by cronsim. Where it ends, the first runs once by cronsim and twice by croniter.
# Source      cronsim 2.8, cronsim.py: day_and; no special handling where minute or hour begins with a star, or with six
#             fields; crontab(5) of Debian: a field that does "contain the * character". croniter: expand and get_next.
# For us      The timer's cron lines are cronsim's; a line of six fields with one number for the seconds is handled like that
#             of five (clients/tempos_trigger/sources/timer.py). The trigger's reference says what a star does.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" &&
    "$folder/v/bin/pip" install -q --disable-pip-version-check cronsim==2.8 croniter==7.0.0 tzdata==2026.6 ||
    { echo "cronsim 2.8 and croniter 7.0.0 cannot be had (Python 3.11 is the oldest)" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import sys
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim
from croniter import croniter

BERLIN = ZoneInfo("Europe/Berlin")


def times(following, start, end):
    found = []
    while (moment := following()) < end:
        found.append(moment)
    return found


def both(line, start, end):
    """When it runs, by either, from the start to the end; croniter has seconds in front where it is asked."""
    one, other = CronSim(line, start), croniter(line, start, second_at_beginning=len(line.split()) == 6)
    return times(lambda: next(one), start, end), times(lambda: other.get_next(datetime), start, end)


seen = {}
print("days in January 2026 on which it runs                cronsim  croniter")
for line in ("0 0 1-31/2 * 1", "0 0 */2 * 1"):
    one, other = both(line, datetime(2025, 12, 31, 12), datetime(2026, 2, 1))
    seen[line] = len(one), len(other)
    print(f"  {line:50} {len(one):7} {len(other):9}")
for month, day, what in ((3, 29, "begins"), (10, 25, "ends")):
    print(f"runs on the day on which summer time {what}")
    for line in ("30 2 * * *", "0 30 2 * * *", "*/30 2 * * *"):
        start = datetime(2026, month, day, tzinfo=BERLIN)
        one, other = both(line, start, start + timedelta(days=1))
        seen[line, what] = len(one), len(other)
        print(f"  {line:50} {len(one):7} {len(other):9}")
sys.exit(seen != {
    "0 0 1-31/2 * 1": (18, 18), "0 0 */2 * 1": (2, 18),
    ("30 2 * * *", "begins"): (1, 1), ("0 30 2 * * *", "begins"): (0, 1), ("*/30 2 * * *", "begins"): (0, 1),
    ("30 2 * * *", "ends"): (1, 2), ("0 30 2 * * *", "ends"): (2, 2), ("*/30 2 * * *", "ends"): (4, 4),
})
SOURCE
"$folder/v/bin/python" "$folder/run.py"
