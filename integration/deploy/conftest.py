"""What the tests share: the laboratory, the inventory, and a way to run a playbook and to load the cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import ansible_mitogen
import pytest
import yaml

from machines import BUCKET, CONTROLLER, PLACE, REPOSITORY, STORE_KEY, STORE_PORT, STORE_SECRET, Laboratory, wait_until
from versions import Release

NAMES = "abcd"
DISK_BYTES = 640 << 20
FIRST = ("a", "b", "c")
# Any setting can be given as a secret; the effect of this one is seen from outside.
SECRET = "https://secret.example"
HERE = Path(__file__).resolve().parent

CONFIG = """
[defaults]
collections_path={collections}
host_key_checking=False
interpreter_python=/usr/bin/python3
forks=8
timeout=30
{strategy}
nocows=True
[ssh_connection]
pipelining=True
# Connections of an earlier laboratory, whose machines had the same addresses, must not be found.
control_path_dir={sockets}
ssh_args=-F none -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR
"""


def strategy():
    """How tasks are carried out: by an interpreter that stays on each machine, instead of one for each task, which costs more than
    most tasks do. Plainly where that is asked for."""
    if os.environ.get("URSULA_TEST_PLAIN"):
        return ""
    return f"strategy=mitogen_linear\nstrategy_plugins={Path(ansible_mitogen.__file__).parent}/plugins/strategy"


# Characters of a line, and of all that an error says of a play: a result has all that a task was given.
LINE_MAX, TOLD_MAX = 1500, 4000


def shortened(line):
    """Its beginning and its end: the names in a result are in the order of the alphabet, and why it failed is behind what was run."""
    return line if len(line) <= LINE_MAX else f"{line[:LINE_MAX // 3]} … {line[-2 * LINE_MAX // 3:]}"


def tasks(text, *words):
    """The tasks of a play in which a machine's line begins so, with those lines."""
    found = []
    for block in re.split(r"^(?=TASK |RUNNING HANDLER |PLAY )", text, flags=re.M):
        title, _end, lines = block.partition("\n")
        told = [shortened(line) for line in lines.splitlines() if line.startswith(words)]
        if told:
            found.append("\n".join([title.rstrip("* "), *told]))
    return "\n".join(found)


class Played:
    """What a playbook said."""

    def __init__(self, code, text):
        self.code, self.text = code, text
        row = r"^(\w+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)"
        self.hosts = {m[1]: [int(n) for n in m.groups()[1:]] for m in re.finditer(row, text, re.M)}

    @property
    def changed(self):
        return sum(row[1] for row in self.hosts.values())

    def said(self):
        """Without the breaks and quotes of the output."""
        return re.sub(r'[\s"\\]+', " ", self.text)


