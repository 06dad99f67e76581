#!/usr/bin/env python3
"""One pod's log as the API server streams it, at a fixed rate: ip-sentry's operator against the predecessor's loop.

    stream.py --peers FOLDER --serve PROGRAM --follow PROGRAM [--rate N] [--rounds N]

The server is a stand-in on this machine; what is measured is whoever reads. Each reads the same 200,000 lines, and ends
when it has banned the address of the last two. The lag is that from the line's stamp to the decision, with everything
in between: the server's chunk, the socket, the HTTP client, and the line's way to the policy.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from rounds import CPU, Usage, peak_rss

HERE = Path(__file__).parent
LAST = "203.0.113.77"
LINES = 200_000 + 2
CHUNKS = {"a line a chunk": 0, "32 KiB a chunk": 32768}


def run(args, chunk, reader):
    """One log to its end: what the reader took, and what it said."""
    words = [args.serve, "--rate", str(args.rate), "--chunk", str(chunk), "--last", LAST, args.peers / "logs/small.log"]
    other = sorted(os.sched_getaffinity(0) - {CPU})[:1] or [CPU]
    server = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=lambda: os.sched_setaffinity(0, other)
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        begin = time.perf_counter()
        child = subprocess.Popen(
            [*reader, url, LAST], stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, {CPU})
        )
        rss = peak_rss(child.pid)
        said = child.stdout.read().decode()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{reader[0]} ended with {child.returncode}")
        figures = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", said)}
        wall = time.perf_counter() - begin
        return Usage(usage.ru_utime + usage.ru_stime, wall), rss, figures
    finally:
        server.kill()
        server.wait()


def main():
    parser = argparse.ArgumentParser()
    for name in ("peers", "serve", "follow"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    python = args.peers / "venv/bin/python"
    if not python.exists():
        print("SKIPPED: the Kubernetes client for Python is not there", file=sys.stderr)
    print(f"{args.rate:,} lines/s, medians of {args.rounds} rounds\n")
    print("| figure | bar | measured | |\n|---|---|---|---|")
    for name, chunk in CHUNKS.items():
        ratios, lags, memory = [], [], []
        for _ in range(args.rounds):
            ours, rss, figures = run(args, chunk, [args.follow])
            if figures["lines"] < LINES:
                sys.exit(f"{figures['lines']} of {LINES} lines came")
            lags.append(figures)
            memory.append(rss)
            rates = f"{ours.cpu / LINES * 1e6:.2f} µs"
            if python.exists():
                theirs, their_rss, found = run(args, chunk, [python, HERE / "predecessor_kube.py"])
                rates += f" against {theirs.cpu / LINES * 1e6:.2f} µs, RSS {rss:.0f} against {their_rss:.0f} MiB"
                rates += f", bans {figures['bans']} and {found['bans']}"
                ratios.append(theirs.cpu / ours.cpu)
            print(f"  {name}: {rates} a line", file=sys.stderr)
        if ratios:
            row(f"{name}: CPU a line, the predecessor's loop", "≥ 15×", f"{median(ratios):.0f}×", median(ratios) >= 15)
        millis = {key: median(lag[key] for lag in lags) / 1000 for key in ("p50", "p99", "longest")}
        row(f"{name}: line sent → decision, p50", "", f"{millis['p50']:.1f} ms", None)
        row(f"{name}: line sent → decision, p99", "≤ 100 ms", f"{millis['p99']:.1f} ms", millis["p99"] <= 100)
        row(f"{name}: RSS", "≤ 26 MiB", f"{max(memory):.1f} MiB", max(memory) <= 26)


def row(what, bar, value, holds):
    verdict = {None: "", True: "held", False: "**missed**"}[holds]
    print(f"| {what} | {bar} | {value} | {verdict} |")


if __name__ == "__main__":
    main()
