"""A cluster's life by the collection's playbooks, from bare Debian on.

In this order the machines change least between tests; one alone (-k) makes what it starts from by itself. Each leaves a
cluster of the first three machines in order, of whichever version.
"""

import json
import re
import shutil
import tarfile

import pytest

from conftest import FIRST, SECRET
from machines import STORE_SECRET, wait_until
from versions import broken_version


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


def started(site, name):
    return site.lab[name].ssh("systemctl show ursula --property=ExecMainStartTimestampMonotonic,ExecMainPID").stdout


def state(site, names="abcd"):
    """What nobody may have changed where only a look was asked for; what a node writes into its data directory is its own."""
    found = {n: [line for line in site.tree(n) if not line.startswith("/var/lib/ursula/")] + [started(site, n)] for n in names}
    return {**found, "members": [(m["node"], m["drained"]) for m in site.status()["members"]]}


def differences(played):
    """By machine, the lines that `--diff` shows of each file."""
    found = {}
    for lines in re.findall(r"(?ms)^--- before: (\S+)\n\+\+\+ [^\n]*\n(.*?)^changed: \[(\w+)\]", played.text):
        path, text, host = lines
        found.setdefault(host, {})[path] = re.findall(r"(?m)^[+-].*", text)
    return found


def test_check_and_diff_tell_what_a_run_would_do_and_do_nothing(site, cluster, tmp_path):
    before = state(site)

    def check(playbook, wanted=0, **variables):
        return site.play(playbook, "--check", "--diff", variables=variables, wanted=wanted)

    changed = check("site", ursula_settings={**site.variables["ursula_settings"], "long_poll_ms": "11s"})
    assert differences(changed) == {name: {"/etc/ursula/config.toml": ['+long_poll_ms = "11s"']} for name in FIRST}
    assert {row[1] for row in changed.hosts.values()} == {2}, "the file, and the restart that it needs"
    restart = check("rolling_restart")
    assert differences(restart) == {} and {name: row[1] for name, row in restart.hosts.items()} == dict.fromkeys(FIRST, 1)

    def peers(*names):
        return f'peers = "{",".join(f"{site.lab[n].number}={site.lab[n].address}:4447" for n in names)}"'

    removed = check("remove_node", ursula_node="c")
    lines = {"/etc/ursula/config.toml": ["-" + peers(*FIRST), "+" + peers("a", "b")]}
    assert differences(removed) == {"a": lines, "b": lines}
    assert "would get the order `remove 3`" in removed.said() and removed.hosts["c"][1] == 2, "it would be stopped, and that noted"
    site.nodes["d"] = site.lab["d"].number
    try:
        added = check("add_node", ursula_node="d")
    finally:
        del site.nodes["d"]
    lines = {"/etc/ursula/config.toml": ["-" + peers(*FIRST), "+" + peers(*"abcd")]}
    assert {name: differences(added)[name] for name in FIRST} == dict.fromkeys(FIRST, lines)
    assert f"would get the order `add 4={site.lab['d'].address}:4447`" in added.said() and added.hosts["d"][1] > 4

    refused = check("replace_node", wanted=2, ursula_node="b")
    assert "Nothing was changed. b has data" in refused.said() and refused.changed == 0
    refused = check("restore", wanted=2, ursula_restore_from="s3://elsewhere/x")
    assert "Nothing was changed. a has data" in refused.said() and refused.changed == 0
    collected = check("collect_support", ursula_support_dir=str(tmp_path / "bundles"))
    assert "bundles/a.tar.gz would be written" in collected.said() and not (tmp_path / "bundles").exists()
    assert wait_until("there is a backup", 30, lambda: check("backup", wanted=None).code == 0)
    assert state(site) == before


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
    wanted = ["LimitMEMLOCK=infinity", "LimitNOFILE=1048576", "LimitCORE=0", "MemorySwapMax=0", "OOMScoreAdjust=-900"]
    shown = machine.ssh("systemctl show ursula " + " ".join("-p " + one.split("=")[0] for one in wanted)).stdout.split()
    assert sorted(shown) == sorted(wanted)
    # What the container may give, it has given.
    limits = {"Max locked memory": "unlimited", "Max open files": "1048576", "Max core file size": "0", "Max nice priority": "30"}
    given = {}
    for limit, most in limits.items():
        row = "grep -h '^%s' /proc/1/limits /proc/$(pgrep -x ursula)/limits" % limit
        (_soft, allowed), (_soft, given[limit]) = (line[len(limit):].split()[:2] for line in machine.ssh(row).stdout.splitlines())
        assert given[limit] in (most, allowed), f"{limit}: {given[limit]}"
    # A log's own thread goes before the executors: by the last of these, if the filter of system calls lets it ask. Where it may
    # not, the node says so once.
    may_go_first = int(given["Max nice priority"]) >= 30
    threads = [line.split(None, 1) for line in machine.ssh("ps -L -p $(pgrep -x ursula) -o ni=,comm=").stdout.splitlines()]
    log_threads = {nice for nice, comm in threads if re.fullmatch(r"log-\d+", comm)}
    assert log_threads == {"-10" if may_go_first else "0"}, threads
    said = machine.ssh("journalctl -o cat _PID=$(pgrep -x ursula)").stdout.count("event=log_thread_not_first")
    assert said == (0 if may_go_first else 1)


