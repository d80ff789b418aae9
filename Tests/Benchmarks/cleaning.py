"""How fast the oldest files of a directory are found and removed, against the pipeline that a person would write.

The issue is not only speed: whatever the files' times are, what goes must be the oldest, and hold just what is needed.
"""

import contextlib
import os
import random
import statistics
import subprocess
import time

from bench import GIB, KIB, MIB, Row, memory

SIZE = 4 * KIB
NEWEST = 1_700_000_000
# Walks, sorts, and removes as many as the first argument says.
PIPELINE = r"""find "$1" -type f -printf '%T@ %p\0' | sort -zn | head -zn "$2" | cut -zd' ' -f2- | xargs -0 rm"""


def days(number, count):
    """Over 30 days."""
    return NEWEST - 30 * 86_400 + number * 30 * 86_400 / count


def slots(number, count):
    """20,000 in each slot of five minutes."""
    return NEWEST - 86_400 + (number // 20_000) * 3_600 + number % 20_000 * 300 / 20_000


def one_slot(number, count):
    """All in one slot of five minutes, as a first backup leaves them."""
    return NEWEST + number * 300 / count


def one_time(number, count):
    return NEWEST


SPREADS = {"30 days": days, "20,000 in a slot": slots, "all in one slot": one_slot, "all of one time": one_time}


class Files:
    """A tree of small files whose times do not follow their places."""

    def __init__(self, root, count, folders):
        self.root, self.count, self.folders = root, count, folders
        self.order = list(range(count))
        random.Random(1).shuffle(self.order)
        for folder in range(folders):
            (root / f"{folder:05}").mkdir()

    def path(self, number):
        return self.root / f"{number % self.folders:05}" / f"{number:07}"

    def renew(self, spread):
        """All files are there, each with its time."""
        for number in range(self.count):
            path = self.path(number)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                # Blocks without writing them.
                if os.fstat(descriptor).st_size == 0:
                    os.posix_fallocate(descriptor, 0, SIZE)
                stamp = int(spread(self.order[number], self.count) * 1_000_000_000)
                os.utime(descriptor, ns=(stamp, stamp))
            finally:
                os.close(descriptor)
        os.sync()

    def check(self, spread, removed):
        """What is left is the newest."""
        left = [number for number in range(self.count) if self.path(number).exists()]
        if len(left) != self.count - removed:
            raise RuntimeError(f"{self.count - len(left)} files were removed instead of {removed}")
        if spread is not one_time:
            older = [number for number in left if self.order[number] < removed]
            if older:
                raise RuntimeError(f"{len(older)} of the oldest are still there")


def free(path):
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def measured(*command):
    """Seconds, CPU seconds, and the largest resident set in MB (10⁶ bytes) of a process; CPU also of its children."""
    started = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    resident = 0.0
    while True:
        # What wait4 tells of memory begins with ours, from before the exec.
        with contextlib.suppress(RuntimeError):
            resident = max(resident, memory(process))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.002)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, resident


def warm(path):
    subprocess.run(["find", path, "-printf", "%s"], stdout=subprocess.DEVNULL, check=True)


def clean_once(bench, files, removed):
    needed = removed * SIZE
    before = free(files.root)
    result = measured(bench.binary, "clean", files.root, "--min-free", f"{before + needed}B")
    freed = free(files.root) - before
    if not needed <= freed <= needed + SIZE:
        raise RuntimeError(f"{freed} bytes were freed, {needed} were needed")
    return result


def clean(bench, runs):
    """200,000 × 4 KiB, a fifth of them to go."""
    count, removed = 200_000, 40_000
    disk = bench.disk("clean", 2 * GIB, 8 * KIB)
    root = disk.path / "backups"
    root.mkdir()
    files = Files(root, count, 1_000)
    rows = []
    for title, spread in SPREADS.items():
        pipelines, cleans = [], []
        for number in range(runs):
            sides = ["pipeline", "safebackup"] if number % 2 == 0 else ["safebackup", "pipeline"]
            for side in sides:
                files.renew(spread)
                warm(root)
                if side == "pipeline":
                    pipelines.append(measured("bash", "-c", PIPELINE, "bash", root, removed))
                else:
                    cleans.append(clean_once(bench, files, removed))
                    files.check(spread, removed)
            print(f"  {title} {number + 1}/{runs}: pipeline {pipelines[-1][0]:.2f} s, {pipelines[-1][1]:.2f} CPU s; "
                  f"safebackup {cleans[-1][0]:.2f} s, {cleans[-1][1]:.2f} CPU s, {cleans[-1][2]:.1f} MB", flush=True)
        floor, own = [[statistics.median(column) for column in zip(*side)] for side in (pipelines, cleans)]
        rows += [
            Row(f"clean, {title}: find | sort | rm", own[0], floor[0], 1.0),
            Row(f"clean, {title}: CPU", own[1], floor[1], 1.0),
            # Half of the least that go-backup-cleaner took for such a tree: 2.6 to 6.3 s, 2.2 to 4.2 CPU s, 60 to 74 MB.
            Row("  half of go-backup-cleaner's best", own[0], goal=1.3),
            Row("  half of its least CPU", own[1], goal=1.1),
            Row("  resident set", max(each[2] for each in cleans), goal=20.0, unit="MB"),
        ]
    bench.discard(disk)
    return rows


def many(bench, count):
    """Peak memory with many files, a fifth of them to go, for the two spreads that are hardest to select from."""
    print(f"  making {count} files", flush=True)
    disk = bench.disk("clean", count * 5 * KIB + 512 * MIB, 4 * KIB)
    root = disk.path / "backups"
    root.mkdir()
    files = Files(root, count, max(1, count // 1_000))
    rows = []
    for title, spread in [("30 days", days), ("all of one time", one_time)]:
        files.renew(spread)
        seconds, processor, resident = clean_once(bench, files, count // 5)
        files.check(spread, count // 5)
        print(f"  {title}: {seconds:.1f} s, {processor:.1f} CPU s, {resident:.1f} MB", flush=True)
        rows.append(Row(f"resident set, {count} files, {title}", resident, goal=20.0, unit="MB"))
    return rows


WORKLOADS = {"clean": clean}
