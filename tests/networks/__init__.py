"""tempos over the networks that people build: devices, disturbances and schedules, one case each.

A case (cases.py) is a network (devices.py, disturbances.py, on ground.py) and what is right there (judge.py).
It is played (play.py) with the fast path native, generic and off: a broker as a process, real clients, and at
the end the accounts of all three compared. What came of it is a row (row.py), written to the file that
TEMPOS_ROWS names, if it names one.
"""
