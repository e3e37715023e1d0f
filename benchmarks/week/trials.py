"""Failures and their durations: in seconds of real time, days of the simulated week."""

KILLS = 20
KILL_DAYS = 5  # the last two days are left in peace, to see the memory of one life
MAIL_DOWN_DAY, DISK_FULL_DAY, LOCKED_DAY = 3, 4, 5
DISK_FULL_S, LOCKED_S = 180, 150
DISK_MB = 4000
RESTART_S = 5
SEED = 617
