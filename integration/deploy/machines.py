"""Machines for the deployment test: Debian with its own systemd, sshd and network, by systemd-nspawn.

Owns a network namespace with a bridge, an overlay root and a data disk (a small ext4 in a file) for each machine. All of it
is in one directory under target/ and is gone when the laboratory closes. Needs root.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
PLACE = TARGET / "deploy"
# Debian 12, and 13 for one of the first three.
RELEASES = {"a": "bookworm", "b": "bookworm", "c": "trixie", "d": "bookworm"}
# As in the READMEs, whose inventory is played as it stands.
NETWORK = "10.0.0."
CONTROLLER = NETWORK + "254"
BOOT_S = 90
STORE_PORT = "9000"
BUCKET = "ursula"
STORE_KEY = "deploy"
STORE_SECRET = "a-secret-of-the-store"
# What nspawn's filter leaves out and the server needs.
SYSTEM_CALLS = "@io-event io_uring_setup io_uring_enter io_uring_register"


def run(*command, check=True, **more):
    """Runs a command and returns what it printed; its error output is in the exception."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(what, seconds, is_so, pause=0.2):
    """Asks until it is so."""
    end = time.monotonic() + seconds
    while True:
        found = is_so()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)


@dataclass
class Machine:
    """One machine, named by a letter."""

    name: str
    number: int
    place: Path
    lab: "Laboratory"
    disk_bytes: int
    process: subprocess.Popen | None = None
    log: object = field(default=None, repr=False)

    @property
    def address(self):
        return NETWORK + str(self.number)

    @property
    def root(self):
        return self.place / "root"

    @property
    def disk(self):
        return self.place / "disk"

    def prepare(self):
        for part in ("upper", "work", "root", "disk"):
            (self.place / part).mkdir(parents=True)
        image = self.place / "disk.img"
        with open(image, "wb") as file:
            file.truncate(self.disk_bytes)
        run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,root_owner=0:0", image)
        run("mount", "-o", "loop,noatime", image, self.disk)
        base = PLACE / f"base-{RELEASES[self.name]}"
        layers = f"lowerdir={base},upperdir={self.place}/upper,workdir={self.place}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        run("ssh-keygen", "-A", "-f", self.root)
        self.write("etc/hostname", self.name + "\n")
        self.write("etc/machine-id", "")
        network = f"[Match]\nName=host0\n[Network]\nAddress={self.address}/24\nLinkLocalAddressing=no\n"
        self.write("etc/systemd/network/10-host0.network", network)
        self.write("root/.ssh/authorized_keys", self.lab.key.with_suffix(".pub").read_text(), mode=0o600)
        os.chmod(self.root / "root/.ssh", 0o700)
        hosts = "".join(f"{m.address} {m.name}\n" for m in self.lab.machines.values())
        self.write("etc/hosts", "127.0.0.1 localhost\n" + hosts)

    def write(self, path, text, mode=0o644):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def boot(self):
        self.log = open(self.place / "console.log", "ab")
        command = [
            "nsenter", f"--net=/run/netns/{self.lab.namespace}",
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe",
            f"--directory={self.root}", f"--machine=ursula-{self.lab.tag}-{self.name}", f"--network-bridge={self.lab.bridge}",
            f"--bind={self.disk}:/var/lib/ursula", f"--system-call-filter={SYSTEM_CALLS}",
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)

    def await_boot(self):
        def answers():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} has ended: {self.console()[-2000:]}")
            try:
                return self.ssh("true", check=False, patience=5).returncode == 0
            except subprocess.TimeoutExpired:
                return False

        wait_until(f"{self.name} answers ssh: {self.console()[-500:]}", BOOT_S, answers)

    def console(self):
        return (self.place / "console.log").read_text(errors="replace")

    def ssh(self, command, check=True, patience=60):
        line = ["nsenter", f"--net=/run/netns/{self.lab.namespace}", "ssh", *self.lab.ssh_options, f"root@{self.address}", command]
        done = subprocess.run(line, capture_output=True, text=True, timeout=patience)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def stop(self):
        """The end of the machine as if its power went."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(20)
        if self.log:
            self.log.close()
            self.log = None

    def leader(self):
        """The machine's process 1, as seen from outside."""
        return int(run("pgrep", "--parent", self.process.pid).split()[0])

    def crash(self):
        """All its processes end at once, and its disk is as they left it."""
        os.kill(self.leader(), signal.SIGKILL)
        self.process.wait(20)

    def close(self):
        self.stop()
        for mount in (self.root, self.disk):
            if os.path.ismount(mount):
                run("umount", "--lazy", mount)


class Laboratory:
    """Machines on one bridge, and the place from which they are managed."""

    def __init__(self, names, disk_bytes):
        self.tag = str(os.getpid())
        self.namespace = f"ursula-deploy-{self.tag}"
        self.bridge = "br0"
        self.store = None
        # Two may run beside each other.
        self.place = PLACE / os.environ.get("URSULA_TEST_LABORATORY", "lab")
        self.key = self.place / "key"
        self.ssh_options = [
            "-i", str(self.key), "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20", "-o", "BatchMode=yes",
        ]
        self.machines = {n: Machine(n, i + 1, self.place / n, self, disk_bytes) for i, n in enumerate(names)}

    def __getitem__(self, name):
        return self.machines[name]

    def open(self):
        clear(self.place)
        self.place.mkdir(parents=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        run("ip", "netns", "add", self.namespace)
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "link", "add", self.bridge, "type", "bridge")
        self.inside("ip", "address", "add", CONTROLLER + "/24", "dev", self.bridge)
        self.inside("ip", "link", "set", self.bridge, "up")
        for machine in self.machines.values():
            machine.prepare()
        for machine in self.machines.values():
            machine.boot()
        self.start_store()
        for machine in self.machines.values():
            machine.await_boot()

    def inside(self, *command, **more):
        """Runs a command where the machines can be reached."""
        return run("nsenter", f"--net=/run/netns/{self.namespace}", *command, **more)

    def start(self, *command, **more):
        """Starts a command there."""
        return subprocess.Popen(["nsenter", f"--net=/run/netns/{self.namespace}", *map(str, command)], **more)

    def start_store(self):
        """An S3 server where all machines reach it; what it kept before a stop is there again."""
        (self.place / "s3" / BUCKET).mkdir(parents=True, exist_ok=True)
        self.store = self.start(
            REPOSITORY / "target/tools/bin/s3s-fs", "--host", CONTROLLER, "--port", STORE_PORT, "--access-key", STORE_KEY,
            "--secret-key", STORE_SECRET, self.place / "s3",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        address = f"http://{CONTROLLER}:{STORE_PORT}/"
        wait_until("the S3 server answers", 10, lambda: self.inside("curl", "-s", "-o", "/dev/null", "-w", "up", address, check=False))

    def stop_store(self):
        self.store.kill()
        self.store.wait()

    def close(self):
        if self.store:
            self.stop_store()
        for machine in self.machines.values():
            if machine.process and machine.process.poll() is None:
                os.killpg(machine.process.pid, signal.SIGTERM)
        for machine in self.machines.values():
            machine.close()
        run("ip", "netns", "delete", self.namespace, check=False)
        if os.environ.get("URSULA_TEST_KEEP") != "1":
            clear(self.place)


def clear(place):
    """Takes a laboratory's directory away, also one that an earlier run left mounted."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounted if m.startswith(str(place) + "/")), reverse=True):
        run("umount", "--lazy", mount, check=False)
    shutil.rmtree(place, ignore_errors=True)
