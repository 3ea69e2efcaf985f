"""What starting a process costs with subprocess: as "spawn loop N" of spawn.c, which is the program that it starts."""

import statistics
import subprocess
import sys
import time

program, n = sys.argv[1], int(sys.argv[2])
times = []
cpu = time.process_time()
for _ in range(n):
    began = time.perf_counter()
    with subprocess.Popen([program, "byte"], stdout=subprocess.PIPE, env={}) as process:
        if process.stdout.read(1) != b"\n":
            sys.exit("no byte came")
        times.append(time.perf_counter() - began)
cpu = time.process_time() - cpu
print(statistics.median(times) * 1e6, cpu / n * 1e6)
