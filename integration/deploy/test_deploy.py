"""A cluster's life by the collection's playbooks, from bare Debian on.

In this order the machines change least between tests; one alone (-k) makes what it starts from by itself. Each leaves a
cluster of the first three machines in order, of whichever version.
"""

import json
import re
import shutil
import subprocess
import tarfile

import pytest

from conftest import FIRST, SECRET
from machines import STORE_SECRET, wait_until
from versions import broken_version


@pytest.fixture
def bare(site):
    """Machines on which nothing was deployed yet."""
    assert not site.is_formed
    return site


def test_check_mode_on_bare_machines_changes_nothing(site, bare):
    before = {n: site.tree(n) for n in FIRST}
    played = site.play("site", "--check")
    assert played.changed > 0, "it says what would be done"
    assert {n: site.tree(n) for n in FIRST} == before


def test_a_failing_preflight_names_all_findings_and_changes_nothing(site, bare):
    before = {n: site.tree(n) for n in FIRST}
    holder = subprocess.Popen(
        ["nsenter", "-t", str(leader(site, "b")), "-n", "python3", "-m", "http.server", "4437"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        site.lab["b"].ssh("for n in $(seq 50); do ss -ltn | grep -q :4437 && break; sleep 0.1; done; ss -ltn | grep :4437")
        settings = {**site.variables["ursula_settings"], "core_count": 64}
        played = site.play("site", variables={"ursula_preflight_free_bytes_min": 1 << 50, "ursula_settings": settings}, wanted=2)
    finally:
        holder.kill()
        holder.wait()
    said = played.said()
    assert "Nothing was changed" in said
    assert "b: net.listen: 0.0.0.0:4437 is taken" in said
    for name in FIRST:
        assert f"{name}: data.free:" in said
        assert f"{name}: cpu.count:" in said
    assert {n: site.tree(n) for n in FIRST} == before


def leader(site, name):
    """The process 1 of a machine, as seen from outside."""
    out = subprocess.run(["pgrep", "-P", str(site.lab[name].process.pid)], capture_output=True, text=True, check=True)
    return int(out.stdout.split()[0])


def test_a_broken_setting_is_refused_by_name_before_anything_runs(site, bare):
    settings = {**site.variables["ursula_settings"], "wal_segment_byte": "4MiB"}
    played = site.play("site", variables={"ursula_settings": settings}, wanted=2)
    assert "unknown setting `wal_segment_byte`; did you mean `wal_segment_bytes`?" in played.said()
    for name in FIRST:
        assert site.lab[name].ssh("ls /etc/ursula /etc/systemd/system/ursula.service", check=False).returncode != 0


def test_site_forms_a_cluster_from_bare_machines(site, bare):
    site.form()
    status = site.status()
    assert {n["node"] for n in status["nodes"]} == {1, 2, 3}
    assert not status["groups_waiting"]
    assert site.fetch("a", "/v1/stream/first", "PUT", "")[0] == 201
    assert site.fetch("b", "/v1/stream/first", "POST", "hello")[0] == 204
    assert site.fetch("c", "/v1/stream/first?offset=-1") == (200, "hello")
    headers = site.lab.inside("curl", "-sI", f"http://{site.lab['a'].address}:4437/healthz")
    assert f"access-control-allow-origin: {SECRET}" in headers.lower(), "settings in the secrets' file are in effect"


def test_a_second_run_changes_nothing(site, cluster):
    assert site.play("site").changed == 0
    assert site.play("site", "--check", "--diff").changed == 0


def exposure(machine):
    said = machine.ssh("systemd-analyze security ursula.service --no-pager").stdout
    print(said)
    return float(re.search(r"Overall exposure level for ursula.service: ([\d.]+)", said)[1])


def test_the_machines_are_of_two_releases_of_debian(site, cluster):
    found = {n: site.lab[n].ssh(". /etc/os-release; echo $VERSION_ID").stdout.strip() for n in FIRST}
    assert found == {"a": "12", "b": "12", "c": "13"}


@pytest.mark.parametrize("name", ["a", "c"])
def test_the_unit_is_hardened_and_sound(site, cluster, name):
    machine = site.lab[name]
    assert machine.ssh("systemd-analyze verify --man=no ursula.service").stderr.strip() == ""
    assert exposure(machine) <= 2.0
    assert machine.ssh("stat -c '%a %U' /etc/ursula/ursula.env").stdout.split() == ["600", "root"]
    assert machine.ssh("ps -o user= -C ursula").stdout.split() == ["ursula"]
    status = machine.ssh("systemctl show ursula --property=StatusText,Type,WatchdogUSec,NotifyAccess").stdout
    assert re.search(r"StatusText=.*\b\d+ groups led here, 0 without a leader", status), status
    assert "Type=notify" in status and "WatchdogUSec=30s" in status, status


def test_a_broken_setting_does_not_touch_a_running_cluster(site, cluster):
    before = {n: site.tree(n) for n in FIRST}
    settings = {**site.variables["ursula_settings"], "long_poll_ms": "a while"}
    played = site.play("site", variables={"ursula_settings": settings}, wanted=2)
    assert "`long_poll_ms` is a while ; allowed: a time from 10ms to 10min" in played.said()
    assert {n: site.tree(n) for n in FIRST} == before


def test_a_failing_preflight_of_a_running_cluster_asks_its_program_and_changes_nothing(site, cluster):
    before = {n: site.tree(n) for n in FIRST}
    settings = {**site.variables["ursula_settings"], "core_count": 64}
    said = site.play("site", variables={"ursula_settings": settings}, wanted=2).said()
    assert "Nothing was changed" in said
    for name in FIRST:
        # As `ursula doctor` says it.
        assert f"{name}: cpu.count: 64 cores on" in said
        assert f"{name}: net.listen" not in said, "its own ports"
    assert {n: site.tree(n) for n in FIRST} == before


def started(site, name):
    return site.lab[name].ssh("systemctl show ursula --property=ExecMainStartTimestampMonotonic,ExecMainPID").stdout


def test_a_rolling_restart_is_not_seen_by_clients(site, cluster):
    before = {n: started(site, n) for n in FIRST}
    with site.load() as report:
        played = site.play("rolling_restart")
    assert report["nodes_verified"] == 3
    for name in FIRST:
        assert started(site, name) != before[name]
    # Gone on with: nothing is left to restart.
    begun = re.search(r"ursula_restart_begun=(\d+)", played.text)[1]
    assert site.play("rolling_restart", variables={"ursula_restart_begun": int(begun)}).changed == 0


def test_a_changed_setting_rolls_through_the_cluster(site, cluster):
    site.variables["ursula_settings"]["long_poll_ms"] = "10s"
    shown = site.play("site", "--check", "--diff")
    assert '+long_poll_ms = "10s"' in shown.text and shown.changed > 0
    with site.load():
        site.play("site")
    for name in FIRST:
        assert 'long_poll_ms = "10s"' in site.lab[name].ssh("cat /etc/ursula/config.toml").stdout


def test_a_rolling_restart_stops_where_the_cluster_is_not_whole(site, cluster):
    site.lab["c"].ssh("systemctl stop ursula")
    before = started(site, "a")
    site.variables["ursula_wait_s"] = 3
    try:
        played = site.play("rolling_restart", wanted=2)
    finally:
        site.variables["ursula_wait_s"] = 60
        site.lab["c"].ssh("systemctl start ursula")
    assert "The cluster is not whole" in played.said()
    assert started(site, "a") == before
    wait_until("c is back", 30, lambda: not [n for n in site.status()["nodes"] if "error" in n])


def versions(site, names=FIRST):
    """Of the programs that run: not of the links that say what shall."""
    programs = {n: site.lab[n].ssh("readlink /proc/$(pgrep -x ursula)/exe").stdout.strip() for n in names}
    return {n: site.lab[n].ssh(f"{program} --version").stdout.split()[1] for n, program in programs.items()}


def test_a_rolling_upgrade_is_not_seen_by_clients(site, cluster):
    old, new = site.release.version, site.next.version
    assert versions(site) == dict.fromkeys(FIRST, old)
    site.variables.update(ursula_version=new, ursula_source=str(site.next.tarball))
    with site.load():
        site.play("rolling_upgrade")
    assert versions(site) == dict.fromkeys(FIRST, new)
    assert f'version="{new}"' in site.fetch("a", "/metrics")[1]
    assert site.play("rolling_upgrade").changed == 0, "nodes that run it are passed over"
    assert old in site.lab["a"].ssh("ls /opt/ursula").stdout.split(), "the way back is there"


def test_an_upgrade_that_does_not_start_goes_back_and_stops(site, cluster):
    running = versions(site)
    version, program = broken_version(running["a"], site.lab.place)
    before = {n: started(site, n) for n in FIRST}
    site.variables["ursula_wait_s"] = 15
    try:
        with site.load():
            played = site.play("rolling_upgrade", variables={"ursula_version": version, "ursula_source": str(program)}, wanted=2)
    finally:
        site.variables["ursula_wait_s"] = 60
    assert "broken on purpose" in played.said()
    assert f"went back to {running['a']}" in played.said()
    assert versions(site) == running
    assert [n for n in FIRST if started(site, n) == before[n]] == ["b", "c"], "only the first was touched"


def test_a_source_that_is_not_what_was_meant_is_refused(site, cluster):
    played = site.play("site", variables={"ursula_sha256": "0" * 64}, wanted=2)
    assert "but ursula_sha256 says 0000" in played.said()
    played = site.play("site", variables={"ursula_source": __file__}, wanted=2)
    assert "was installed from another file" in played.said()


def test_site_refuses_a_machine_that_is_not_a_member(site, cluster):
    site.nodes["d"] = 4
    try:
        played = site.play("site", wanted=2)
    finally:
        del site.nodes["d"]
    assert "It is not a member: use the playbook add_node" in played.said()
    assert "/etc/systemd/system/ursula.service" not in " ".join(site.tree("d"))


def test_a_node_is_added_under_load(site, cluster):
    with site.load() as report:
        site.grow()
    assert report["nodes_verified"] == 4
    assert {m["node"] for m in site.status()["members"]} == {1, 2, 3, 4}


def test_a_node_with_a_wiped_disk_is_replaced_under_load(site, four):
    played = site.play("replace_node", variables={"ursula_node": "b"}, wanted=2)
    assert "If that data is to be given up" in played.said()
    with site.load() as report:
        site.lab["b"].ssh("systemctl stop ursula; find /var/lib/ursula -mindepth 1 -delete")
        played = site.play("site", wanted=2)
        assert "It lost its disk: use the playbook replace_node" in played.said()
        site.play("replace_node", variables={"ursula_node": "b"})
    assert report["nodes_verified"] == 4
    assert site.play("site").changed == 0


def test_a_node_is_removed_under_load(site, four):
    with site.load() as report:
        site.play("remove_node", variables={"ursula_node": "d"})
    assert report["nodes_verified"] == 3
    assert site.lab["d"].ssh("systemctl is-active ursula", check=False).stdout.strip() == "inactive"
    assert {m["node"] for m in site.status()["members"]} == {1, 2, 3}
    site.play("remove_node", variables={"ursula_node": "d"})
    del site.nodes["d"]
    assert site.play("site").changed == 0


def test_a_package_runs_a_node_by_itself(site):
    """Without the collection: what `apt install` gives, an upgrade in place, and what is left after a purge."""
    assert "d" not in site.nodes
    machine, package = site.lab["d"], site.release.package.name
    shutil.copy(site.release.package, machine.root / "root")
    machine.ssh("systemctl disable --now ursula; rm -rf /etc/systemd/system/ursula.service* /opt/ursula /usr/local/bin/ursula", check=False)
    machine.ssh("find /var/lib/ursula -mindepth 1 -delete; systemctl daemon-reload")
    machine.ssh(f"dpkg -i /root/{package}")
    shown = "systemctl show ursula --property=ActiveState,UnitFileState,MainPID --value"
    assert sorted(machine.ssh(shown).stdout.split()) == ["0", "disabled", "inactive"], "nothing runs before it is configured"
    machine.ssh("echo URSULA_CORE_COUNT=1 >/etc/ursula/ursula.env; echo URSULA_WAL_SEGMENT_BYTES=4MiB >>/etc/ursula/ursula.env")
    machine.ssh("systemctl enable --now ursula")
    machine.ssh("ursula create /v1/stream/own --content-type text/plain && echo kept | ursula append /v1/stream/own")
    before = machine.ssh(shown).stdout
    machine.ssh(f"dpkg -i /root/{package}")
    assert machine.ssh(shown).stdout != before, "a package over another one restarts the node"
    assert machine.ssh("ursula read /v1/stream/own").stdout == "kept\n"
    assert machine.ssh("systemd-analyze verify --man=no ursula.service").stderr.strip() == ""
    assert exposure(machine) <= 2.0
    machine.ssh("dpkg --purge ursula")
    assert machine.ssh("systemctl is-active ursula; ls /usr/bin/ursula /etc/ursula/ursula.toml; pgrep -x ursula", check=False).stdout.split() == ["inactive"]
    assert machine.ssh("ls /var/lib/ursula/node.ursula").stdout, "data is not the package's to remove"
    machine.ssh("rm -r /etc/ursula; find /var/lib/ursula -mindepth 1 -delete")


def test_a_support_bundle_has_what_is_needed_and_no_secret(site, cluster, tmp_path):
    site.fetch("a", "/v1/stream/payload", "PUT", "")
    site.fetch("a", "/v1/stream/payload", "POST", "do-not-show-this")
    site.play("collect_support", variables={"ursula_support_dir": str(tmp_path)})
    for name in FIRST:
        with tarfile.open(tmp_path / f"{name}.tar.gz") as bundle:
            parts = {m.name: bundle.extractfile(m).read() for m in bundle.getmembers() if m.isfile()}
        assert json.loads(parts["./cluster.json"])["groups"]
        assert b"ursula_build_info" in parts["./metrics"]
        assert b"event=" in parts["./journal"]
        everything = b"".join(parts.values())
        assert b"do-not-show-this" not in everything
        assert SECRET.encode() not in everything
        assert STORE_SECRET.encode() not in everything
    assert "ursula-support" not in site.lab["a"].ssh("ls /tmp").stdout
