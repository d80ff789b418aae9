"""A small real Ceph on the loopback, in a directory of its own: one monitor, one manager, three object stores and one
S3 gateway, each a process that is stopped by its number."""

import json
import pathlib
import signal
import socket
import subprocess
import time
import uuid

PACKAGES = ["ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "ceph-common"]
STORES = (0, 1, 2)


def free_ports(count):
    """Ports of the loopback that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for(what, question, limit=120):
    """Returns the first true answer."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(0.2)
    raise RuntimeError(f"{what}: not after {limit} s")


class Cluster:
    """Start with `with`: at the end everything is stopped, also after a failure."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.configuration = self.directory / "ceph.conf"
        self.keyring = self.directory / "keyring"
        self.processes = {}
        self.stores = {number: str(uuid.uuid4()) for number in STORES}
        self.fsid = str(uuid.uuid4())
        self.v1, self.v2, self.gateway = free_ports(3)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.gateway}"

    def write_configuration(self):
        here = self.directory
        here.mkdir(parents=True)
        (here / "run").mkdir()
        self.configuration.write_text(f"""\
[global]
fsid = {self.fsid}
mon host = [v2:127.0.0.1:{self.v2}/0,v1:127.0.0.1:{self.v1}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
keyring = {self.keyring}
run dir = {here}/run
admin socket = {here}/run/$name.asok
log file = {here}/$name.log
pid file = {here}/run/$name.pid
crash dir = {here}/run
osd pool default size = 3
osd pool default min size = 2
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
mon allow pool delete = true
mon warn on pool no redundancy = false
mon osd nearfull ratio = 0.97
mon osd backfillfull ratio = 0.98
mon osd full ratio = 0.99
osd failsafe full ratio = 0.995
mon data avail warn = 2
mon data avail crit = 1
mon data = {here}/mon
mgr data = {here}/mgr
osd data = {here}/osd$id
bluestore block size = {4 << 30}
osd memory target = 939524096
[client.rgw.a]
rgw data = {here}/rgw
rgw frontends = beast endpoint=127.0.0.1:{self.gateway}
rgw dns name = localhost
rgw enable usage log = false
""")
        for name in ["mon", "mgr", "rgw"] + [f"osd{number}" for number in STORES]:
            (here / name).mkdir()

    def call(self, program, *arguments, **options):
        """A command of Ceph's that must succeed; what it printed."""
        done = subprocess.run(
            [program, "-c", str(self.configuration), *map(str, arguments)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, **options)
        if done.returncode != 0:
            raise RuntimeError(f"{program} {arguments}: exit {done.returncode}\n{done.stderr.decode()[-2000:]}")
        return done.stdout.decode()

    def ceph(self, *arguments):
        return self.call("ceph", "--connect-timeout", "60", *arguments)

    def start_process(self, name, program, *arguments):
        output = open(self.directory / f"{name}.out", "ab")
        with output:
            self.processes[name] = subprocess.Popen(
                [program, "-c", str(self.configuration), "-f", *map(str, arguments)], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True)

    def make_keys(self):
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        daemon = ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *", "--cap", "mgr", "allow profile osd"]
        manager = ["--cap", "mon", "allow profile mgr", "--cap", "osd", "allow *", "--cap", "mds", "allow *"]
        gateway = ["--cap", "mon", "allow rwx", "--cap", "osd", "allow rwx", "--cap", "mgr", "allow rw"]
        names = {"mon.": ["--cap", "mon", "allow *"], "client.admin": everything, "client.rgw.a": gateway,
                 "mgr.x": manager} | {f"osd.{number}": daemon for number in STORES}
        for index, (name, rights) in enumerate(names.items()):
            new = ["--create-keyring"] if index == 0 else []
            subprocess.run(["ceph-authtool", *new, str(self.keyring), "--gen-key", "-n", name, *rights], check=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def start(self):
        self.write_configuration()
        self.make_keys()
        monmap = self.directory / "monmap"
        subprocess.run(
            ["monmaptool", "--create", "--clobber", "--fsid", self.fsid, "--addv", "a",
             f"[v2:127.0.0.1:{self.v2},v1:127.0.0.1:{self.v1}]", str(monmap)],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", self.keyring)
        self.start_process("mon", "ceph-mon", "-i", "a")
        self.ceph("mon", "stat")
        self.start_process("mgr", "ceph-mgr", "-i", "x")
        for number, identity in self.stores.items():
            self.ceph("osd", "new", identity, number)
            self.call("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", identity)
            self.start_store(number)
        wait_for("all object stores up", lambda: self.stores_up() == len(STORES))
        wait_for("the manager", lambda: self.state()["mgrmap"]["available"])

    def start_store(self, number):
        self.start_process(f"osd.{number}", "ceph-osd", "-i", number)

    def start_gateway(self):
        self.start_process("rgw", "radosgw", "-n", "client.rgw.a")

        def listens():
            if self.processes["rgw"].poll() is not None:
                raise RuntimeError(f"the gateway ended: {(self.directory / 'rgw.out').read_text()[-2000:]}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.gateway)) == 0

        wait_for("the gateway", listens, 180)

    def make_user(self, name, access, secret):
        self.call("radosgw-admin", "-n", "client.rgw.a", "user", "create", f"--uid={name}", f"--display-name={name}",
                  f"--access-key={access}", f"--secret-key={secret}")

    def state(self):
        return json.loads(self.ceph("-s", "-f", "json"))

    def stores_up(self):
        return self.state()["osdmap"]["num_up_osds"]

    def is_clean(self):
        """Every placement group has all its copies, up to date."""
        groups = self.state()["pgmap"]
        return groups["num_pgs"] > 0 and all(
            state["state_name"].startswith("active+clean") for state in groups["pgs_by_state"])

    def stop(self, name, number=signal.SIGTERM, limit=60):
        process = self.processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop_all()
            raise
        return self

    def __exit__(self, *_):
        self.stop_all()

    def stop_all(self):
        """The gateway first: it waits for the others."""
        for name in ["rgw"] + [f"osd.{number}" for number in STORES] + ["mgr", "mon"]:
            self.stop(name)
