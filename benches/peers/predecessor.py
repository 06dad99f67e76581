#!/usr/bin/env python3
"""The predecessor's loop over a log, by the lines' own time: one expression for the line, the patterns tried one after
the other, the hits of each address in a deque.

    predecessor.py LOG [--hits N] [--different N] [--window SECONDS]

Prints the bans, one a line: address, when, how many hits, the pattern of the last. Written from its description.
"""

import argparse
import re
from collections import defaultdict, deque
from datetime import datetime

PATTERNS = [
    "^/wp-admin", r"^/wp-login\.php", r"^/xmlrpc\.php", r"^/\.env", r"^/\.git/", r"^/\.aws/", r"^/\.ssh/",
    "^/phpmyadmin", "^/manager/html", r"^/admin\.php", r"^/config\.php", r"^/setup\.php", r"^/shell\.php",
    r"^/eval\.php", "^/boaform/",
]  # fmt: skip
LINE = re.compile(r'^(\S+) \S+ \S+ \[(.+?)\] "(?:[A-Z]+) (\S+) \S+" \d+')


def bans(log, hits_wanted, different_wanted, window):
    patterns = [re.compile(pattern) for pattern in PATTERNS]
    hits, banned = defaultdict(deque), {}
    with open(log, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            match = LINE.match(line)
            if not match:
                continue
            path = match.group(3)
            for pattern in patterns:
                if pattern.search(path):
                    break
            else:
                continue
            address = match.group(1)
            if address in banned:
                continue
            now = datetime.strptime(match.group(2), "%d/%b/%Y:%H:%M:%S %z").timestamp()
            queue = hits[address]
            queue.append((now, pattern.pattern))
            while queue and queue[0][0] < now - window:
                queue.popleft()
            different = len({pattern for _, pattern in queue})
            if len(queue) >= hits_wanted or (different_wanted and different >= different_wanted):
                banned[address] = (int(now), len(queue), pattern.pattern)
                del hits[address]
    return banned


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--hits", type=int, default=3)
    parser.add_argument("--different", type=int, default=2)
    parser.add_argument("--window", type=float, default=120)
    args = parser.parse_args()
    for address, ban in sorted(bans(args.log, args.hits, args.different, args.window).items()):
        print(address, *ban)
