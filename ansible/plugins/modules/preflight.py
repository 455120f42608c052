#!/usr/bin/python
"""What a machine must have before a node may run on it. Looks, and leaves no trace but a probe file that it removes.

Where the program is on the machine already, its `doctor` makes the checks that both know, so that they stand in one place; those
here are for bare machines, under the same ids, and for what the program cannot judge. Each answers findings, and none stops
the others: an operator gets all at once.
"""

DOCUMENTATION = r"""
---
module: preflight
short_description: Looks whether a machine can run an ursula node
description:
  - Runs all checks and returns what they found. Never fails because of a finding, the role V(preflight) does.
  - Nothing on the machine is changed. A probe file is written beside the data and removed again.
author:
  - The authors of ursula
options:
  data_dir:
    description: The data directory; the nearest directory above it is looked at where it is not there yet.
    type: path
    required: true
  programs:
    description: Programs to ask, the best first. The first one that is there and understands the settings is asked.
    type: list
    elements: path
    default: []
  settings:
    description: The node's settings, as its file has them, for that program.
    type: str
    default: ""
  service:
    description: Name of the unit. A port that it holds is not taken.
    type: str
    default: ursula
  listen:
    description: Addresses with port that the node will listen on.
    type: list
    elements: str
    default: []
  names:
    description: Names or addresses of all nodes.
    type: list
    elements: str
    default: []
  core_count:
    description: Cores that are asked for; 0 is one for each CPU.
    type: int
    default: 0
  free_bytes_min:
    description: Least free space for the data directory, in bytes.
    type: int
    default: 10737418240
  sync_p99_ms_max:
    description: Longest 99th percentile of a write and sync of 4 KiB, in milliseconds.
    type: int
    default: 50
  probe_ms:
    description: Time that the disk is measured, in milliseconds. 0 leaves it out.
    type: int
    default: 2000
  lifts_io_uring:
    description: Whether a later step sets the kernel's V(kernel.io_uring_disabled) to 0; then that setting is no finding.
    type: bool
    default: false
  warn_only:
    description: Checks by their id whose findings are warnings on this machine.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look at the machine
  ursula.cluster.preflight:
    data_dir: /var/lib/ursula
    listen: ["0.0.0.0:4437", "10.0.0.1:4447"]
    names: [10.0.0.1, 10.0.0.2, 10.0.0.3]
"""

RETURN = r"""
findings:
  description: What is not as it should be, each with id, severity (fatal or warning), current, wanted and fix.
  returned: always
  type: list
  elements: dict
asked:
  description: The program that made the checks which it knows; empty where the module made all.
  returned: always
  type: str
facts:
  description: What was measured, for the report.
  returned: always
  type: dict
"""

import ctypes  # noqa: E402
import errno  # noqa: E402
import glob  # noqa: E402
import json  # noqa: E402
import mmap  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
import socket  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

# io_uring_setup(2) has this number on every architecture.
SYS_IO_URING_SETUP = 425
# Of adjtimex(2): the clock is not synchronised.
STA_UNSYNC = 0x40
CAP_SYS_RESOURCE = 24
LOCKED_BYTES_PER_CORE = 2 << 20
DESCRIPTORS = 1 << 20
# Kernels whose io_uring ran out of memory at the set-up of a ring; mended in the patch level named.
RING_ENOMEM = {(6, 6): 86, (6, 12): 21, (6, 13): 9, **{(6, minor): 1 << 30 for minor in range(7, 12)}}
# Of what the program finds: judged here, by variables of the role or by the limits of the unit instead of this session's.
NOT_ASKED = ("data.free", "limits.memlock", "limits.memlock_rings", "limits.nofile")
PORTS = ("net.listen", "net.admin_listen", "net.cluster_listen")
# It runs with them, and a cluster is not to begin with them.
FATAL_HERE = ("clock.sync", "cpu.count", "data.direct_io")
GOOD_FILESYSTEMS = ("xfs", "ext4")
BAD_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "tmpfs", "ramfs", "9p", "fuse", "zfs", "vfat")


