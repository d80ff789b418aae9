"""How fast a change gets from the source to the backup, against watchman and lsyncd in the same run.

Both peers run rsync, which flushes nothing: what they call done a power cut may take. safebackup's time ends when the
copy is durable and the catalogue says so.
"""

import contextlib
import json
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import time

from bench import GIB, KIB, MIB, Row, microseconds, run, wait_until_reconciled, wait_until_stored, write_small
from saving import copy_and_sync

PACKAGES = ["watchman", "lsyncd", "rsync"]
QUEUE_LIMIT = pathlib.Path("/proc/sys/fs/inotify/max_queued_events")
FILES, FOLDERS = 20_000, 400


# MARK: Who saves


class Safebackup:
    name = "safebackup"

    def __init__(self, bench, source, destination):
        self.bench, self.source, self.destination = bench, source, destination
        self.state = bench.new_state()

    @contextlib.contextmanager
    def running(self, wait=True):
        with self.bench.agent(self.source, self.destination, self.state) as process:
            if wait:
                self.wait_until_idle()
            yield process

    def wait_until_idle(self, limit=300):
        deadline = time.monotonic() + limit
        with contextlib.closing(self.connect()) as connection:
            while time.monotonic() < deadline:
                (due,) = connection.execute(
                    "SELECT (SELECT count(*) FROM (SELECT 1 FROM job LIMIT 1)) "
                    "+ (SELECT count(*) FROM source WHERE desynced OR last_reconcile_at IS NULL)").fetchone()
                if due == 0:
                    return time.monotonic()
                time.sleep(0.02)
        raise RuntimeError(f"safebackup was not idle after {limit} s")

    def connect(self):
        return sqlite3.connect(f"file:{self.state}/queue.db?mode=ro", uri=True, isolation_level=None)

    def wait_for_files(self, count, since, limit=300):
        return wait_until_stored(self.state, count, since, limit)

    def wait_for(self, path, limit=30):
        deadline = time.monotonic() + limit
        with contextlib.closing(self.connect()) as connection:
            while time.monotonic() < deadline:
                # Asked by the leaf alone, which no index has: a table of 50,000 names would be read each time.
                if connection.execute(
                        "SELECT 1 FROM name WHERE source_id = (SELECT id FROM source) "
                        "AND destination_id = (SELECT id FROM destination) AND parent = ? AND leaf = ? "
                        "AND ended_at IS NULL", (str(path.parent) if path.parent.name else "", path.name)).fetchone():
                    return time.monotonic()
                time.sleep(0.001)
        raise RuntimeError(f"{path} was not stored within {limit} s")


class Peer:
    def __init__(self, bench, source, destination):
        self.bench, self.source, self.destination = bench, source, destination

    def wait_for_files(self, count, since, limit=300):
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if count_files(self.destination) >= count:
                return time.monotonic()
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} had {count_files(self.destination)} of {count} files after {limit} s")

    def wait_for(self, path, limit=30):
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if (self.destination / path).exists():
                return time.monotonic()
            time.sleep(0.001)
        raise RuntimeError(f"{self.name} did not bring {path} within {limit} s")

    def wait_until_equal(self, limit=300):
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if not missing(self.source, self.destination):
                return time.monotonic()
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} was not in sync after {limit} s")


def end(server):
    """Asks the process to end, and ends it after 10 s."""
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


