"""The command line."""

import time

started = time.perf_counter()  # of the program, before it imports anything large
