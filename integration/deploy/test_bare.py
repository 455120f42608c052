"""Machines on which nothing was deployed yet: what is refused there changes nothing, and what the README says makes a cluster of them.

Each test leaves them bare.
"""

import json
import re
import shutil
import subprocess
import textwrap

import pytest

from conftest import FIRST
from machines import PLACE, REPOSITORY


# What two of the machines say that they are, for a test in which nothing is installed: what the roles do otherwise there is played.
OTHERS = {
    "b": ("Ubuntu", "Debian", {"etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\n',
                               "etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=22.04\nDISTRIB_CODENAME=jammy\n"}),
    "c": ("Rocky", "RedHat", {"etc/os-release": 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n',
                              "etc/redhat-release": "Rocky Linux release 9.4 (Blue Onyx)\n"}),
}


@pytest.fixture
def of_three_distributions(site, bare):
    for name, (_is, _family, files) in OTHERS.items():
        site.lab[name].ssh("cp -P /etc/os-release /root/os-release; rm /etc/os-release")
        for path, text in files.items():
            site.lab[name].write(path, text)
    yield
    for name, (_is, _family, files) in OTHERS.items():
        site.lab[name].ssh("rm " + " ".join("/" + path for path in files) + "; mv /root/os-release /etc/os-release")


def test_check_mode_on_bare_machines_of_three_distributions_changes_nothing(site, of_three_distributions):
    before = {n: site.tree(n) for n in FIRST}
    said = site.run(["ansible", "-i", site.inventory(), "b:c", "-m", "setup", "-a", "gather_subset=!all,!min,distribution"]).text
    for name, (distribution, family, _files) in OTHERS.items():
        part = said[said.index(f"{name} | SUCCESS"):]
        assert re.search(r'"ansible_distribution": "(\w+)"', part)[1] == distribution
        assert re.search(r'"ansible_os_family": "(\w+)"', part)[1] == family
    played = site.play("site", "--check", variables={"ursula_source": str(site.release.tarball)})
    assert played.changed > 0, "it says what would be done"
    played = site.play("site", "--check", "--limit", "c", wanted=2)
    assert "Rocky has no dpkg: use the release tarball" in played.said()
    assert {n: site.tree(n) for n in FIRST} == before


# What a container has none of, or only the machine's: looks the same, and is written to instead.
PRETENDED = """
set -e
mkdir -p /etc/udev/rules.d
mount -t tmpfs tmpfs /sys/kernel/mm/transparent_hugepage
echo 'always' >/sys/kernel/mm/transparent_hugepage/enabled
mount -t tmpfs tmpfs /proc/irq
for irq in 24 25; do mkdir /proc/irq/$irq; echo 0-1 >/proc/irq/$irq/smp_affinity_list; done
for path in vm/swappiness kernel/sched_autogroup_enabled kernel/io_uring_disabled; do
  name=/run/$(basename $path); echo 2 >$name; [ ! -e /proc/sys/$path ] || mount --bind $name /proc/sys/$path
done
printf '#!/bin/sh\necho "$@" >>/run/udevadm\n' >/usr/local/bin/udevadm
chmod +x /usr/local/bin/udevadm
printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/irqbalance.service
systemctl daemon-reload
systemctl enable --quiet --now irqbalance
"""
TUNING = ["/etc/sysctl.d/60-ursula.conf", "/etc/tmpfiles.d/ursula-hugepages.conf", "/etc/udev/rules.d/60-ursula.rules",
          "/etc/systemd/system/ursula-irq.service", "/etc/systemd/system.conf.d/60-ursula.conf"]


@pytest.fixture
def spare(site, bare):
    """The fourth machine, which is none of the cluster's."""
    site.nodes["d"] = site.lab["d"].number
    machine = site.lab["d"]
    machine.ssh(PRETENDED)
    yield machine
    machine.ssh(f"systemctl disable -q --now irqbalance ursula-irq; rm -f /etc/systemd/system/irqbalance.service {' '.join(TUNING)}; "
                "systemctl daemon-reexec; rm /usr/local/bin/udevadm; umount /proc/irq /sys/kernel/mm/transparent_hugepage "
                "/proc/sys/vm/swappiness; umount -q /proc/sys/kernel/io_uring_disabled || true; "
                "umount -q /proc/sys/kernel/sched_autogroup_enabled || true")
    del site.nodes["d"]


