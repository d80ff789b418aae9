"""Three agents that save into one bucket while the cluster below it is in trouble."""

import contextlib
import hashlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import time

from cluster import wait_for

BUCKET = "fleet"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Member:
    """A source with its agent, its prefix and its key."""

    def __init__(self, name, directory, binary, cluster):
        self.name = name
        self.directory = directory / name
        self.source = self.directory / "source"
        self.state = self.directory / "state"
        self.log = self.directory / "agent.log"
        self.binary = binary
        self.endpoint = cluster.endpoint
        self.url = f"s3://{BUCKET}/{name}"
        self.keys = (f"AK{name.upper()}FLEET", f"secret-of-{name}")
        self.random = random.Random(name)
        self.process = None
        self.source.mkdir(parents=True)

    @property
    def environment(self):
        access, secret = self.keys
        return dict(os.environ, AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret, AWS_REGION="us-east-1",
                    AWS_ENDPOINT_URL_S3=self.endpoint, AWS_EC2_METADATA_DISABLED="true")

    def write(self, count, text):
        """Files of many sizes and names, and one large enough for an upload in parts."""
        for number in range(count):
            folder = self.source / f"{number % 17} übung (1)"
            folder.mkdir(exist_ok=True)
            (folder / f"{text} {number}+%20.txt").write_bytes(self.random.randbytes(self.random.choice((0, 1, 900, 70_000))))
        (self.source / f"{text} large.bin").write_bytes(self.random.randbytes(48 << 20))

    def change(self, text):
        """Some files are written anew, some renamed, some removed."""
        files = sorted(path for path in self.source.rglob("*.txt"))
        for path in files[::5]:
            path.write_bytes(self.random.randbytes(5_000))
        for path in files[1::9]:
            path.rename(path.with_name(f"{text} {path.name}"))
        for path in files[2::11]:
            # Some of them have just been renamed.
            path.unlink(missing_ok=True)

    def start(self):
        with open(self.log, "ab") as errors:
            self.process = subprocess.Popen(
                [str(self.binary), "run", str(self.source), self.url, "--state", str(self.state)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=self.environment)
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self.name} did not get ready:\n{self.log_tail()}")

    def log_tail(self):
        return self.log.read_text(errors="replace")[-3000:]

    def has_saved(self):
        """Nothing is left to do for what is in the source now."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
        try:
            connection = sqlite3.connect(f"file:{self.state}/queue.db?mode=ro", uri=True, isolation_level=None)
        except sqlite3.OperationalError:
            return False
        with contextlib.closing(connection):
            if connection.execute("SELECT 1 FROM job LIMIT 1").fetchone():
                return False
            (stored,) = connection.execute(
                "SELECT count(*) FROM name WHERE ended_at IS NULL AND kind = 'file' AND copy_id IS NOT NULL").fetchone()
        return stored == sum(1 for path in self.source.rglob("*") if path.is_file())

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"{self.name} did not stop within 60 s:\n{self.log_tail()}") from None

    def restore(self):
        """From the bucket alone, without the state."""
        back = self.directory / "back"
        back.mkdir()
        done = subprocess.run(
            [str(self.binary), "restore", ".", "--to", str(back), "--from", self.url], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: restore: exit {done.returncode}\n{done.stdout.decode()[-3000:]}")
        compared = subprocess.run(["diff", "-r", str(self.source), str(back)], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if compared.returncode != 0:
            raise RuntimeError(f"{self.name}: the restored tree differs:\n{compared.stdout.decode()[-3000:]}")
        shutil.rmtree(back)


def curl(cluster, keys, method, path, *more):
    """The status of a request that curl signs."""
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", "--aws-sigv4",
         "aws:amz:us-east-1:s3", "--user", ":".join(keys), "-X", method, *more, f"{cluster.endpoint}/{path}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    return done.stdout.decode()


def make_bucket(cluster, keys):
    return curl(cluster, keys, "PUT", BUCKET, "-H", f"x-amz-content-sha256: {EMPTY}") == "200"


def try_cluster(cluster):
    """Objects are stored and read while a store is missing, and when it is back all copies become whole."""
    keys = ("AKTRYFLEET", "secret-of-try")
    cluster.make_user("try", *keys)
    cluster.start_gateway()
    wait_for("the bucket", lambda: make_bucket(cluster, keys))
    cluster.stop("osd.1", signal.SIGKILL)

    def store(name):
        body = f"content of {name}"
        digest = hashlib.sha256(body.encode()).hexdigest()
        return curl(cluster, keys, "PUT", f"{BUCKET}/{name}", "--data-binary", body, "-H",
                    f"x-amz-content-sha256: {digest}")

    answers = {store(f"object-{number}") for number in range(20)}
    if answers != {"200"}:
        raise RuntimeError(f"storing with a store missing was answered {answers}")
    wrong = curl(cluster, (keys[0], "wrong"), "GET", f"{BUCKET}/object-1", "-H", f"x-amz-content-sha256: {EMPTY}")
    if wrong != "403":
        raise RuntimeError(f"a wrong key was answered {wrong}")
    cluster.start_store(1)
    wait_for("the store is up again", lambda: cluster.stores_up() == 3)
    wait_for("all copies are whole again", cluster.is_clean, 300)
    print("the cluster stored 20 objects with a store missing, and made all copies whole when it was back", flush=True)


def run_fleet(cluster, directory, binary, count, ready_after):
    began = time.monotonic()

    def tell(text):
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    members = [Member(name, pathlib.Path(directory), binary, cluster) for name in ("one", "two", "three")]
    cluster.make_user("fleet", *members[0].keys)
    for member in members[1:]:
        access, secret = member.keys
        cluster.call("radosgw-admin", "-n", "client.rgw.a", "key", "create", "--uid=fleet", "--key-type=s3",
                     f"--access-key={access}", f"--secret-key={secret}")
    cluster.start_gateway()
    wait_for("the bucket", lambda: make_bucket(cluster, members[0].keys))
    tell(f"the cluster is up (the stores after {ready_after:.0f} s)")
    with contextlib.ExitStack() as stack:
        for member in members:
            member.write(count, "first")
            stack.callback(member.stop)
            member.start()
        tell(f"3 agents save {count} files and 48 MiB each; object store 1 is killed")
        cluster.stop("osd.1", signal.SIGKILL)
        for member in members:
            member.change("renamed")
            member.write(count // 3, "second")
        wait_for("all is saved on two object stores", lambda: all(member.has_saved() for member in members), 600)
        tell("all is saved with one object store missing; it comes back, and another one goes")
        cluster.start_store(1)
        wait_for("object store 1 is up again", lambda: cluster.stores_up() == 3)
        wait_for("all copies are whole again", cluster.is_clean, 300)
        cluster.stop("osd.2", signal.SIGKILL)
        # Now the gateway goes too, in the middle of new work.
        for member in members:
            member.write(count // 3, "third")
        cluster.stop("rgw", signal.SIGKILL)
        for member in members:
            member.change("again")
        cluster.start_store(2)
        cluster.start_gateway()
        tell("the gateway was killed in between, and is back")
        wait_for("all is saved again", lambda: all(member.has_saved() for member in members), 900)
        for member in members:
            member.stop()
        tell("the agents have stopped")
    for member in members:
        member.restore()
    tell("what was restored from the bucket alone equals the three sources; nothing was lost")