def test_a_broken_setting_does_not_touch_a_running_cluster(site, cluster):
    before = {n: site.tree(n) for n in FIRST}
    settings = {**site.variables["ursula_settings"], "long_poll_ms": "a while"}
    played = site.play("site", variables={"ursula_settings": settings}, wanted=2)
    assert "`long_poll_ms` is a while ; allowed: a time from 10ms to 10min" in played.said()
    settings = {**site.variables["ursula_settings"], "admin_listen": "0.0.0.0:4460"}
    played = site.play("site", variables={"ursula_settings": settings}, wanted=2)
    assert "ursula_settings must not have admin_listen: the collection has variables of its own" in played.said()
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


def test_a_rolling_restart_is_not_seen_by_clients_and_goes_on_where_it_was_broken_off(site, cluster):
    before = {n: started(site, n) for n in FIRST}
    with site.load() as report:
        broken = site.break_off("rolling_restart", when=lambda: started(site, "a") != before["a"])
        begun = re.search(r"ursula_restart_begun=(\d+)", broken)[1]
        between = {n: started(site, n) for n in FIRST}
        assert [n for n in FIRST if between[n] != before[n]] == ["a"]
        assert [m["node"] for m in site.status()["members"] if m["drained"]] == [1], "it was stopped in the middle"
        played = site.play("rolling_restart", variables={"ursula_restart_begun": int(begun)})
    assert report["nodes_verified"] == 3
    after = {n: started(site, n) for n in FIRST}
    assert after["a"] == between["a"], "what was done is not done again"
    assert after["b"] != before["b"] and after["c"] != before["c"]
    assert [m for m in site.status()["members"] if m["drained"]] == []
    assert played.hosts["a"][1] <= 2, "it leads again, and nothing else"


def test_a_changed_setting_rolls_through_the_cluster(site, cluster):
    site.variables["ursula_settings"]["long_poll_ms"] = "10s"
    # One of them on a CPU of its own.
    site.own["c"] = {"ursula_cpus": "1", "ursula_settings": {**site.variables["ursula_settings"], "no_pin": False}}
    with site.load():
        site.play("site")
    for name in FIRST:
        assert 'long_poll_ms = "10s"' in site.lab[name].ssh("cat /etc/ursula/config.toml").stdout
    cpus = "grep -h Cpus_allowed_list /proc/$(pgrep -x ursula)/task/*/status"
    assert set(site.lab["c"].ssh(cpus).stdout.split()[1::2]) == {"1"}, "all threads, the executors' too"
    assert set(site.lab["a"].ssh(cpus).stdout.split()[1::2]) != {"1"}


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


def test_a_drain_of_an_operator_is_not_ended_by_a_rolling_restart(site, cluster):
    before = started(site, "a")
    drain = f"ursula cluster --at {site.lab['a'].address}:4447 drain"
    site.lab["a"].ssh(f"{drain} 1")
    site.variables["ursula_wait_s"] = 3
    try:
        played = site.play("rolling_restart", wanted=2)
        assert "drained: [1]" in played.said()
        assert [m["node"] for m in site.status()["members"] if m["drained"]] == [1]
    finally:
        site.variables["ursula_wait_s"] = 60
        site.lab["a"].ssh(f"{drain} --undo 1")
    assert started(site, "a") == before


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


