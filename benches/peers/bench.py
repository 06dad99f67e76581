#!/usr/bin/env python3
"""What `make bench-peers` runs: first who is banned, then what it costs.

    bench.py --peers FOLDER --program KUBECTL_PLUGIN --measure PROGRAM --write-log PROGRAM [--rounds N]

Bans are compared with a reference in Python, address by address with time, hits and pattern, and with what the peers
ban. Only when they agree is anything measured. The table goes to standard output, as Markdown for RESULTS.md; what is
done meanwhile to standard error.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import fail2ban_server
import reference
from rounds import Peer, command, interleave, peak_rss_of, ratio

HERE = Path(__file__).parent
LINES, SMALL_LINES, CROWDSEC_LINES = 2_000_000, 200_000, 20_000
ALTERNATION = '"[A-Z]+ (?:' + "|".join(pattern[1:] for pattern in reference.PATTERNS) + ")"
THREE_HOURS = 3 * 3600


def say(text):
    print(text, file=sys.stderr, flush=True)


class Disagreement(Exception):
    """Somebody bans whom they should not: nothing is measured then."""


class Bench:
    def __init__(self, args):
        self.peers, self.args = args.peers, args
        self.logs = args.peers / "logs"
        self.access, self.small = self.logs / "access.log", self.logs / "small.log"
        self.fail2ban = self.package("fail2ban")
        self.crowdsec = self.package("crowdsec")
        self.rg = next(iter(sorted(args.peers.glob("ripgrep-15.*/bin/rg"))), None)
        if not self.rg:
            say("SKIPPED: ripgrep 15 is not there")
        self.python = "/usr/bin/python3"
        self.rows, self.notes = [], []

    def package(self, name):
        folder = self.peers / name
        if folder.is_dir():
            return folder
        say(f"SKIPPED: Debian's {name} is not there")
        return None

    # --- who is banned ---

    def replay(self, policy, log):
        """Our bans: address → when, hits, pattern."""
        words = [self.args.program, "replay", "-p", HERE / "policies" / policy, "-o", "json", log]
        answer = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        bans = {}
        for ban in answer["bans"]:
            evidence = ban["spec"]["evidence"]
            at = int(datetime.fromisoformat(evidence["lastSeen"].replace("Z", "+00:00")).timestamp())
            bans[ip_network(ban["spec"]["cidr"]).network_address] = (at, evidence["hits"], ban["spec"]["reason"])
        return bans, answer["summary"]

    def compare(self):
        # For fail2ban's server the log must be of the last hours.
        live = self.logs / "live.log"
        start = str(int(time.time()) - 7200)
        with open(live, "wb") as out:
            words = ["mix", "--lines", str(SMALL_LINES), "--attackers", "500", "--benign", "20000", "--start", start]
            subprocess.run([self.args.write_log, *words], check=True, stdout=out)
        say("who is banned, worked out in Python (about a minute)")
        with ProcessPoolExecutor(2) as pool:
            access = pool.submit(reference.hits, self.access, reference.ours)
            by_expression = pool.submit(reference.hits, self.access, reference.by_expression)
            ours_live = pool.submit(reference.hits, live, reference.ours)
            fail2ban_live = pool.submit(reference.hits, live, reference.fail2ban)
            predecessor = pool.submit(self.predecessor, self.access)
            access, by_expression, ours_live, fail2ban_live, predecessor = (
                future.result() for future in (access, by_expression, ours_live, fail2ban_live, predecessor)
            )
        default, summary = self.replay("default.yaml", self.access)
        agree("replay, preset", default, reference.bans(access, 3, 2, 120))
        agree("replay, regex", self.replay("regex.yaml", self.access)[0], reference.bans(by_expression, 3, 2, 120))
        self.note(f"{len(default)} bans of {summary['lines']:,} lines: address, second, hits and pattern as the reference")
        self.explain("the predecessor's loop", predecessor, default, access, (3, 2, 120))

        hits, _ = self.replay("hits.yaml", live)
        agree("replay, 3 hits", hits, reference.bans(ours_live, 3, 0, THREE_HOURS))
        if self.fail2ban:
            self.fail2ban_regex_hits(live, fail2ban_live)
            _, banned = fail2ban_server.run(self.fail2ban, HERE / "fail2ban/probes.conf", live)
            theirs = {ip_address(address): () for address in banned}
            agree("fail2ban-server", theirs, dict.fromkeys(reference.bans(fail2ban_live, 3, 0, THREE_HOURS), ()))
            self.explain("fail2ban-server", theirs, hits, ours_live, (3, 0, THREE_HOURS))
        if self.crowdsec:
            self.crowdsec_bans()

    def predecessor(self, log):
        words = [self.python, HERE / "predecessor.py", log]
        lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
        bans = (line.split(" ", 3) for line in lines)
        return {ip_address(address): (int(at), int(hits), pattern) for address, at, hits, pattern in bans}

    def fail2ban_regex_hits(self, log, expect):
        words = [*self.fail2ban_regex(), "-o", "ip", log, HERE / "fail2ban/probes.conf"]
        said = subprocess.run(
            [str(word) for word in words], check=True, capture_output=True, text=True, env=self.fail2ban_env()
        ).stdout
        theirs = Counter(ip_address(line) for line in said.split())
        agree("fail2ban-regex", theirs, {address: len(hits) for address, hits in expect.items()})
        self.note(f"{theirs.total():,} failures by fail2ban-regex: each address as often as the reference")

    def explain(self, name, theirs, ours, hits, thresholds):
        """Whom the two ban otherwise: without the requests that only their plain form shows to be probes, nobody."""
        plain = {address: [hit for hit in all_hits if reference.is_plain(hit[2])] for address, all_hits in hits.items()}
        expect = reference.bans(plain, *thresholds)
        if not any(theirs.values()):
            # fail2ban says no more than whom.
            expect, ours = dict.fromkeys(expect, ()), dict.fromkeys(ours, ())
        agree(f"{name}, against the reference without plain forms", theirs, expect)
        different = [address for address in ours.keys() | theirs.keys() if ours.get(address) != theirs.get(address)]
        more, fewer = len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys())
        why = ", all for requests such as `//.env` and `/%2eenv`, of which it sees no plain form" if different else ""
        self.note(
            f"{name} bans {len(theirs)}: {more} fewer and {fewer} more than here, and"
            f" {len(different) - more - fewer} at another request{why}"
        )

    def crowdsec_bans(self):
        log = self.logs / "20k.log"
        self.crowdsec_run(log)()
        import sqlite3

        with sqlite3.connect(self.peers / "crowdsec-tree/data/crowdsec.db") as database:
            theirs = {ip_address(row[0]) for row in database.execute("select distinct value from decisions")}
        ours = self.replay("default.yaml", log)[0].keys()
        if not theirs:
            raise Disagreement("CrowdSec bans nobody: it does not do the same work")
        self.note(
            f"CrowdSec's leaky buckets are no window: of {CROWDSEC_LINES:,} lines it bans {len(theirs)}, {len(theirs & ours)}"
            f" of them are of the {len(ours)} here"
        )

    # --- what it costs ---

    def ours(self, policy, log):
        return command(self.args.program, "replay", "-p", HERE / "policies" / policy, "-o", "json", log)

    def fail2ban_env(self):
        return {**os.environ, "PYTHONPATH": str(self.fail2ban / "usr/lib/python3/dist-packages")}

    def fail2ban_regex(self):
        program = self.fail2ban / "usr/bin/fail2ban-regex"
        return [self.python, program, "--config", self.fail2ban / "etc/fail2ban", "--no-check-all"]

    def crowdsec_run(self, log):
        tree = self.peers / "crowdsec-tree"
        run = command(
            self.crowdsec / "usr/bin/crowdsec", "-c", tree / "etc/config.yaml", "-no-capi", "-dsn", f"file://{log}", "-type", "nginx"
        )  # fmt: skip

        def fresh():
            subprocess.run([HERE / "crowdsec/tree.sh", tree, self.crowdsec], check=True)
            return run()

        return fresh

    def measure(self):
        ours = Peer("replay, preset", self.ours("default.yaml", self.access), LINES)
        self.quick(ours)
        self.slow()
        self.patterns()
        self.memory()

    def quick(self, ours):
        say("quick ones in turn")
        regex = Peer("replay, regex", self.ours("regex.yaml", self.access), LINES)
        wc = Peer("wc -l", command("wc", "-l", self.access), LINES)
        python = Peer("Python", command(self.python, HERE / "predecessor.py", self.small), SMALL_LINES)
        peers = [ours, regex, wc, python]
        if self.rg:
            rg = Peer("ripgrep", command(self.rg, "-a", "-c", ALTERNATION, self.access), LINES)
            peers.append(rg)
        interleave(peers, self.args.rounds)
        self.row("replay, preset NginxCombined: lines for each second of processor", None, f"{ours.rate() / 1e6:.2f} M")
        self.at_least("CPU a line: the predecessor's Python loop on a file", 25, ratio(python, ours))
        if self.rg:
            self.at_most("CPU against ripgrep 15 counting the alternation", 1.25, 1 / ratio(rg, ours))
        self.at_most("CPU against `wc -l`", 3.0, 1 / ratio(wc, ours))
        self.at_most("CPU, the predecessor's log regex against the preset", 2.0, ratio(regex, ours))

    def slow(self):
        ours = Peer("replay, preset", self.ours("default.yaml", self.access), LINES)
        peers, live = [ours], self.logs / "live.log"
        if self.fail2ban:
            words = [*self.fail2ban_regex(), self.small, HERE / "fail2ban/probes.conf"]
            regex = Peer("fail2ban-regex", command(*words, env=self.fail2ban_env()), SMALL_LINES)
            server = lambda: fail2ban_server.run(self.fail2ban, HERE / "fail2ban/probes.conf", live)[0]
            server = Peer("fail2ban-server", server, SMALL_LINES)
            peers += [regex, server]
        if self.crowdsec:
            start = Peer("CrowdSec, one line", self.crowdsec_run(self.logs / "1.log"), 1)
            crowdsec = Peer("CrowdSec", self.crowdsec_run(self.logs / "20k.log"), CROWDSEC_LINES)
            peers += [start, crowdsec]
        say("slow ones in turn")
        interleave(peers, 3, warm=False)
        if self.fail2ban:
            self.at_least("CPU a line: fail2ban-regex", 80, ratio(regex, ours))
            self.at_least("CPU a line: fail2ban-server, fed live", 100, ratio(server, ours))
        if self.crowdsec:
            self.at_least("CPU a line: CrowdSec 1.4.6, tuned parser, less its start", 400, ratio(crowdsec, ours, start))

    def patterns(self):
        say("more patterns")
        search = lambda *words: command(self.args.measure, "search", "--patterns", *words)
        few, many = self.written("patterns", "--count", "15"), self.written("patterns", "--count", "5000")
        hostile = {name: self.written("hostile", *words) for name, words in HOSTILE.items()}
        fifteen = Peer("15 patterns", search(few, self.access), LINES)
        thousands = Peer("5,000 patterns", search(many, self.access), LINES)
        start = Peer("start", search(many), 1)
        attacks = {name: Peer(name, search(many, log), log.stat().st_size) for name, log in hostile.items()}
        interleave([fifteen, thousands, start, *attacks.values()], self.args.rounds)
        self.at_most("CPU, 5,000 patterns against 15 (reads, normalises, searches)", 2.5, ratio(thousands, fifteen))
        self.at_most("start with 5,000 patterns: CPU", 0.5, start.cpu(), " s")
        rss = max(peak_rss_of(self.args.measure, "search", "--patterns", many) for _ in range(5))
        self.at_most("start with 5,000 patterns: RSS", 40, rss, " MiB")
        for name, peer in attacks.items():
            self.at_most(f"hostile paths, 5,000 patterns: {name}", 20, (peer.cpu() - start.cpu()) / peer.lines * 1e9, " ns/byte")

    def written(self, *words):
        log = self.logs / ("-".join(words).replace("--", "") + ".txt")
        if not log.exists():
            with open(log, "wb") as out:
                subprocess.run([self.args.write_log, *words], check=True, stdout=out)
        return log

    def memory(self):
        say("memory")
        size = self.access.stat().st_size
        words = [self.args.program, "replay", "-p", HERE / "policies/default.yaml", "-o", "json", self.access]
        self.at_most(f"RSS, replay of a log of {size / 1e6:.0f} MB", 8, peak_rss_of(*words), " MiB")
        spray = self.written("spray")
        said = subprocess.run([self.args.measure, "track", spray], check=True, capture_output=True, text=True).stdout
        figure = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", said)}
        what = f"bytes for each of {figure['tracked']:,} sources with one hit, resident"
        self.at_most(what, 128, figure["bytes_each"])
        self.at_most(what + ", the most while it grows", 128, figure["peak_bytes_each"])

    # --- the table ---

    def note(self, text):
        say(f"  {text}")
        self.notes.append(text)

    def at_least(self, what, bar, value):
        self.row(what, f"≥ {bar}×", f"{value:.0f}×", value >= bar)

    def at_most(self, what, bar, value, unit=None):
        unit = unit if unit is not None else "×" if isinstance(bar, float) else ""
        shown = f"{value:.2f}" if value < 10 else f"{value:.0f}"
        self.row(what, f"≤ {bar:g}{unit}", shown + unit, value <= bar)

    def row(self, what, bar, value, holds=None):
        verdict = {None: "", True: "held", False: "**missed**"}[holds]
        say(f"  {what}: {value} (bar {bar}) {verdict}")
        self.rows.append((what, bar or "", value, verdict))

    def table(self):
        load = " ".join(f"{load:.1f}" for load in os.getloadavg())
        with open("/proc/cpuinfo") as cpus:
            models = [line.split(":")[1].strip() for line in cpus if line.startswith("model name")]
        print(f"## {time.strftime('%Y-%m-%d')}: detection against its peers\n")
        print(f"{len(models)} × {models[0]}, Linux {platform.release()}, load {load} at the end.")
        print(f"Peers: {', '.join(self.versions())}. `make bench-peers`, {self.args.rounds} rounds, medians.\n")
        print("| figure | bar | measured | |\n|---|---|---|---|")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")
        print()
        for note in self.notes:
            print(f"- {note[0].upper()}{note[1:]}.")

    def versions(self):
        yield subprocess.run([self.python, "--version"], capture_output=True, text=True).stdout.strip()
        if self.fail2ban:
            words = [*self.fail2ban_regex()[:2], "--version"]
            said = subprocess.run(words, capture_output=True, text=True, env=self.fail2ban_env()).stdout
            yield "fail2ban " + re.search(r"\d+\.[\w.]+", said)[0]
        if self.crowdsec:
            said = subprocess.run([self.crowdsec / "usr/bin/crowdsec", "-version"], capture_output=True, text=True)
            yield "CrowdSec " + re.search(r"version: v?([\d.]+)", said.stdout + said.stderr)[1]
        if self.rg:
            yield subprocess.run([self.rg, "--version"], capture_output=True, text=True).stdout.split("\n")[0]


HOSTILE = {
    "what they look for, cut short": ("--count", "5000"),
    "what they look for, where they don't match": ("--count", "5000", "--whole"),
}


def agree(name, ours, expect):
    """The same bans, or a list of what is not."""
    wrong = [address for address in ours.keys() | expect.keys() if ours.get(address) != expect.get(address)]
    for address in wrong[:10]:
        say(f"  {name}: {address}: {ours.get(address)}, the reference has {expect.get(address)}")
    if wrong:
        raise Disagreement(f"{name}: {len(wrong)} addresses are banned otherwise than by the reference")


def main():
    parser = argparse.ArgumentParser()
    for name in ("peers", "program", "measure", "write-log"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["compare", "measure"])
    args = parser.parse_args()
    bench = Bench(args)
    try:
        if args.only != "measure":
            bench.compare()
        if args.only != "compare":
            bench.measure()
    except Disagreement as problem:
        sys.exit(f"nothing is measured: {problem}")
    bench.table()


if __name__ == "__main__":
    main()