class Site:
    """The inventory and the laboratory it describes."""

    def __init__(self, lab):
        self.lab = lab
        self.release, self.next = Release(PLACE / "packages"), Release(PLACE / "next")
        self.is_formed = False
        self.nodes = {name: lab[name].number for name in FIRST}
        # Variables of one machine.
        self.own = {}
        self.variables = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(lab.key),
            "ursula_version": self.release.version,
            # As one would write it, where the commands are run.
            "ursula_source": os.path.relpath(self.release.package, REPOSITORY),
            "ursula_cluster_id": "deploy-test",
            # The machines share two CPUs, and a disk that others write to.
            "ursula_settings": {
                "core_count": 1, "no_pin": True, "raft_group_count": 8, "wal_segment_bytes": "4MiB", "checkpoint_bytes": "1MiB",
                "hot_bytes_max": "64MiB", "election_timeout_ms": "1s",
                "cold": f"s3://{BUCKET}/deploy", "s3_endpoint": f"http://{CONTROLLER}:{STORE_PORT}", "s3_access_key_id": STORE_KEY,
                "cold_flush_age_ms": "1s", "scrub_interval_ms": "5s", "scrub_bytes_per_second": "64MiB", "dr": True, "dr_interval_ms": "2s",
                # Beside the data: the unit may write there, too.
                "cache_dir": "/srv/ursula-cache", "cache_bytes": "64MiB",
            },
            "ursula_secrets": {"cors_allow_origin": SECRET, "s3_secret_access_key": STORE_SECRET},
            "ursula_preflight_free_bytes_min": 100 << 20,
            "ursula_preflight_probe_ms": 100,
            # The clock is that of the machine below, which nobody synchronises in a test.
            "ursula_preflight_warn_only": ["clock.sync"],
            "ursula_wait_s": 60,
        }
        # A socket's path is short.
        sockets = tempfile.mkdtemp(prefix="ursula-deploy-")
        self.settings = lab.place / "ansible.cfg"
        self.settings.write_text(CONFIG.format(collections=PLACE / "collections", sockets=sockets, strategy=strategy()))

    def form(self):
        """From bare machines to a cluster."""
        self.play("site")
        self.is_formed = True

    def wipe(self):
        """The first machines are as if nothing had been deployed, but for their user and kernel settings."""
        for name in FIRST:
            self.lab[name].ssh("systemctl disable --quiet --now ursula", check=False)
        for name in FIRST:
            self.lab[name].ssh("rm -rf /etc/ursula /opt/ursula /usr/local/bin/ursula /etc/systemd/system/ursula.service*; "
                               "find /var/lib/ursula -mindepth 1 -delete; systemctl daemon-reload")
        self.is_formed = False

    def grow(self):
        """One machine more, where it is not there yet."""
        if "d" not in self.nodes:
            self.nodes["d"] = self.lab["d"].number
            self.play("add_node", variables={"ursula_node": "d"})

    def inventory(self):
        hosts = {
            n: {"ansible_host": self.lab[n].address, "ursula_node_id": i, **self.own.get(n, {})} for n, i in self.nodes.items()
        }
        groups = {
            "ursula": {"hosts": hosts, "vars": self.variables},
            "ursula_monitoring": {"hosts": {"m": self.watcher}} if getattr(self, "watcher", None) else {},
        }
        file = self.lab.place / "inventory.yml"
        file.write_text(yaml.safe_dump(groups))
        return file

    def play(self, playbook, *flags, variables=None, wanted=0):
        """Runs a playbook of the collection; `wanted` is its exit code, None any."""
        command = ["ansible-playbook", "-i", self.inventory(), f"ursula.cluster.{playbook}", *flags]
        if variables:
            command += ["-e", json.dumps(variables)]
        return self.run(command, wanted)

    def environment(self, place=REPOSITORY):
        """Of a command in a directory."""
        return {**os.environ, "PWD": str(place), "ANSIBLE_CONFIG": str(self.settings), "ANSIBLE_NOCOLOR": "1"}

    def run(self, command, wanted=0, place=REPOSITORY, more=None):
        """Runs a command of Ansible, with `more` in its environment."""
        done = self.lab.start(
            *command, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**self.environment(place), **(more or {})}, start_new_session=True,
        )
        try:
            text, _none = done.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, signal.SIGKILL)
            text, _none = done.communicate()
            print("\n".join(text.splitlines()[-60:]), file=sys.stderr)
            raise
        (self.lab.place / "last-play.log").write_text(text)
        if wanted is not None and done.returncode != wanted:
            print(tasks(text, "changed:", "fatal:", "failed:"), file=sys.stderr)
            failed = tasks(text, "fatal:", "failed:") or text[-TOLD_MAX:]
            raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{failed[:TOLD_MAX]}")
        return Played(done.returncode, text)

    def break_off(self, playbook, when):
        """Kills a playbook once it is so, as a controller's end does; what it had said."""
        out = self.lab.place / "broken-off.log"
        command = ["ansible-playbook", "-i", self.inventory(), f"ursula.cluster.{playbook}"]
        with open(out, "w") as file:
            playing = self.lab.start(
                *command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self.environment(),
                start_new_session=True,
            )
            try:
                wait_until(f"{playbook} is so far", 120, when)
                assert playing.poll() is None, out.read_text()
            finally:
                os.killpg(playing.pid, signal.SIGKILL)
                playing.wait()
        return out.read_text()

    def status(self, at="a"):
        """Asked until the node answers: it may only just have been started."""
        command = f"ursula cluster --at {self.lab[at].address}:4447 status --json"

        def answer():
            done = self.lab[at].ssh(command, check=False)
            return done.returncode == 0 and done.stdout

        return json.loads(wait_until(f"{at} tells its status", 20, answer))

    def fetch(self, name, path, method="GET", data=None, port=4437):
        """Status and body from a node's HTTP port."""
        url = f"http://{self.lab[name].address}:{port}{path}"
        more = ["--data-binary", data, "-H", "Content-Type: text/plain"] if data is not None else []
        out = self.lab.inside("curl", "-s", "-m", "20", "-X", method, "-w", "\n%{http_code}", *more, url)
        body, _sep, status = out.rpartition("\n")
        return int(status), body

    @contextmanager
    def load(self):
        """Clients run while the block does; afterwards nothing may have failed or be lost."""
        out = self.lab.place / "load.json"
        out.unlink(missing_ok=True)
        addresses = [machine.address for machine in self.lab.machines.values()]
        clients = self.lab.start(
            sys.executable, HERE / "load.py", out, *addresses, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert clients.stdout.readline().strip() == "started"
            report = {}
            yield report
            clients.stdin.close()
            clients.wait(120)
            report.update(json.loads(out.read_text()))
        finally:
            if clients.poll() is None:
                clients.kill()
        print(f"load: {report}")
        assert not report["failures"], report
        assert report["acknowledged"] > 20, report

    def tree(self, name):
        """All that a deployment could change on a machine."""
        # Not the times of directories: a probe of the disk comes and goes; nor when a running node looked at its disk.
        look = "find /etc /opt /usr/local /var/lib/ursula -name 'scrub-*' -prune -or -type d -printf '%p %m %u\\n' -or -printf '%p %s %T@ %m %u\\n' | sort"
        return self.lab[name].ssh(look + "; systemctl list-units --plain --no-legend 'ursula*'").stdout.splitlines()


@pytest.fixture(scope="session")
def site():
    assert os.geteuid() == 0, "the machines need root"
    # Ended from outside, it still takes its machines down.
    signal.signal(signal.SIGTERM, lambda *_given: sys.exit("ended by a signal"))
    lab = Laboratory(NAMES, DISK_BYTES)
    try:
        lab.open()
        yield Site(lab)
    finally:
        lab.close()


@pytest.fixture
def bare(site):
    """Machines on which nothing was deployed yet."""
    assert not site.is_formed
    return site


@pytest.fixture
def cluster(site):
    """A cluster of the first machines, from the package; formed here where the test that shows it was left out."""
    if not site.is_formed:
        site.form()
    return site


@pytest.fixture
def four(cluster):
    """The same with one node more, which is left where the next test needs it too."""
    cluster.grow()
    return cluster


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails shows what the nodes said last."""
    outcome = yield
    report = outcome.get_result()
    site = item.funcargs.get("site") if hasattr(item, "funcargs") else None
    if report.when != "call" or not report.failed or site is None:
        return
    for name, machine in site.lab.machines.items():
        try:
            text = machine.ssh("journalctl -u ursula -n 40 --no-pager -o cat; df -h / /var/lib/ursula", check=False).stdout
        except Exception as error:  # noqa: BLE001 - the report of a failure must not fail
            text = str(error)
        report.sections.append((f"machine {name}", text))
    # What all of them share: who ran out of it is found here.
    shared = f"uptime; free -m; df -h {PLACE}; ps -eL | wc -l; dmesg | tail -n 15"
    looked = subprocess.run(shared, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    report.sections.append(("the machine below", looked.stdout))


