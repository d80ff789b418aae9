"""How fast safebackup saves, against `cp -a` + `sync -f`, and how much memory a million files take."""

import os
import shutil
import statistics
import time

from bench import (GIB, KIB, MIB, Row, compare, memory, microseconds, run, wait_until_reconciled, wait_until_stored,
                   write_small)


def copy_and_sync(source, destination):
    """Seconds of the floor that everything is measured against."""
    started = time.monotonic()
    run("bash", "-c", 'cp -a "$1/." "$2/" && sync -f "$2"', "bash", source, destination)
    return time.monotonic() - started


def against_copy(bench, runs, source, destination, title):
    """Interleaved runs of both sides; returns the seconds of each."""
    copies, saves = [], []
    for number in range(runs):
        sides = ["cp", "safebackup"] if number % 2 == 0 else ["safebackup", "cp"]
        for side in sides:
            destination.renew()
            state = bench.new_state()
            bench.settle(source.path)
            if side == "cp":
                copies.append(copy_and_sync(source.path, destination.path))
            else:
                saves.append(bench.save_once(source.path, destination.path, state))
                if number == 0:
                    compare(source.path, destination.path)
                if not bench.state_disk:
                    shutil.rmtree(state)
        print(f"  {title} {number + 1}/{runs}: cp -a + sync -f {copies[-1]:.2f} s, safebackup {saves[-1]:.2f} s",
              flush=True)
    return copies, saves


def rewriting(bench, runs, source, destination, count, folders):
    """Seconds from the last write of a rewrite of all files to the last durable copy, with the agent running."""
    seconds = []
    for number in range(runs):
        destination.renew()
        state = bench.new_state()
        bench.settle(source.path)
        with bench.agent(source.path, destination.path, state):
            wait_until_stored(state, count, 0, 300)
            os.sync()
            since = microseconds()
            write_small(source.path, count, folders, f"rewritten in run {number}")
            written = time.monotonic()
            seconds.append(max(0.0, wait_until_stored(state, count, since, 300) - written))
        if number == 0:
            compare(source.path, destination.path)
        if not bench.state_disk:
            shutil.rmtree(state)
        print(f"  rewrite {number + 1}/{runs}: {seconds[-1]:.2f} s after the last write", flush=True)
    return seconds


def million(bench, count):
    """Peak memory over the initial save of many small files, then over a restart with its reconcile."""
    print(f"  making {count} files", flush=True)
    source = bench.disk("many-source", 8 * GIB, 4 * KIB)
    destination = bench.disk("many-destination", 8 * GIB, 4 * KIB)
    folders = max(1, count // 1000)
    for number in range(count):
        folder = source.path / f"{number % folders:04}"
        if number < folders:
            folder.mkdir()
        with open(folder / f"{number:07}", "wb") as file:
            file.write(b"file %d\n" % number)
    state = bench.new_state()
    rows = []
    for title in ("initial save", "restart and reconcile"):
        started = microseconds()
        with bench.agent(source.path, destination.path, state) as process:
            wait_until_stored(state, count, 0, 3600)
            if title != "initial save":
                wait_until_reconciled(state, started, 3600)
            rows.append(Row(f"VmHWM, {title} of {count} files", memory(process), goal=100.0, unit="MB"))
        print(f"  {title}: {(microseconds() - started) / 1e6:.1f} s, {rows[-1].measured:.1f} MB", flush=True)
    return rows


def small(bench, runs, rewrites=False):
    """20,000 × 4 KiB: the initial save, and a rewrite of all while the agent runs."""
    count, folders = 20_000, 400
    source = bench.disk("source", 512 * MIB, 8 * KIB)
    destination = bench.disk("destination", GIB, 8 * KIB)
    write_small(source.path, count, folders, "first")
    copies, saves = against_copy(bench, runs, source, destination, "20,000 × 4 KiB")
    saved = statistics.median(saves)
    rows = [Row("initial save of 20,000 × 4 KiB, cp -a + sync -f", saved, statistics.median(copies), 1.2)]
    if rewrites:
        rewritten = statistics.median(rewriting(bench, runs, source, destination, count, folders))
        rows.append(Row("rewriting them, against that save", rewritten, saved, 2.0))
    bench.discard(source, destination)
    return rows


def rewrite(bench, runs):
    return small(bench, runs, rewrites=True)


def large(bench, runs):
    """4 × 512 MiB."""
    source = bench.disk("large-source", 2560 * MIB)
    destination = bench.disk("large-destination", 2560 * MIB)
    for number in range(4):
        run("bash", "-c", 'head -c 536870912 /dev/urandom >"$1"', "bash", source.path / f"large-{number}")
    copies, saves = against_copy(bench, runs, source, destination, "4 × 512 MiB")
    bench.discard(source, destination)
    return [Row("4 × 512 MiB, cp -a + sync -f", statistics.median(saves), statistics.median(copies), 1.2)]


# `rewrite` measures the initial save too, which is its floor.
WORKLOADS = {"small": small, "rewrite": rewrite, "large": large}
