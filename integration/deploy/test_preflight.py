"""What the preflight and the gate find, each by a machine or cluster that has just that fault. Without machines: what they read is given."""

import errno
import importlib.util
import json
import os
import socket
import types

import pytest

from machines import REPOSITORY


def load(name):
    """A module of the collection, as Python."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"ansible/plugins/modules/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


preflight, health = load("preflight"), load("health")
EXT4 = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw"
# Files of a machine without fault.
SOUND = {
    "/proc/sys/kernel/io_uring_disabled": "0",
    "/proc/1/limits": "Max locked memory         8388608 8388608 bytes\nMax open files            1024 1048576 files",
    "/proc/1/status": "CapEff:\t0000000000000000",
    "/proc/sys/fs/nr_open": "1048576",
    "/proc/meminfo": "MemTotal:       33554432 kB",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    "/proc/self/mountinfo": EXT4,
    "governor": "performance",
}


def found(monkeypatch, tmp_path, files=None, wish=None, release="6.18.1", rings=True, synced=True, said=None):
    """The findings of a machine: id to severity. `said`: what its programs answer to which command."""
    files = {**SOUND, **(files or {})}
    wishes = {
        "data_dir": str(tmp_path), "programs": [], "settings": "", "service": "ursula", "listen": [], "names": [], "core_count": 1,
        "free_bytes_min": 1, "sync_p99_ms_max": 10_000, "probe_ms": 20, "lifts_io_uring": False, "warn_only": [], **(wish or {}),
    }

    class Libc:
        def syscall(self, *_given):
            return os.open("/dev/null", os.O_RDONLY) if rings else -1

        def adjtimex(self, timex):
            preflight.ctypes.c_int.from_buffer(timex, 40).value = 0 if synced else preflight.STA_UNSYNC
            return 0

    monkeypatch.setattr(preflight, "text_of", lambda path, default="": files.get(path, default))
    monkeypatch.setattr(preflight.glob, "glob", lambda _pattern: ["governor"])
    monkeypatch.setattr(preflight.platform, "release", lambda: release)
    monkeypatch.setattr(preflight.ctypes, "CDLL", lambda *_given, **_more: Libc())
    monkeypatch.setattr(preflight.os.path, "isdir", lambda path, isdir=os.path.isdir: path == "/run/systemd/system" or isdir(path))

    def run_command(command, **_more):
        return (said or {}).get(" ".join(command), (1, "", ""))

    programs = {command.split()[0] for command in said or {}}
    module = types.SimpleNamespace(params=wishes, run_command=run_command, get_bin_path=lambda name: name if name in programs else None)
    checks = preflight.Checks(module)
    checks.run()
    assert all(one["current"] and one["wanted"] and one["fix"] for one in checks.findings), checks.findings
    return {one["id"]: one["severity"] for one in checks.findings}


def mount(kind="ext4", options="rw,relatime", more="rw"):
    return {"/proc/self/mountinfo": f"1 0 8:1 / / {options} shared:1 - {kind} /dev/a {more}"}


FAULTS = [
    ("kernel.version", "fatal", {"release": "5.4.0-42"}),
    ("kernel.io_uring_bugs", "warning", {"release": "6.12.20"}),
    ("kernel.io_uring", "fatal", {"files": {"/proc/sys/kernel/io_uring_disabled": "2"}}),
    ("kernel.io_uring", "fatal", {"rings": False}),
    ("limits.memlock", "fatal", {"files": {"/proc/1/limits": "Max locked memory 65536 65536 bytes"}}),
    ("limits.nofile", "warning", {"files": {"/proc/1/limits": "Max open files 1024 4096 files"}}),
    ("limits.nofile", "fatal", {"files": {"/proc/sys/fs/nr_open": "65536"}}),
    ("cpu.count", "fatal", {"wish": {"core_count": 4096}, "files": {"/proc/1/limits": ""}}),
    ("cpu.governor", "warning", {"files": {"governor": "powersave"}}),
    ("memory.per_core", "warning", {"files": {"/proc/meminfo": "MemTotal: 262144 kB"}}),
    ("clock.sync", "fatal", {"synced": False}),
    ("clock.sync", "warning", {"synced": False, "wish": {"warn_only": ["clock.sync"]}}),
    ("clock.source", "warning", {"files": {"/sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet"}}),
    ("data.filesystem", "fatal", {"files": mount("nfs4")}),
    ("data.filesystem", "fatal", {"files": mount("tmpfs")}),
    ("data.filesystem", "warning", {"files": mount("btrfs")}),
    ("data.mount_options", "fatal", {"files": mount(options="ro,relatime")}),
    ("data.mount_options", "warning", {"files": mount(more="rw,discard")}),
    ("data.mount_barrier", "fatal", {"files": mount(more="rw,nobarrier")}),
    ("data.free", "fatal", {"wish": {"free_bytes_min": 1 << 60}}),
    ("disk.fsync", "warning", {"wish": {"sync_p99_ms_max": 0}}),
    ("net.listen", "fatal", {"wish": {"listen": ["192.0.2.1:4437"]}}),
    ("net.names", "fatal", {"wish": {"names": ["no.such.host.invalid"]}}),
    # As RHEL 9 has it, and Ubuntu where someone has switched it on.
    ("net.firewall", "warning", {"wish": {"listen": ["127.0.0.1:0", "0.0.0.0:0"]}, "said": {"firewall-cmd --state": (0, "running", "")}}),
    ("net.firewall", "warning", {"wish": {"listen": ["0.0.0.0:0"]}, "said": {"ufw status": (0, "Status: active\n22/tcp  ALLOW  Anywhere", "")}}),
]


def test_a_sound_machine_has_no_finding(monkeypatch, tmp_path):
    assert found(monkeypatch, tmp_path, wish={"listen": ["127.0.0.1:0"], "names": ["127.0.0.1"]}) == {}


@pytest.mark.parametrize(("check", "severity", "fault"), FAULTS)
def test_each_fault_is_found_and_nothing_else(monkeypatch, tmp_path, check, severity, fault):
    # A lookup and the memory that many cores need are findings of their own.
    others = {"memory.per_core"} if check == "cpu.count" else set()
    faults = found(monkeypatch, tmp_path, **fault)
    assert faults.pop(check) == severity
    assert set(faults) <= others, faults


SOUND_SYSTEMS = {
    "firewalld lets in": {"wish": {"listen": ["0.0.0.0:0"]},
                          "said": {"firewall-cmd --state": (0, "running", ""), "firewall-cmd --query-port=0/tcp": (0, "yes", "")}},
    "firewalld does not run": {"wish": {"listen": ["0.0.0.0:0"]}, "said": {"firewall-cmd --state": (252, "", "not running")}},
    "ufw lets in": {"wish": {"listen": ["0.0.0.0:0"]}, "said": {"ufw status": (0, "Status: active\n0/tcp    ALLOW   10.0.0.0/24", "")}},
    "ufw is off": {"wish": {"listen": ["0.0.0.0:0"]}, "said": {"ufw status": (0, "Status: inactive", "")}},
    # A kernel of RHEL 9, which the role host then has allow it.
    "io_uring is allowed later": {"release": "5.14.0-427.el9", "rings": False, "wish": {"lifts_io_uring": True},
                                  "files": {"/proc/sys/kernel/io_uring_disabled": "2"}},
}


@pytest.mark.parametrize("name", SOUND_SYSTEMS)
def test_what_other_systems_have_is_no_finding_where_it_is_in_order(monkeypatch, tmp_path, name):
    assert found(monkeypatch, tmp_path, **SOUND_SYSTEMS[name]) == {}


def test_a_port_that_is_taken_is_found_and_one_of_the_node_itself_is_not(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        wish = {"listen": [f"127.0.0.1:{holder.getsockname()[1]}"]}
        assert found(monkeypatch, tmp_path, wish=wish) == {"net.listen": "fatal"}
        monkeypatch.setattr(preflight.Checks, "is_running", lambda _self: True)
        assert found(monkeypatch, tmp_path, wish=wish) == {}


def test_a_directory_with_something_else_and_a_disk_without_direct_writes_are_refused(monkeypatch, tmp_path):
    (tmp_path / "photos").mkdir()
    assert found(monkeypatch, tmp_path) == {"data.content": "fatal"}
    (tmp_path / "node.ursula").touch()
    opened = os.open

    def no_direct(path, flags, *given):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return opened(path, flags, *given)

    monkeypatch.setattr(preflight.os, "open", no_direct)
    assert found(monkeypatch, tmp_path) == {"data.direct_io": "fatal"}
    assert sorted(os.listdir(tmp_path)) == ["node.ursula", "photos"], "the probe is gone"


def test_names_are_looked_up_both_ways(monkeypatch, tmp_path):
    addresses = {"a.example": "192.0.2.1", "b.example": "192.0.2.2", "c.example": "192.0.2.3", "here": "127.0.1.1"}
    names = {"192.0.2.1": "a.example", "192.0.2.2": "other.example"}

    def back(address):
        if address not in names:
            raise OSError("no name")
        return names[address], [], [address]

    monkeypatch.setattr(preflight.socket, "getaddrinfo", lambda name, _port: [(0, 0, 0, "", (addresses[name], 0))])
    monkeypatch.setattr(preflight.socket, "gethostbyaddr", back)
    wanted = [
        (["a.example"], {}),
        (["a.example", "b.example"], {"net.names_reverse": "warning"}),
        (["a.example", "c.example"], {"net.names_reverse": "warning"}),
        (["a.example", "here"], {"net.names_loopback": "fatal"}),
    ]
    for given, finds in wanted:
        assert found(monkeypatch, tmp_path, wish={"names": given}) == finds


def whole():
    """A cluster without fault."""
    groups = [{"group": g, "leader": 1, "trouble": "", "voters": [1, 2, 3], "learners": [], "applied": 9} for g in range(2)]
    own = [{"group": g, "applied": 9} for g in range(2)]
    nodes = [{"node": n, "cluster": f"n{n}", "groups_led": 2 if n == 1 else 0, "groups_without_leader": 0, "groups": own} for n in (1, 2, 3)]
    members = [{"node": n, "drained": False} for n in (1, 2, 3)]
    return json.loads(json.dumps({"groups": groups, "nodes": nodes, "members": members, "groups_waiting": []}))


DOUBTS = [
    ("has no leader", lambda s: s["groups"][0].update(leader=0)),
    ("lost its log", lambda s: s["groups"][1].update(trouble="lost its log")),
    ("no answer from nodes [3]", lambda s: s["nodes"].__setitem__(2, {"cluster": "n3", "error": "refused"})),
    ("drained: [2]", lambda s: s["members"][1].update(drained=True)),
    ("members are", lambda s: s["members"].append({"node": 4, "drained": False})),
    ("still has learners", lambda s: s["groups"][0].update(learners=[4])),
    ("has the voters [1, 2], not [1, 2, 3]", lambda s: s["groups"][0].update(voters=[1, 2])),
    ("node 2 is behind in groups [1]", lambda s: s["nodes"][1]["groups"][1].update(applied=8)),
    ("node 3 sees 1 groups without leader", lambda s: s["nodes"][2].update(groups_without_leader=1)),
    ("do not have their members yet: group 1", lambda s: s["groups_waiting"].append("group 1")),
    ("no groups", lambda s: s["groups"].clear()),
]


@pytest.mark.parametrize(("said", "spoil"), DOUBTS)
def test_the_gate_lets_nothing_pass_that_is_not_whole(said, spoil):
    wish = {"members": [1, 2, 3], "leave_out": 0, "drained_allowed": [], "leads_nothing": 0}
    targets = {0: 9, 1: 9}
    assert health.judge(whole(), targets, wish) == []
    status = whole()
    spoil(status)
    assert said in "; ".join(health.judge(status, targets, wish))


def test_the_gate_waits_until_a_node_leads_nothing():
    wish = {"members": [1, 2, 3], "leave_out": 0, "drained_allowed": [1], "leads_nothing": 1}
    assert health.judge(whole(), {}, wish) == ["node 1 still leads 2 groups"]
