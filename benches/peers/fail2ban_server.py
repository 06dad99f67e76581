"""A real fail2ban-server, fed while it runs: config, socket, database and log in a folder of its own, no service.

One jail on one log, whose action writes down whom it bans. The log's dates must lie within the last hours, for the
server looks at the clock. The last lines come from one more address: when that is banned, all before it is read.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from rounds import Usage, pin

LAST = "203.0.113.77"
JAIL = """[DEFAULT]
backend = polling
usedns = no
[probes]
enabled = true
filter = probes
logpath = {folder}/live.log
maxretry = 3
findtime = 3h
bantime = 24h
ignoreself = false
action = note
"""
ACTION = """[Definition]
actionstart =
actionstop =
actioncheck =
actionban = echo <ip> >> {folder}/bans
actionunban =
"""
SERVER = """[Definition]
loglevel = NOTICE
logtarget = {folder}/log
syslogsocket = auto
socket = {folder}/socket
pidfile = {folder}/pid
dbfile = {folder}/database
"""


def run(package, filters, log, patience=300):
    """Feeds a log; what that took of the server, and whom it banned."""
    folder = Path(tempfile.mkdtemp(prefix="fail2ban."))
    try:
        return feed(Path(package), Path(filters), Path(log), folder, patience)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def feed(package, filters, log, folder, patience):
    config = folder / "etc"
    shutil.copytree(package / "etc/fail2ban", config)
    for enabled in (config / "jail.d").iterdir():
        enabled.unlink()
    shutil.copy(filters, config / "filter.d/probes.conf")
    (config / "jail.local").write_text(JAIL.format(folder=folder))
    (config / "action.d/note.conf").write_text(ACTION.format(folder=folder))
    (config / "fail2ban.local").write_text(SERVER.format(folder=folder))
    live = folder / "live.log"
    live.touch()
    place = ["-c", config, "-s", folder / "socket", "-p", folder / "pid"]
    program = lambda name: ["/usr/bin/python3", package / "usr/bin" / name, *place]
    env = {**os.environ, "PYTHONPATH": str(package / "usr/lib/python3/dist-packages")}
    with open(folder / "errors", "w") as errors:
        server = subprocess.Popen(
            program("fail2ban-server") + ["-f", "start"], env=env, stdout=errors, stderr=errors, preexec_fn=pin
        )
    ping = lambda: subprocess.run(program("fail2ban-client") + ["ping"], env=env, capture_output=True, text=True)
    try:
        wait(60, lambda: "pong" in ping().stdout, lambda: "fail2ban-server did not start: " + said(folder))
        begin, cpu = time.perf_counter(), processor(server.pid)
        now = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
        with open(log, "rb") as source, open(live, "ab") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.write(f'{LAST} - - [{now}] "GET /.env HTTP/1.1" 404 146 "-" "-"\n'.encode() * 3)
        bans = folder / "bans"
        is_read = lambda: bans.exists() and LAST in bans.read_text()
        wait(patience, is_read, lambda: "fail2ban-server did not read all of the log: " + said(folder))
        usage = Usage(processor(server.pid) - cpu, time.perf_counter() - begin)
        # An action may still be under way.
        return usage, set(bans.read_text().split()) - {LAST}
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait(seconds, condition, problem):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(problem())
        time.sleep(0.1)


def said(folder):
    return "".join((folder / name).read_text()[-2000:] for name in ("errors", "log") if (folder / name).exists())


def processor(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

