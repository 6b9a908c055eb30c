"""Run one command and note how long it took and how much memory it had: launcher.py RESULT.json COMMAND...

A program of its own that imports next to nothing, because the kernel counts what the starting process had in memory as
the started one's peak: a benchmark that holds torch would lend its own size to every small program it measures.
"""

import json
import os
import subprocess
import sys
import time


def main() -> None:
    result, command = sys.argv[1], sys.argv[2:]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peak = None
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    else:  # Windows tells no peak afterwards
        code = process.wait()
    seconds = time.perf_counter() - started
    with open(result, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "peak_mib": peak, "code": code}, file)


if __name__ == "__main__":
    main()
