"""Runs commands in turn, A B C A B C, so that whatever else the machine does falls on all of them alike.

What counts is the processor time of a finished child as the kernel accounts it (wait4), pinned to one processor.
Ratios are taken within a round, and their median is shown: a single figure of a busy machine says little.
"""

import os
import statistics
import subprocess
import time
from dataclasses import dataclass, field

CPU = int(os.environ.get("BENCH_CPU", "0"))
PATIENCE = float(os.environ.get("BENCH_PATIENCE", "2"))


@dataclass
class Usage:
    """What one run took, in seconds of processor and of the clock."""

    cpu: float
    wall: float


@dataclass
class Peer:
    """Something to measure: a name, what to run, and how many lines it reads."""

    name: str
    run: callable
    lines: int
    runs: list = field(default_factory=list)

    def cpu(self):
        return statistics.median(usage.cpu for usage in self.runs)

    def rate(self):
        """Lines for each second of the processor."""
        return self.lines / self.cpu()


def command(*words, env=None):
    """A run of a program, without its output."""

    def run():
        begin = time.perf_counter()
        child = subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=pin,
        )
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError(f"{words[0]} ended with {child.returncode}: {said.decode(errors='replace')[-2000:]}")
        wall = time.perf_counter() - begin
        return Usage(usage.ru_utime + usage.ru_stime, wall)

    return run


def peak_rss(pid):
    """The most memory of a child until it ends, in MiB. What wait4 says counts what we held when it was forked."""
    peak = 0
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        with open(f"/proc/{pid}/status") as status:
            own = (line for line in status if line.startswith("VmHWM:"))
            peak = max(peak, int(next(own, "VmHWM: 0").split()[1]))
        time.sleep(0.005)
    return peak / 1024


def peak_rss_of(*words):
    """The same of a program, without its output."""
    words = [str(word) for word in words]
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = peak_rss(child.pid)
    if child.wait():
        raise RuntimeError(f"{words[0]} ended with {child.returncode}")
    return peak


def pin():
    os.sched_setaffinity(0, {CPU})


def interleave(peers, rounds, warm=True):
    """Runs all peers once to warm the caches, and then in turn."""
    if warm:
        for peer in peers:
            peer.run()
    for _ in range(rounds):
        for peer in peers:
            wait_until_idle()
            peer.runs.append(peer.run())


def ratio(peer, ours, less=None):
    """How much more processor a line costs a peer than us: the median over rounds. `less` is the peer's mere start."""
    start = less.cpu() if less else 0.0
    per_line = [(usage.cpu - start) / peer.lines for usage in peer.runs]
    return statistics.median(theirs / (own.cpu / ours.lines) for theirs, own in zip(per_line, ours.runs))


def wait_until_idle():
    """Waits a little for a moment in which nobody else wants the processor."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        before = ticks()
        time.sleep(0.1)
        idle, total = (new - old for new, old in zip(ticks(), before))
        if total and idle / total > 0.8:
            return


def ticks():
    with open("/proc/stat") as stat:
        for line in stat:
            name, *values = line.split()
            if name == f"cpu{CPU}":
                values = [int(value) for value in values]
                return values[3] + values[4], sum(values[:8])
    return 0, 0
