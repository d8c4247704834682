"""Faults put in on purpose: kills, full disks, damage, second processes, wrong clocks.

    python -m tests.suites.faults --trials 200 --seed 0 --json OUT

Every trial works on a folder of its own that holds what was committed before: two adapters and a
scored run. A fault comes at a moment drawn with the trial's seed. Afterwards nothing that was
committed may be missing or changed, the app's engine starts, the leaderboard shows the other runs
and names a damaged one, and the interrupted work goes on to the result of work that was not.
"""
