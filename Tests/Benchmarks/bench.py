"""The disks, processes and waits that all benchmarks share."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sqlite3
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def run(*command, **options):
    """Runs a command that must succeed; what it prints is shown only when it fails."""
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


@dataclasses.dataclass
class Row:
    """One result: against a floor of the same run where there is one, else against the goal itself."""

    title: str
    measured: float
    floor: float | None = None
    goal: float | None = None
    unit: str = "s"
    note: str = ""

    @property
    def value(self):
        return self.measured / self.floor if self.floor else self.measured

    @property
    def is_met(self):
        return self.goal is None or self.value <= self.goal

    def __str__(self):
        floor = f"{self.floor:.2f} {self.unit}" if self.floor else ""
        ratio = f"{self.value:.2f}" if self.floor else ""
        goal = "" if self.goal is None else f"≤ {self.goal:g}" + ("" if self.floor else f" {self.unit}")
        verdict = "" if self.is_met else "MISSED "
        return (f"{self.title:48} {floor:>9} {f'{self.measured:.2f} {self.unit}':>10} {ratio:>6} {goal:>9}  "
                f"{verdict}{self.note}").rstrip()


class Disk:
    """An ext4 with a journal on an image file whose blocks are all allocated, so that no run pays for that."""

    def __init__(self, directory, name, size, inode_ratio=None):
        self.image = directory / f"{name}.image"
        self.path = directory / name
        self.options = ["-i", str(inode_ratio)] if inode_ratio else []
        self.mounted = False
        self.path.mkdir()
        run("fallocate", "-l", size, self.image)
        self.renew()

    def written(self):
        """Bytes that have reached the disk since it was set up; see the kernel's Documentation/block/stat.rst."""
        device = os.stat(self.path).st_dev
        fields = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
        return int(fields[6]) * 512

    def renew(self):
        """A new, empty file system."""
        self.unmount()
        # Without discard, or the image would lose its blocks again; nothing is initialised lazily behind our back.
        run("mkfs.ext4", "-q", "-F", "-O", "has_journal", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            *self.options, self.image)
        run("mount", "-o", "loop", self.image, self.path)
        self.mounted = True
        (self.path / "lost+found").rmdir()

    def unmount(self):
        if self.mounted:
            run("umount", self.path)
            self.mounted = False


class Bench:
    """The directories, disks and processes of one benchmark."""

    def __init__(self, options, binary, stack):
        self.binary = binary
        self.directory = self.temporary(stack, options.images)
        self.state_directory = self.temporary(stack, options.state)
        self.stack = stack
        self.state_disk = self.disk("state", 2 * GIB) if options.state_on_loop else None
        self.states = 0

    @staticmethod
    def temporary(stack, parent):
        directory = tempfile.mkdtemp(prefix="safebackup-benchmark.", dir=parent)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        return pathlib.Path(directory)

    def disk(self, name, size, inode_ratio=None):
        disk = Disk(self.directory, name, size, inode_ratio)
        self.stack.callback(disk.unmount)
        return disk

    @staticmethod
    def discard(*disks):
        """Gives back what finished workloads took."""
        for disk in disks:
            disk.unmount()
            disk.image.unlink()
            disk.path.rmdir()

    def new_state(self):
        """A state directory that is not there yet."""
        if self.state_disk:
            self.state_disk.renew()
            return self.state_disk.path / "state"
        self.states += 1
        return self.state_directory / f"state-{self.states}"

    def settle(self, source):
        """The same start for everybody: nothing dirty, nothing cached but the source and the programs."""
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
        run("bash", "-c", 'find "$1" -type f -print0 | xargs -0 -r cat >/dev/null', "bash", source)
        run(self.binary, "--version")
        run("cp", "--version")

    def save_once(self, source, destination, state):
        """Seconds of `run --once`, from its start to its end."""
        started = time.monotonic()
        run(self.binary, "run", source, destination, "--state", state, "--once")
        return time.monotonic() - started

    @contextlib.contextmanager
    def agent(self, source, destination, state):
        """A running agent; stopped by SIGTERM at the end."""
        log = self.directory / "agent.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [self.binary, "run", str(source), str(destination), "--state", str(state)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        try:
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the agent did not get ready:\n{log.read_text()[-2000:]}")
            yield process
            process.terminate()
            if process.wait(timeout=30) != 0:
                raise RuntimeError(f"the agent exited {process.returncode} after SIGTERM:\n{log.read_text()[-2000:]}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def wait_until_stored(state, count, since, limit):
    """Returns when no job is left and `count` files have a copy stored after `since` (µs since 1970)."""
    connection = sqlite3.connect(f"file:{state}/queue.db?mode=ro", uri=True, isolation_level=None)
    deadline = time.monotonic() + limit
    with contextlib.closing(connection):
        while time.monotonic() < deadline:
            # The first question is cheap, so that asking does not slow down what is measured.
            if not connection.execute("SELECT 1 FROM job LIMIT 1").fetchone():
                ended = time.monotonic()
                (stored,) = connection.execute(
                    "SELECT count(*) FROM name n JOIN copy c ON c.id = n.copy_id "
                    "WHERE n.ended_at IS NULL AND n.kind = 'file' AND c.stored_at >= ?", (since,)).fetchone()
                if stored == count:
                    return ended
            time.sleep(0.02)
    raise RuntimeError(f"not all of {count} files were stored after {limit} s")


def microseconds():
    return time.time_ns() // 1000


def write_small(directory, count, folders, text):
    """`count` files of 4 KiB in `folders` directories, each with content of its own, written in place."""
    for number in range(count):
        folder = directory / f"{number % folders:03}"
        if number < folders:
            folder.mkdir(exist_ok=True)
        line = f"{text} {number}\n".encode()
        with open(folder / f"{number:06}", "wb") as file:
            file.write((line * (4 * KIB // len(line) + 1))[:4 * KIB])


def compare(source, destination):
    run("diff", "-r", "--no-dereference", "--exclude=.safebackup", "--exclude=lost+found", source, destination)


def memory(process):
    """The largest resident set so far, in MB (10⁶ bytes)."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB / 1e6
    raise RuntimeError("no VmHWM in /proc")


def wait_until_reconciled(state, since, limit):
    deadline = time.monotonic() + limit
    with contextlib.closing(sqlite3.connect(f"file:{state}/queue.db?mode=ro", uri=True)) as connection:
        while time.monotonic() < deadline:
            (last,) = connection.execute("SELECT max(last_reconcile_at) FROM source").fetchone()
            if last and last >= since:
                return
            time.sleep(0.1)
    raise RuntimeError(f"no reconcile ended within {limit} s")