class Watchman(Peer):
    """With rsync as its trigger: each batch of changes copies the tree's differences."""

    name = "watchman"

    @contextlib.contextmanager
    def running(self, wait=True):
        place = pathlib.Path(self.bench.temporary(self.bench.stack, None))
        options = ["--sockname", place / "socket", "--statefile", place / "state", "--logfile", place / "log",
                   "--pidfile", place / "pid"]
        server = subprocess.Popen([str(part) for part in ["watchman", *options, "--foreground"]],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while not (place / "socket").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            run("watchman", *options, "--no-spawn", "watch", self.source)
            # Not the short form, which appends the names of the changed files to the command.
            trigger = ["trigger", str(self.source), {
                "name": "backup", "append_files": False, "stdin": "/dev/null",
                "command": ["rsync", "-a", "--delete", f"{self.source}/", f"{self.destination}/"]}]
            subprocess.run(["watchman", *map(str, options), "--no-spawn", "-j"], input=json.dumps(trigger).encode(),
                           stdout=subprocess.DEVNULL, check=True)
            self.wait_until_equal()
            yield server
        finally:
            end(server)


class Lsyncd(Peer):
    name = "lsyncd"

    @contextlib.contextmanager
    def running(self, wait=True):
        place = pathlib.Path(self.bench.temporary(self.bench.stack, None))
        (place / "lsyncd.lua").write_text(
            'settings { nodaemon = true, statusFile = "%s/status", logfile = "%s/log" }\n'
            'sync { default.rsync, source = "%s", target = "%s", delay = 1 }\n'
            % (place, place, self.source, self.destination))
        server = subprocess.Popen(["lsyncd", str(place / "lsyncd.lua")], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.wait_until_equal()
            yield server
        finally:
            end(server)


def count_files(directory):
    count = 0
    for folder in os.scandir(directory):
        if folder.is_dir(follow_symlinks=False) and not folder.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                # rsync's unfinished files begin with a dot.
                count += sum(1 for file in os.scandir(folder) if not file.name.startswith("."))
    return count


def missing(source, destination):
    """Files of the source that the destination does not have with the same content; the first few."""
    found = []
    for folder, _, files in os.walk(source):
        other = destination / pathlib.Path(folder).relative_to(source)
        for file in files:
            try:
                same = (pathlib.Path(folder) / file).read_bytes() == (other / file).read_bytes()
            except FileNotFoundError:
                same = False
            if not same:
                found.append(os.path.join(folder, file))
                if len(found) == 5:
                    return found
    return found


def empty(directory):
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


@contextlib.contextmanager
def queue_limit(events):
    """inotify instances that are made inside have room for so many events; the limit is the whole machine's."""
    before = QUEUE_LIMIT.read_text()
    QUEUE_LIMIT.write_text(f"{events}\n")
    try:
        yield
    finally:
        QUEUE_LIMIT.write_text(before)


# MARK: Workloads


def burst(bench, runs):
    """20,000 files in 400 new directories while idle: seconds from the first write to the last copy."""
    source = bench.disk("burst-source", 512 * MIB, 8 * KIB)
    destination = bench.disk("burst-destination", GIB, 8 * KIB)
    seconds = {"watchman": [], "lsyncd": [], "safebackup": [], "overflowing": []}

    def measure(name, saver, limit=None):
        empty(source.path)
        destination.renew()
        os.sync()
        subject = saver(bench, source.path, destination.path)
        with contextlib.ExitStack() as stack:
            with queue_limit(limit) if limit else contextlib.nullcontext():
                stack.enter_context(subject.running())
            since, started = microseconds(), time.monotonic()
            write_small(source.path, FILES, FOLDERS, f"burst {started}")
            seconds[name].append(subject.wait_for_files(FILES, since) - started)
            if lost := missing(source.path, destination.path):
                raise RuntimeError(f"{name} says it is done and lacks {lost}")

    for number in range(runs):
        measure("watchman", Watchman)
        measure("safebackup", Safebackup)
        measure("overflowing", Safebackup, limit=128)
        if number == 0:
            measure("lsyncd", Lsyncd)
        print(f"  burst {number + 1}/{runs}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items()),
              flush=True)
    bench.discard(source, destination)
    floor = statistics.median(seconds["watchman"])
    return [
        Row("burst of 20,000 files, lsyncd (once)", statistics.median(seconds["lsyncd"]), floor),
        Row("burst of 20,000 files, against watchman", statistics.median(seconds["safebackup"]), floor, 1.0),
        Row("the same, kernel's queue of 128 events", statistics.median(seconds["overflowing"]), floor, 2.0),
    ]


def latency(bench, runs):
    """One small file written and closed: milliseconds to its copy, in a small and in a large tree."""
    rows = []
    for directories in (10, 50_000):
        source = bench.disk("latency-source", GIB, 4 * KIB)
        destination = bench.disk("latency-destination", GIB, 4 * KIB)
        for number in range(directories):
            (source.path / f"{number % 10:02}" / f"{number:05}").mkdir(parents=True)
        times = {}
        for saver in (Watchman, Safebackup):
            destination.renew()
            subject = saver(bench, source.path, destination.path)
            measured = []
            with subject.running():
                for number in range(50):
                    time.sleep(0.05)
                    path = pathlib.Path(f"{number % 10:02}") / f"{saver.name}-{number}"
                    (source.path / path).write_bytes(b"one small file\n")
                    closed = time.monotonic()
                    measured.append((subject.wait_for(path) - closed) * 1e3)
            times[saver.name] = statistics.median(measured)
            print(f"  latency, {directories} directories, {saver.name}: median {times[saver.name]:.1f} ms, "
                  f"worst {max(measured):.1f} ms", flush=True)
        rows.append(Row(f"one small file, {directories} directories", times["safebackup"], goal=110.0, unit="ms",
                        note=f"watchman {times['watchman']:.0f} ms"))
        bench.discard(source, destination)
    return rows


def renames(bench, runs):
    """Directories of 1,000 files renamed, swapped, deleted and made again: seconds until in sync."""
    source = bench.disk("renames-source", 512 * MIB, 8 * KIB)
    destination = bench.disk("renames-destination", GIB, 8 * KIB)
    seconds = {"watchman": [], "safebackup": []}
    for number in range(runs):
        for saver in (Watchman, Safebackup):
            empty(source.path)
            write_small(source.path, 6_000, 6, "renamed")
            destination.renew()
            subject = saver(bench, source.path, destination.path)
            with subject.running():
                for _ in range(5):
                    for folder in ("000", "001"):
                        os.rename(source.path / folder, source.path / "away")
                        os.rename(source.path / "away", source.path / folder)
                os.rename(source.path / "001", source.path / "moved")
                os.rename(source.path / "002", source.path / "away")
                os.rename(source.path / "003", source.path / "002")
                os.rename(source.path / "away", source.path / "003")
                shutil.rmtree(source.path / "004")
                (source.path / "004").mkdir()
                for file in range(1_000):
                    (source.path / "004" / f"{file:06}").write_bytes(b"made again %d\n" % file)
                ended = time.monotonic()
                if saver is Watchman:
                    done = subject.wait_until_equal()
                else:
                    done = subject.wait_until_idle()
                    while missing(source.path, destination.path):
                        if time.monotonic() > ended + 300:
                            raise RuntimeError(f"not in sync: {missing(source.path, destination.path)}")
                        done = subject.wait_until_idle()
                seconds[saver.name].append(max(0.0, done - ended))
        print(f"  renames {number + 1}/{runs}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items()),
              flush=True)
    bench.discard(source, destination)
    return [Row("renames, swaps, deletes of 1,000 files each", statistics.median(seconds["safebackup"]), goal=2.0,
                note=f"watchman {statistics.median(seconds['watchman']):.2f} s")]


def idle(bench, runs):
    """50,000 directories: seconds until ready after a restart, then memory and CPU while nothing happens."""
    source = bench.disk("idle-source", GIB, 4 * KIB)
    destination = bench.disk("idle-destination", GIB, 4 * KIB)
    for number in range(50_000):
        folder = source.path / f"{number % 50:02}" / f"{number:05}"
        folder.mkdir(parents=True)
        if number % 10 == 0:
            (folder / "file").write_bytes(b"file %d\n" % number)
    subject = Safebackup(bench, source.path, destination.path)
    with subject.running():
        pass
    began, started = microseconds(), time.monotonic()
    with subject.running(wait=False) as process:
        ready = time.monotonic() - started
        wait_until_reconciled(subject.state, began, 60)
        subject.wait_until_idle()
        # What the walk needed is given back ten to thirty seconds after the last work.
        time.sleep(32)
        resident, before = usage(process)
        time.sleep(20)
        after = usage(process)[1]
    print(f"  idle with 50,000 directories: ready after {ready:.2f} s, {resident:.1f} MB, {after - before:.2f} s of CPU",
          flush=True)
    bench.discard(source, destination)
    return [
        Row("ready with 50,000 directories", ready, goal=2.0),
        Row("resident set while idle", resident, goal=25.0, unit="MB"),
        Row("CPU in 20 s while idle", after - before, goal=0.05),
    ]


def usage(process):
    """The resident set in MB (10⁶ bytes), and the seconds of CPU so far."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6, (int(fields[11]) + int(fields[12])) / ticks


def churn(bench, runs):
    """A file that grows and small ones that are rewritten: bytes that reach the destination's disk, against a copy of the
    same after each rewrite. Of 4 KiB files a file system writes about twice as much as they hold."""
    source = bench.disk("churn-source", 512 * MIB, 8 * KIB)
    destination = bench.disk("churn-destination", GIB, 8 * KIB)
    count, folders = 5_000, 50

    def change(each):
        with open(source.path / "log", "ab", buffering=0) as log:
            started = time.monotonic()
            for number in range(100):
                log.write(os.urandom(32 * KIB))
                if number % 20 == 0:
                    write_small(source.path, count, folders, f"rewritten {number}")
                    each()
                time.sleep(max(0.0, started + (number + 1) * 0.2 - time.monotonic()))

    os.sync()
    before = destination.written()
    change(lambda: copy_and_sync(source.path, destination.path))
    copy_and_sync(source.path, destination.path)
    floor = destination.written() - before

    empty(source.path)
    destination.renew()
    subject = Safebackup(bench, source.path, destination.path)
    with subject.running():
        os.sync()
        before = destination.written()
        change(lambda: None)
        subject.wait_until_idle()
        os.sync()
        written = destination.written() - before
        if lost := missing(source.path, destination.path):
            raise RuntimeError(f"safebackup says it is done and lacks {lost}")
    final = (count * 4 + 100 * 32) * KIB
    print(f"  churn: {written / MIB:.0f} MiB written for {final / MIB:.0f} MiB, by cp -a {floor / MIB:.0f} MiB", flush=True)
    bench.discard(source, destination)
    return [Row("bytes written, 5,000 files changing 5 times", written / MIB, floor / MIB, 2.0, "MiB",
                note=f"{written / final:.1f} × what is there")]


WORKLOADS = {"burst": burst, "latency": latency, "renames": renames, "idle": idle, "churn": churn}
