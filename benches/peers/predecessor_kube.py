#!/usr/bin/env python3
"""The predecessor's way to its lines: the Kubernetes client for Python streams a pod's log, and each line goes through
its loop, by the clock.

    predecessor_kube.py URL LAST    until LAST is banned
"""

import re
import sys
import time
from collections import defaultdict, deque

from kubernetes import client, watch

from predecessor import PATTERNS

url, last = sys.argv[1:]
configuration = client.Configuration()
configuration.host = url
client.Configuration.set_default(configuration)
patterns = [re.compile(pattern) for pattern in PATTERNS]
line_regex = re.compile(r'^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+')
hits, banned = defaultdict(deque), {}
lines = 0
read = client.CoreV1Api().read_namespaced_pod_log
for line in watch.Watch().stream(read, name="p", namespace="n", container="nginx", follow=True):
    lines += 1
    match = line_regex.match(line)
    if not match:
        continue
    path = match.group(2)
    for pattern in patterns:
        if pattern.search(path):
            break
    else:
        continue
    address = match.group(1)
    if address in banned:
        continue
    now = time.time()
    queue = hits[address]
    queue.append((now, pattern.pattern))
    while queue and queue[0][0] < now - 120:
        queue.popleft()
    if len(queue) >= 3 or len({pattern for _, pattern in queue}) >= 2:
        banned[address] = now
        del hits[address]
        if address == last:
            break
print(f"lines={lines} bans={len(banned)}")