def test_the_way_back_is_an_upgrade_to_the_version_before(site, cluster):
    """Which is still there: nothing is given to install it from."""
    running, old = versions(site), site.release.version
    back = {"ursula_version": old, "ursula_source": ""}
    before = state(site)
    shown = site.play("rolling_upgrade", "--check", "--diff", variables=back)
    assert {row[1] for row in shown.hosts.values()} == ({0} if set(running.values()) == {old} else {2}), "the link, and the restart"
    assert state(site) == before
    with site.load():
        site.play("rolling_upgrade", variables=back)
    assert versions(site) == dict.fromkeys(FIRST, old)
    site.variables.update(ursula_version=old, ursula_source=str(site.release.package))


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
    # Damage is not hidden by a restart.
    machine.ssh("systemctl stop ursula; printf nonsense | dd of=/var/lib/ursula/node.ursula bs=1 seek=8 conv=notrunc status=none; systemctl start ursula", check=False)
    ended = "systemctl show ursula --property=ActiveState,ExecMainStatus,NRestarts"
    wait_until("it has given up", 20, lambda: "ActiveState=failed" in machine.ssh(ended).stdout)
    assert {"ExecMainStatus=65", "NRestarts=0"} <= set(machine.ssh(ended).stdout.split()), machine.ssh(ended).stdout
    machine.ssh("dpkg --purge ursula")
    assert machine.ssh("systemctl is-active ursula; ls /usr/bin/ursula /etc/ursula/ursula.toml; pgrep -x ursula", check=False).stdout.split() == ["failed"], "as it ended"
    assert machine.ssh("ls /var/lib/ursula/node.ursula").stdout, "data is not the package's to remove"
    machine.ssh("rm -r /etc/ursula; find /var/lib/ursula -mindepth 1 -delete")


def bundles(site, place):
    site.play("collect_support", variables={"ursula_support_dir": str(place)})
    found = {}
    for name in FIRST:
        with tarfile.open(place / f"{name}.tar.gz") as bundle:
            found[name] = {m.name[2:]: bundle.extractfile(m).read() for m in bundle.getmembers() if m.isfile()}
    return found


def test_a_support_bundle_has_what_is_needed_and_no_secret(site, cluster, tmp_path):
    site.fetch("a", "/v1/stream/payload", "PUT", "")
    site.fetch("a", "/v1/stream/payload", "POST", "do-not-show-this")
    # Bundles are wanted of nodes that do not run, too.
    site.lab["c"].ssh("systemctl stop ursula")
    try:
        found = bundles(site, tmp_path)
    finally:
        site.lab["c"].ssh("systemctl start ursula")
    for name, parts in found.items():
        doctor = {one["id"]: one for one in json.loads(parts["doctor.json"])["checks"]}
        taken = [one for one in doctor.values() if one["id"].startswith("net.") and one["severity"] != "ok"]
        assert taken == [], "a node that runs does not find its own ports taken"
        assert b"event=" in parts["journal"] and b"LimitMEMLOCK=infinity" in parts["unit"] and b"wal_dir" in parts["config.toml"]
        assert b"node.ursula" in parts["files"] and b"/var/lib/ursula" in parts["disk"]
        everything = b"".join(parts.values())
        for secret in ("do-not-show-this", SECRET, STORE_SECRET):
            assert secret.encode() not in everything, [part for part in parts if secret.encode() in parts[part]]
    for name in ("a", "b"):
        parts = found[name]
        assert json.loads(parts["cluster.json"])["groups"]
        assert b"ursula_build_info" in parts["metrics"] and b"ursula_build_info" in parts["metrics-later"]
        assert json.loads(parts["ready.json"])["ready"] in (True, False) and json.loads(parts["overview.json"])["node"]
        settings = {one["key"]: one for one in json.loads(parts["settings.json"])}
        assert settings["raft_group_count"]["value"] == "8" and "s3_secret_access_key" not in settings
        assert b"Max open files" in parts["process"]
    assert "ursula-support" not in site.lab["a"].ssh("ls /tmp").stdout
    wait_until("c is back", 30, lambda: not [n for n in site.status()["nodes"] if "error" in n])