def test_a_machine_is_tuned_by_files_that_can_be_taken_away(site, spare):
    """As on one that is no container; what a kernel does with what is written is not seen here."""
    tuning = {
        "ursula_is_container": False, "ursula_cpus": "1", "ursula_host_irq_cpus": "0", "ursula_host_system_cpus": "0",
        "ursula_host_disk": "vda", "ursula_allow_io_uring": True,
    }
    only = ("--tags", "host", "--limit", "d")
    before = site.tree("d")
    shown = site.play("site", *only, "--check", "--diff", variables=tuning)
    assert shown.changed > 0 and "+CPUAffinity=0" in shown.text and "+vm.swappiness = 1" in shown.text
    assert site.tree("d") == before
    site.play("site", *only, variables=tuning)
    assert set(TUNING) <= {line.split()[0] for line in site.tree("d")} - {line.split()[0] for line in before}

    def read(*paths):
        return spare.ssh("cat " + " ".join(paths)).stdout.split()

    assert read("/sys/kernel/mm/transparent_hugepage/enabled") == ["madvise"]
    assert read("/proc/irq/24/smp_affinity_list", "/proc/irq/25/smp_affinity_list") == ["0", "0"]
    # Kernels before 6.6 do not have the other one.
    assert read("/proc/sys/vm/swappiness", "$(ls -d /proc/sys/kernel/io_uring_disabled)") in (["1", "0"], ["1"])
    assert "kernel.io_uring_disabled = 0" in spare.ssh("cat /etc/sysctl.d/60-ursula.conf").stdout
    # Those of a network are the container's own, and its kernel's answer.
    assert read("/proc/sys/net/core/somaxconn", "/proc/sys/net/ipv4/tcp_slow_start_after_idle") == ["65535", "0"]
    assert read("/run/udevadm") == ["trigger", "--settle", "--action=change", "/sys/class/block/vda"]
    assert spare.ssh("systemd-analyze verify --man=no ursula-irq.service").stderr.strip() == ""
    rule = 'ACTION=="add|change", KERNEL=="vda", ATTR{queue/scheduler}="none"'
    assert rule in spare.ssh("cat /etc/udev/rules.d/60-ursula.rules").stdout
    state = "systemctl is-active irqbalance ursula-irq; systemctl is-enabled irqbalance ursula-irq"
    assert spare.ssh(state, check=False).stdout.split() == ["inactive", "active", "disabled", "enabled"]
    assert spare.ssh("systemd-run --quiet --pipe --wait grep Cpus_allowed_list /proc/self/status").stdout.split()[1] == "0"
    assert site.play("site", *only, variables=tuning).changed == 0


def test_a_failing_preflight_names_all_findings_and_changes_nothing(site, bare):
    before = {n: site.tree(n) for n in FIRST}
    holder = subprocess.Popen(
        ["nsenter", "-t", str(site.lab["b"].leader()), "-n", "python3", "-m", "http.server", "4437"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        site.lab["b"].ssh("for n in $(seq 50); do ss -ltn | grep -q :4437 && break; sleep 0.1; done; ss -ltn | grep :4437")
        # A clock of its own.
        site.lab["b"].write("usr/local/bin/date", '#!/bin/sh\nexec /usr/bin/date -d "+2 seconds" "$@"\n', mode=0o755)
        settings = {**site.variables["ursula_settings"], "core_count": 64}
        wrong = {"ursula_preflight_free_bytes_min": 1 << 50, "ursula_settings": settings, "ursula_cpus": "0-1", "ursula_host_irq_cpus": "1"}
        played = site.play("site", variables=wrong, wanted=2)
    finally:
        holder.kill()
        holder.wait()
        site.lab["b"].ssh("rm -f /usr/local/bin/date")
    said = played.said()
    assert "Nothing was changed" in said
    assert "b: net.listen: 0.0.0.0:4437 is taken" in said
    assert re.search(r"b: clock.skew: at least \d{3,4} ms ahead of [acd]", said), said
    for name in FIRST:
        assert f"{name}: data.free:" in said
        assert f"{name}: cpu.apart: CPUs 1 are in ursula_host_irq_cpus and in ursula_cpus" in said
        assert f"{name}: cpu.count:" in said
    assert {n: site.tree(n) for n in FIRST} == before


def test_a_broken_setting_is_refused_by_name_before_anything_runs(site, bare):
    settings = {**site.variables["ursula_settings"], "wal_segment_byte": "4MiB"}
    played = site.play("site", variables={"ursula_settings": settings}, wanted=2)
    assert "unknown setting `wal_segment_byte`; did you mean `wal_segment_bytes`?" in played.said()
    for name in FIRST:
        assert site.lab[name].ssh("ls /etc/ursula /etc/systemd/system/ursula.service", check=False).returncode != 0


def test_the_readmes_inventory_and_command_make_a_cluster_of_bare_machines(site, bare):
    """As they stand there, in a checkout after its build. Beside them only what these machines have otherwise than real ones."""
    # Where settings are refused, the version is there already.
    site.wipe()
    text = (REPOSITORY / "README.md").read_text()
    place = site.lab.place / "checkout"
    (place / "target/release").mkdir(parents=True)
    shutil.copy(PLACE / "ursula", place / "target/release/ursula")
    (place / "ansible").symlink_to(REPOSITORY / "ansible")
    (place / "hosts.yml").write_text(textwrap.dedent(re.search(r"(?m)^    ursula:\n(?:      .*\n)+", text)[0]))
    (command,) = re.findall(r"(?m)^    (ansible-galaxy collection install .*)$", text)
    otherwise = {"ursula_preflight_free_bytes_min": 100 << 20, "ursula_preflight_warn_only": ["clock.sync"], "ursula_wait_s": 60}
    access = {"ANSIBLE_PRIVATE_KEY_FILE": str(site.lab.key), "ANSIBLE_REMOTE_USER": "root", "ANSIBLE_COLLECTIONS_PATH": str(place / "collections")}
    played = site.run(["bash", "-c", f"{command} -e '{json.dumps(otherwise)}'"], place=place, more=access)
    assert all(row[1] > 10 for row in played.hosts.values()) and set(played.hosts) == set(FIRST)
    assert {n["node"] for n in site.status()["nodes"]} == {1, 2, 3} and not site.status()["groups_waiting"]
    assert site.fetch("a", "/v1/stream/first", "PUT", "")[0] == 201
    assert site.fetch("b", "/v1/stream/first", "POST", "hello")[0] == 204
    assert site.fetch("c", "/v1/stream/first?offset=-1") == (200, "hello")
    site.wipe()