def text_of(path, default=""):
    """A small file's text, or the default where there is none."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return default


class Checks:
    """All checks of one machine."""

    def __init__(self, module):
        self.module = module
        self.wish = module.params
        self.findings = []
        self.facts = {}
        self.asked = ""

    def find(self, check, severity, current, wanted, fix):
        if check in self.wish["warn_only"]:
            severity = "warning"
        self.findings.append(
            {"id": check, "severity": severity, "current": str(current), "wanted": wanted, "fix": fix}
        )

    def run(self):
        self.asked = next((program for program in self.wish["programs"] if self.ask(program)), "")
        checks = [self.systemd, self.limits, self.space, self.content, self.disk, self.firewall]
        if not self.asked:
            checks += [self.kernel, self.io_uring, self.processors, self.memory, self.clock, self.filesystem, self.ports, self.resolve]
        for check in checks:
            check()

    def ask(self, program):
        """Takes over what the program found; whether it could say anything."""
        if not os.access(program, os.X_OK):
            return False
        command = [program, "doctor", "--json", "--config", "/dev/stdin"]
        out = self.module.run_command(command, data=self.wish["settings"])[1]
        try:
            checks = json.loads(out)["checks"]
        except (ValueError, KeyError):
            # An older one, or settings that it refuses, which the check of settings says better.
            return False
        is_running = self.is_running()
        for one in checks:
            if one["severity"] == "ok" or one["id"] in NOT_ASKED or is_running and one["id"] in PORTS:
                continue
            if one["id"] == "kernel.io_uring" and self.is_lifted():
                continue
            severity = "fatal" if one["severity"] == "fatal" or one["id"] in FATAL_HERE else "warning"
            self.find(one["id"], severity, one["current"], one["wanted"], one["fix"])
        return True

    def kernel(self):
        release = platform.release()
        self.facts["kernel"] = release
        numbers = [int(n) for n in re.findall(r"\d+", release)[:3]] + [0, 0, 0]
        series, patch = tuple(numbers[:2]), numbers[2]
        if series < (5, 8):
            self.find("kernel.version", "fatal", release, "5.8 or newer", "install a newer kernel and boot it")
        elif patch < RING_ENOMEM.get(series, 0):
            wanted = "6.6.86, 6.12.21, 6.13.9, 6.14 or newer in these series"
            self.find("kernel.io_uring_bugs", "warning", release, wanted, "this kernel can refuse rings after restarts: update it")

    def is_lifted(self):
        """The kernel's setting denies io_uring, and that ends before a node starts."""
        return self.wish["lifts_io_uring"] and text_of("/proc/sys/kernel/io_uring_disabled", "0") != "0"

    def io_uring(self):
        disabled = text_of("/proc/sys/kernel/io_uring_disabled", "0")
        if self.is_lifted():
            return
        if disabled != "0":
            fix = "ursula_allow_io_uring: true in the inventory, or sysctl kernel.io_uring_disabled=0 and in /etc/sysctl.d to keep it"
            self.find("kernel.io_uring", "fatal", "kernel.io_uring_disabled = " + disabled, "0", fix)
            return
        libc = ctypes.CDLL(None, use_errno=True)
        # struct io_uring_params has 120 bytes, all zero where nothing special is wanted.
        parameters = ctypes.create_string_buffer(120)
        ring = libc.syscall(SYS_IO_URING_SETUP, 1, parameters)
        if ring < 0:
            why = os.strerror(ctypes.get_errno())
            fix = "a seccomp profile, a container or the kernel's configuration forbids it"
            self.find("kernel.io_uring", "fatal", "io_uring_setup: " + why, "a ring", fix)
        else:
            os.close(ring)

    def systemd(self):
        if not os.path.isdir("/run/systemd/system"):
            self.find("machine.systemd", "fatal", "not running", "systemd as process 1", "the node is run by systemd")

    def cores(self):
        return self.wish["core_count"] or len(os.sched_getaffinity(0))

    @staticmethod
    def hard_limit(name):
        row = re.search("^" + name + r" +(\S+) +(\S+)", text_of("/proc/1/limits"), re.M)
        return row.group(2) if row else "unlimited"

    def limits(self):
        needed = LOCKED_BYTES_PER_CORE * self.cores()
        hard = self.hard_limit("Max locked memory")
        row = re.search(r"^CapEff:\s+(\S+)", text_of("/proc/1/status"), re.M)
        may_raise = bool(row) and bool(int(row.group(1), 16) >> CAP_SYS_RESOURCE & 1)
        if hard != "unlimited" and int(hard) < needed and not may_raise:
            self.find(
                "limits.memlock", "fatal", hard + " bytes", "%d bytes" % needed,
                "process 1 may not raise it: raise the limit of the container or machine",
            )
        hard = self.hard_limit("Max open files")
        if hard != "unlimited" and int(hard) < DESCRIPTORS and not may_raise:
            self.find("limits.nofile", "warning", hard, "%d" % DESCRIPTORS, "process 1 may not raise it: fewer clients can connect")
        most = int(text_of("/proc/sys/fs/nr_open", str(DESCRIPTORS)))
        if most < DESCRIPTORS:
            self.find("limits.nofile", "fatal", "fs.nr_open = %d" % most, "%d" % DESCRIPTORS, "sysctl fs.nr_open=1048576")

    def processors(self):
        allowed = len(os.sched_getaffinity(0))
        self.facts["cpus"] = allowed
        if self.wish["core_count"] > allowed:
            self.find(
                "cpu.count", "fatal", "%d CPUs" % allowed, "core_count of them (%d)" % self.wish["core_count"],
                "set core_count in ursula_settings to at most the CPUs of the machine",
            )
        governors = {text_of(p) for p in glob.glob("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")}
        if governors - {"performance"}:
            self.find(
                "cpu.governor", "warning", ", ".join(sorted(governors)), "performance",
                "cpupower frequency-set -g performance",
            )

    def memory(self):
        row = re.search(r"^MemTotal:\s+(\d+)", text_of("/proc/meminfo"), re.M)
        have = int(row.group(1)) << 10 if row else 0
        self.facts["memory_bytes"] = have
        needed = self.cores() << 30
        if have < needed:
            self.find("memory.per_core", "warning", "%d MiB" % (have >> 20), "%d MiB, 1 GiB per core" % (needed >> 20),
                      "set core_count or hot_bytes_max lower, or add memory")

    def clock(self):
        libc = ctypes.CDLL(None, use_errno=True)
        # struct timex: 208 bytes are enough on every architecture; `modes` 0 only reads.
        timex = ctypes.create_string_buffer(256)
        state = libc.adjtimex(timex)
        status = ctypes.c_int.from_buffer(timex, 40).value if ctypes.sizeof(ctypes.c_long) == 8 else 0
        if state < 0 or state == 5 or status & STA_UNSYNC:
            self.find("clock.sync", "fatal", "not synchronised", "synchronised by NTP or PTP",
                      "install and start chrony or systemd-timesyncd; streams expire by the leader's clock")
        source = text_of("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc")
        if source in ("hpet", "acpi_pm", "jiffies", "refined-jiffies"):
            self.find("clock.source", "warning", source, "tsc or the hypervisor's", "each look at the time is slow")

    def place(self):
        """The data directory, or the nearest directory above it that is there."""
        path = os.path.abspath(self.wish["data_dir"])
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        return path

    def filesystem(self):
        place = os.path.realpath(self.place())
        best = ("", "", "")
        for line in text_of("/proc/self/mountinfo").splitlines():
            left, _sep, right = line.partition(" - ")
            point = left.split()[4].replace("\\040", " ")
            is_above = place == point or place.startswith(point.rstrip("/") + "/")
            if is_above and len(point) >= len(best[0]):
                best = (point, right.split()[0], left.split()[5] + "," + right.split()[-1])
        kind, options = best[1], best[2].split(",")
        self.facts["filesystem"] = kind
        if kind.split(".")[0] in BAD_FILESYSTEMS:
            self.find("data.filesystem", "fatal", kind, "xfs or ext4", "put the data directory on a local disk")
        elif kind not in GOOD_FILESYSTEMS:
            self.find("data.filesystem", "warning", kind, "xfs or ext4", "others are not tested")
        if "ro" in options:
            self.find("data.mount_options", "fatal", "read-only", "writable", "mount -o remount,rw " + best[0])
        for option in ("nobarrier", "barrier=0"):
            if option in options:
                self.find("data.mount_barrier", "fatal", option, "without it", "take it out of /etc/fstab: a sync must reach the disk")
        for option in ("sync", "discard", "strictatime"):
            if option in options:
                self.find("data.mount_options", "warning", option, "without it", "take %s out of /etc/fstab" % option)

    def space(self):
        stat = os.statvfs(self.place())
        free = stat.f_bavail * stat.f_frsize
        self.facts["free_bytes"] = free
        if free < self.wish["free_bytes_min"]:
            self.find("data.free", "fatal", "%d MiB free" % (free >> 20),
                      "%d MiB" % (self.wish["free_bytes_min"] >> 20), "a larger disk, or ursula_preflight_free_bytes_min")

    def content(self):
        data = self.wish["data_dir"]
        if os.path.isdir(data):
            names = sorted(set(os.listdir(data)) - {"lost+found"})
            if names and "node.ursula" not in names:
                self.find("data.content", "fatal", "holds " + ", ".join(names[:5]), "empty, or made by ursula",
                          "another directory, or move these away")

    def disk(self):
        if not self.wish["probe_ms"]:
            return
        page = mmap.mmap(-1, 4096)
        page.write(b"u" * 4096)
        try:
            handle, path = tempfile.mkstemp(prefix=".ursula-preflight-", dir=self.place())
        except OSError as error:
            self.find("data.directory", "fatal", os.strerror(error.errno), "writable", "look at the disk and its mount")
            return
        os.close(handle)
        try:
            try:
                file = os.open(path, os.O_WRONLY | os.O_DIRECT)
                os.write(file, page)
            except OSError as error:
                self.find("data.direct_io", "fatal", "O_DIRECT: " + os.strerror(error.errno), "direct writes of 4 KiB",
                          "put the data directory on xfs or ext4")
                return
            took = []
            end = time.monotonic() + self.wish["probe_ms"] / 1000.0
            try:
                while time.monotonic() < end and len(took) < 1000:
                    began = time.monotonic()
                    os.pwrite(file, page, 4096 * (len(took) % 256))
                    os.fdatasync(file)
                    took.append((time.monotonic() - began) * 1000)
            except OSError as error:
                self.find("disk.fsync", "fatal", os.strerror(error.errno), "writes that are synced", "look at the disk")
                return
            finally:
                os.close(file)
            took.sort()
            p99 = took[(len(took) * 99) // 100] if took else 0.0
            self.facts["sync_p99_ms"] = round(p99, 2)
            if p99 > self.wish["sync_p99_ms_max"]:
                self.find("disk.fsync", "warning", "p99 of %d syncs is %.1f ms" % (len(took), p99),
                          "at most %d ms" % self.wish["sync_p99_ms_max"],
                          "a disk with power-loss protection; nothing else that writes to it")
        finally:
            os.unlink(path)

    def is_running(self):
        rc = self.module.run_command(["systemctl", "is-active", "--quiet", self.wish["service"]])[0]
        return rc == 0

    def ports(self):
        for address in self.wish["listen"]:
            host, _sep, port = address.rpartition(":")
            host = host.strip("[]")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            probe = socket.socket(family, socket.SOCK_STREAM)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    if not self.is_running():
                        self.find("net.listen", "fatal", address + " is taken", "free", "ss -ltnp 'sport = :%s' names the process" % port)
                elif error.errno == errno.EADDRNOTAVAIL:
                    self.find("net.listen", "fatal", host + " is not an address of this machine", "one that is",
                              "set ursula_listen and ursula_cluster_listen to the machine's own")
                else:
                    self.find("net.listen", "fatal", "%s: %s" % (address, os.strerror(error.errno)), "free", "another port")
            finally:
                probe.close()

    def firewall(self):
        """Only a warning: a rule for some addresses may let in whom it should."""
        ports = [a.rpartition(":")[2] for a in self.wish["listen"] if not a.startswith(("127.", "[::1]", "localhost:"))]
        manager = self.module.get_bin_path("firewall-cmd")
        if manager and self.module.run_command([manager, "--state"])[0] == 0:
            closed = [p for p in ports if self.module.run_command([manager, "--query-port=%s/tcp" % p])[0] != 0]
            fix = "firewall-cmd --permanent %s; firewall-cmd --reload" % " ".join("--add-port=%s/tcp" % p for p in closed)
            self.closed("firewalld", closed, fix)
        manager = self.module.get_bin_path("ufw")
        said = self.module.run_command([manager, "status"])[1] if manager else ""
        if re.search("^Status: active", said, re.M):
            closed = [p for p in ports if not re.search(r"^%s(/tcp)? .*ALLOW" % p, said, re.M)]
            self.closed("ufw", closed, "; ".join("ufw allow %s/tcp" % p for p in closed))

    def closed(self, name, ports, fix):
        if ports:
            self.find("net.firewall", "warning", "%s has no rule that lets in port %s" % (name, ", ".join(ports)),
                      "open to the other nodes, clients and Prometheus", fix + "; or rules for their addresses")

    def resolve(self):
        loops = []
        for name in sorted(set(self.wish["names"])):
            try:
                addresses = {a[4][0] for a in socket.getaddrinfo(name, None)}
            except socket.gaierror as error:
                self.find("net.names", "fatal", "%s: %s" % (name, error.strerror), "an address", "add it to DNS or /etc/hosts")
                continue
            if name in addresses:
                continue
            if any(address.startswith("127.") or address == "::1" for address in addresses):
                loops.append(name)
                continue
            for address in addresses:
                try:
                    back = socket.gethostbyaddr(address)
                except OSError:
                    self.find("net.names_reverse", "warning", "%s has no name" % address, name, "add the reverse entry to DNS or /etc/hosts")
                    continue
                if name not in [back[0]] + back[1] and name.split(".")[0] != back[0].split(".")[0]:
                    self.find("net.names_reverse", "warning", "%s is called %s" % (address, back[0]), name, "make both ways agree")
        if 0 < len(loops) < len(set(self.wish["names"])):
            self.find("net.names_loopback", "fatal", ", ".join(loops) + " is the loopback here", "an address that the others reach",
                      "remove the line of 127.0.1.1 with this machine's name from /etc/hosts, or set ursula_address")


def main():
    module = AnsibleModule(
        argument_spec={
            "data_dir": {"type": "path", "required": True},
            "programs": {"type": "list", "elements": "path", "default": []},
            "settings": {"type": "str", "default": ""},
            "service": {"type": "str", "default": "ursula"},
            "listen": {"type": "list", "elements": "str", "default": []},
            "names": {"type": "list", "elements": "str", "default": []},
            "core_count": {"type": "int", "default": 0},
            "free_bytes_min": {"type": "int", "default": 10 << 30},
            "sync_p99_ms_max": {"type": "int", "default": 50},
            "probe_ms": {"type": "int", "default": 2000},
            "lifts_io_uring": {"type": "bool", "default": False},
            "warn_only": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    checks = Checks(module)
    checks.run()
    module.exit_json(changed=False, findings=checks.findings, asked=checks.asked, facts=checks.facts)


if __name__ == "__main__":
    main()
