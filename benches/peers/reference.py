"""Who must be banned, worked out a second time and plainly: by ip-sentry's rules, or by those of fail2ban's filter.

It shares nothing with the program, and takes no care to be quick. What the two rules differ in is which lines are hits:
ip-sentry looks at the plain form of a path as well, and reads requests whose path holds a space.
"""

import ipaddress
import re
from collections import defaultdict
from datetime import datetime

from predecessor import PATTERNS

LINE = re.compile(rb'^(\S+) \S+ (?:\S.*)?\[([^\[]*?)\] "((?:[^"\\]|\\.)*)" \d{3}(?: |$)')
REQUEST = re.compile(rb"^([A-Z_-]{1,32}) (.+?)(?: HTTP/(?:(?! HTTP/).)*)?$", re.DOTALL)
PREDECESSOR = re.compile(rb'^(\S+) \S+ \S+ \[(.+?)\] "(?:[A-Z]+) (\S+) \S+" \d+')
FAIL2BAN = re.compile(rb'^(\S+) \S+ \S+ \[([^\]]*)\] "[A-Z]+ (\S*)')
COMPILED = [(pattern, re.compile(pattern.encode())) for pattern in PATTERNS]

# Networks that are nobody's: never counted.
SPECIAL = [
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8")
]


def plain(target):
    """The plain form of a request target: every encoding undone, the path resolved, the query as it was."""
    absolute = re.match(rb"[A-Za-z0-9]{1,13}://[^/?#]*", target)
    if absolute:
        target = target[absolute.end() :]
    path, mark, query = re.match(rb"([^?#]*)(\??)([^#]*)", target).groups()
    while True:
        decoded = re.sub(rb"%([0-9A-Fa-f]{2})|\\x([0-9A-Fa-f]{2})|%[uU]00([0-7][0-9A-Fa-f])", byte, path)
        decoded = re.sub(rb"[\xc0\xc1][\x80-\xbf]", lambda found: bytes([(found[0][0] & 1) << 6 | found[0][1] & 63]), decoded)
        if decoded == path:
            break
        path = decoded
    kept = []
    names = [segment.split(b";")[0] for segment in re.split(rb"[/\\]", path)]
    for name in names:
        if name == b"..":
            del kept[-1:]
        elif name not in (b"", b"."):
            kept.append(name)
    ends_open = names[-1] in (b"", b".", b"..")
    return b"/" + b"/".join(kept) + (b"/" if ends_open and kept else b"") + mark + query


def byte(found):
    return bytes([int(next(group for group in found.groups() if group), 16)])


def pattern_of(target):
    """The first pattern that matches, in the plain form or as it stands."""
    both = (plain(target), target)
    return next((text for text, pattern in COMPILED if any(pattern.search(one) for one in both)), None)


def ours(line):
    """Address, time, target and pattern of a hit by ip-sentry's rules."""
    match = LINE.match(line)
    request = match and REQUEST.match(match[3])
    if not request:
        return None
    target = request[2]
    pattern = pattern_of(target)
    return (match[1], match[2], target, pattern) if pattern else None


def by_expression(line):
    """The same with the predecessor's expression for the line, whose path has no space."""
    match = PREDECESSOR.match(line)
    if not match:
        return None
    pattern = pattern_of(match[3])
    return (match[1], match[2], match[3], pattern) if pattern else None


def is_plain(target):
    """Whether those who look at targets as they stand see the same: no space, and the same pattern."""
    return b" " not in target and next((text for text, one in COMPILED if one.search(target)), None) == pattern_of(target)


def fail2ban(line):
    """The same by the filter of fail2ban's: the patterns behind the method, as it stands."""
    match = FAIL2BAN.match(line)
    if not match:
        return None
    pattern = next((text for text, pattern in COMPILED if pattern.search(match[3])), None)
    return (match[1], match[2], match[3], pattern) if pattern else None


def hits(log, rules):
    """All hits of public clients in a log, by address, in the log's order."""
    found = defaultdict(list)
    with open(log, "rb") as lines:
        for line in lines:
            hit = rules(line.rstrip(b"\n"))
            if not hit:
                continue
            try:
                address = ipaddress.ip_address(hit[0].decode())
            except ValueError:
                continue
            if not any(address in network for network in SPECIAL):
                at = datetime.strptime(hit[1].decode(), "%d/%b/%Y:%H:%M:%S %z")
                found[address].append((int(at.timestamp()), hit[3], hit[2]))
    return found


def bans(found, hits_wanted, different_wanted, window):
    """The first ban of each address: when, how many hits, the pattern of the last."""
    banned = {}
    for address, all_hits in found.items():
        kept = []
        for at, pattern, _ in all_hits:
            kept = [hit for hit in kept if hit[0] >= at - window] + [(at, pattern)]
            different = len({pattern for _, pattern in kept})
            if len(kept) >= hits_wanted or (different_wanted and different >= different_wanted):
                banned[address] = (at, len(kept), pattern)
                break
    return banned
