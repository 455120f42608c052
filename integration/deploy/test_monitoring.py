"""A real Prometheus watches the cluster that test_deploy.py leaves: every panel and rule has data, and what goes wrong is told.

The rules are those of the role, with shorter times: how long each waits is what ansible/tests/ursula.rules.test.yml judges.
"""

import json
import re
import subprocess
import time

import pytest
import yaml

import runbooks
from conftest import FIRST
from machines import BUCKET, REPOSITORY, wait_until
from test_collection import DECLARED

ROLE = REPOSITORY / "ansible/roles/monitoring/files"
WATCHER = "d"
# How fast the machine is, which in a test is others' doing.
OF_THE_MACHINE = {"UrsulaSyncSlow", "UrsulaReactorStalls"}


def quicker(text):
    """Rules whose times are a tenth, as far as the interval of the test's scrapes and a store's attempts allow."""
    units = {"s": 1, "m": 60, "h": 3600}

    def shorter(least):
        def replaced(match):
            seconds = int(match[2]) * units[match[3]]
            return f"{match[1]}{max(seconds // 10, min(seconds, least))}s"

        return replaced

    text = re.sub(r"(for: )(\d+)([smh])\b", shorter(10), text)
    return re.sub(r"(\[)(\d+)([smh])(?=\])", shorter(30), text)


class Prometheus:
    """Questions to the one on the watching machine."""

    def __init__(self, site):
        self.site = site
        self.address = f"http://{site.lab[WATCHER].address}:9090"

    def get(self, path, **parameters):
        arguments = [word for pair in parameters.items() for word in ("--data-urlencode", "=".join(pair))]
        out = self.site.lab.inside("curl", "-s", "-G", "-m", "10", *arguments, self.address + path)
        answer = json.loads(out)
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query):
        found = self.get("/api/v1/query", query=query)["result"]
        return [float(one["value"][1]) for one in found]

    def alerts(self, *states):
        """Names of the alerts in these states, without those that tell of the machine's speed."""
        found = self.get("/api/v1/alerts")["alerts"]
        return {a["labels"]["alertname"] for a in found if a["state"] in states} - OF_THE_MACHINE


@pytest.fixture(scope="module")
def prometheus(site):
    if not site.is_formed:
        site.form()
    site.watcher = {"ansible_host": site.lab[WATCHER].address, "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(site.lab.key)}
    site.variables["ursula_monitoring_node_exporter"] = True
    site.watcher.update(ursula_monitoring_interval_s=2, ursula_monitoring_grafana=True, ursula_monitoring_node_exporter=True)
    before = site.tree(WATCHER)
    shown = site.play("monitoring", "--check", "--diff")
    assert site.tree(WATCHER) == before
    played = site.play("monitoring")
    # Of what Grafana has not yet, the directories come with the files; a service that starts needs no reload.
    assert played.changed > 0 and shown.changed == played.changed
    assert site.play("monitoring").changed == 0
    machine, rules = site.lab[WATCHER], "etc/prometheus/ursula.rules.yml"
    machine.write(rules, quicker((machine.root / rules).read_text()))
    machine.ssh("promtool check rules /etc/prometheus/ursula.rules.yml && systemctl reload prometheus")
    return Prometheus(site)


def test_monitoring_is_there_after_one_run_and_unchanged_by_a_second(site, prometheus):
    wait_until("all nodes are scraped", 30, lambda: prometheus.values('sum(up{job="ursula"})') == [3.0])
    # The operators' port, which answers where a core hangs, and not that of the clients.
    assert prometheus.values('count(up{job="ursula",instance=~".*:4457"})') == [3.0]
    wait_until("all machines are scraped", 30, lambda: prometheus.values('sum(up{job="node"})') == [3.0])
    board = site.lab[WATCHER].ssh("cat /var/lib/grafana/dashboards/ursula/cluster.json").stdout
    assert json.loads(board)["uid"] == "ursula-cluster"


def queries():
    for file in sorted((ROLE / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "20s")
                yield f"{file.stem}: {panel['title']}", re.sub(r"\$(cluster|node)\b", ".*", query)


def test_every_panel_has_data(site, prometheus):
    assert site.fetch("a", "/v1/stream/watched", "PUT", "")[0] in (200, 201)
    readers = [
        site.lab.start("curl", "-s", "-N", f"http://{site.lab[n].address}:4437/v1/stream/watched?offset=-1&live=sse",
                       stdout=subprocess.DEVNULL)
        for n in FIRST
    ]
    try:
        with site.load():
            end = time.monotonic() + 12
            while time.monotonic() < end:
                assert site.fetch("b", "/v1/stream/watched", "POST", "x")[0] == 204
            empty = wait_until("every panel has data", 20, lambda: without_data(prometheus) or "none")
            if empty != "none":
                wait_until(f"panels without data: {empty}", 20, lambda: not without_data(prometheus))
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def without_data(prometheus):
    found = []
    for title, query in queries():
        values = prometheus.values(query)
        if not any(value == value for value in values):
            found.append(f"{title}: {query}")
    return found


def test_every_choice_of_a_dashboard_has_something_to_choose(prometheus):
    """Without it, all panels are empty."""
    found = {}
    for file in sorted((ROLE / "dashboards").glob("*.json")):
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
                series = re.sub(r"\$(cluster|node)\b", ".*", series)
                rows = prometheus.get("/api/v1/query", query=f"count by ({label}) ({series})")["result"]
                found[file.stem, variable["name"]] = sorted(row["metric"].get(label, "") for row in rows)
    assert found[("node", "node")] == found[("streams", "node")] == list(FIRST)
    assert [found[(name, "cluster")] for name in ("cluster", "node", "streams")] == [["deploy-test"]] * 3


def test_every_rule_is_evaluated_on_series_that_are_there(prometheus):
    rules = prometheus.get("/api/v1/rules")["groups"][0]["rules"]
    written = yaml.safe_load((ROLE / "ursula.rules.yml").read_text())["groups"][0]["rules"]
    assert {r["name"] for r in rules} == {r["alert"] for r in written}
    assert {r["name"]: r["health"] for r in rules if r["health"] != "ok"} == {}
    for rule in written:
        for metric in set(re.findall(r"\b(?:ursula|process)_\w+|\bup\b", rule["expr"])):
            assert prometheus.values(f'count({metric}{{job="ursula"}})')[0] > 0, f"{rule['alert']}: {metric}"


def test_a_node_that_is_gone_fires_what_it_should(site, prometheus):
    """The whole machine; it comes back as a node by itself."""
    site.lab["c"].crash()
    try:
        wanted = {"UrsulaNodeDown", "UrsulaQuorumAtRisk", "UrsulaUnderReplicated"}
        wait_until("all fire", 120, lambda: wanted <= prometheus.alerts("firing"), pause=1)
        assert prometheus.alerts("firing") - {"UrsulaDiskFullWithinADay"} == wanted
    finally:
        site.lab["c"].boot()
        site.lab["c"].await_boot()
    # The machines share a disk with whatever else fills it just then: that it may be full in a day is no consequence.
    wait_until("no alert", 60, lambda: not prometheus.alerts("pending", "firing") - {"UrsulaDiskFullWithinADay"}, pause=1)


def test_an_s3_server_that_is_gone_fires_what_it_should(site, prometheus):
    wait_until("no alert", 60, lambda: not prometheus.alerts("pending", "firing") - {"UrsulaDiskFullWithinADay"}, pause=1)
    packs = prometheus.values("sum(ursula_cold_packs_written_total)")[0]
    site.lab.stop_store()
    try:
        with site.load():
            wait_until("it fires", 120, lambda: "UrsulaColdStoreFails" in prometheus.alerts("firing"), pause=1)
            # What waits for it since a minute is far from the bound of the other alert.
            # The backup is older than a minute only where this took as long.
            found = prometheus.alerts("pending", "firing") - {"UrsulaDiskFullWithinADay", "UrsulaDrLag"}
            assert found == {"UrsulaColdStoreFails"}
            assert prometheus.values("max(ursula_cold_behind_seconds)")[0] > 10
    finally:
        site.lab.start_store()
    wait_until("it is written to again", 90, lambda: prometheus.values("sum(ursula_cold_packs_written_total)")[0] > packs, pause=1)
    wait_until("nothing waits", 90, lambda: prometheus.values("max(ursula_cold_behind_seconds)")[0] < 10, pause=1)


def test_a_disk_that_is_full_fires_what_it_should(site, prometheus):
    machine = site.lab["a"]
    machine.ssh("free=$(df --output=avail -B1 /var/lib/ursula | tail -1); fallocate -l $free /var/lib/ursula/ballast || true")
    machine.ssh("dd if=/dev/zero of=/var/lib/ursula/ballast2 bs=4k 2>/dev/null || true")
    # An S3 server that came back is believed after a while.
    before = prometheus.alerts("firing")
    assert before <= {"UrsulaColdStoreFails"}
    wanted = {"UrsulaDiskFull", "UrsulaDiskLow"}
    block = "x" * (512 << 10)
    paths = [f"/v1/stream/filling/{n}" for n in range(24)]
    try:
        for path in paths:
            site.fetch("b", path, "PUT", "")

        def is_full():
            for path in paths:
                write(site, path, block)
            return "UrsulaDiskFull" in prometheus.alerts("firing")

        # Not longer: the others' disks are to stay as they are.
        wait_until("it fires", 90, is_full, pause=1)
        wait_until("both fire", 90, lambda: wanted <= prometheus.alerts("firing"), pause=1)
        # What a full disk brings with it: refused writes, failed checkpoints, a replica that does not follow.
        brought = {
            "UrsulaDiskFullWithinADay", "UrsulaRefusals", "UrsulaCheckpointFails", "UrsulaUnderReplicated", "UrsulaQuorumAtRisk",
            "UrsulaReplicaBehind",
        }
        assert prometheus.alerts("pending", "firing") - brought - before == wanted
    finally:
        machine.ssh("rm -f /var/lib/ursula/ballast /var/lib/ursula/ballast2")
    wait_until("it goes on by itself", 90, lambda: not prometheus.alerts("firing") & {"UrsulaDiskFull", "UrsulaDiskLow"}, pause=1)
    wait_until("the S3 server is believed", 120, lambda: "UrsulaColdStoreFails" not in prometheus.alerts("firing"), pause=1)
    wait_until("the cluster is whole", 60, lambda: is_whole(site.status()))


def test_damage_in_the_bucket_fires_what_it_should(site, prometheus):
    """Found by the scrub, with no reader."""
    assert prometheus.values("sum(ursula_scrub_damaged_total)") == [0.0]
    packs = [path for path in (site.lab.place / "s3" / BUCKET / "deploy").rglob("*") if path.is_file() and "packs" in path.parts]
    assert packs
    was = {path: set_byte(path, lambda byte: byte ^ 1) for path in packs}
    try:
        wait_until("it fires", 120, lambda: "UrsulaDamage" in prometheus.alerts("firing"), pause=1)
    finally:
        # What a node has written again meanwhile has these bytes already.
        for path, byte in was.items():
            set_byte(path, lambda now, byte=byte: now if byte is None else byte)
    assert any(path.name in told(site, "scrub_damage") for path in was), told(site, "scrub_damage")
    wait_until("the next round finds them whole", 60, lambda: told(site, "object_sound_again"), pause=1)


CERTIFICATE = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=store -keyout /tmp/key.pem -out /tmp/store.pem 2>/dev/null
systemd-run --quiet --unit store openssl s_server -quiet -accept 443 -key /tmp/key.pem -cert /tmp/store.pem
for n in $(seq 50); do ss -ltn | grep -q :443 && break; sleep 0.1; done
"""


def test_what_runbooks_say_to_run_runs(site, prometheus):
    """As it stands on the pages, at a node that has been through the tests above."""
    machine = site.lab["a"]
    machine.ssh(CERTIFICATE)
    # What it prints where the machine is a container.
    refused = {"dmesg": "Operation not permitted", "doctor": "this machine is not fit"}
    places = {"HOST": machine.address, "STORE": "127.0.0.1", "FILE": "/tmp/store.pem", "N": str(machine.number)}
    failed, seen = [], set()
    for page, code in [*runbooks.commands("What to look at"), *runbooks.commands("What to do")]:
        if runbooks.program(code) not in runbooks.PROGRAMS or code in seen:
            continue
        seen.add(code)
        command = re.sub(rf"\b({'|'.join(places)})\b", lambda found: places[found[0]], code)
        done = machine.ssh(f"set -o pipefail; {command}", check=False)
        excused = any(word in code and said in done.stderr for word, said in refused.items())
        # What is looked for in a log may not be there; what changes something says nothing.
        is_quiet = "| grep" in code and done.returncode == 1 and not done.stderr or code.startswith(("systemctl start", "systemctl reset"))
        if (done.returncode and not (is_quiet or excused)) or not (done.stdout or is_quiet or excused):
            failed.append((page, command, done.returncode, done.stdout, done.stderr))
        if " drain " in command:
            machine.ssh(command.replace("drain", "drain --undo"))
    machine.ssh("systemctl stop store; rm /tmp/*.pem")
    assert failed == [] and len(seen) > 20
    # The store of the tests speaks without TLS.
    named = runbooks.metrics() - DECLARED - {"ursula_cold_certificate_expires_timestamp_seconds"}
    assert [name for name in named if not prometheus.values(f'count({name}{{job="ursula"}})')] == []


def told(site, event):
    """What the nodes' logs say of an event."""
    return "".join(site.lab[n].ssh(f"journalctl -u ursula -o cat | grep event={event}", check=False).stdout for n in FIRST)


def set_byte(path, changed):
    """Changes one byte of an object, and says what it was."""
    try:
        with open(path, "r+b") as file:
            file.seek(40)
            byte = file.read(1)[0]
            file.seek(40)
            file.write(bytes([changed(byte)]))
            return byte
    except FileNotFoundError:
        # Merged with others in the meantime.
        return None


def is_whole(status):
    silent = [node for node in status["nodes"] if "error" in node]
    behind = [r for group in status["groups"] for r in group["replicas"] if r["behind"]]
    return not silent and not behind and all(group["leader"] and not group["trouble"] for group in status["groups"])


def write(site, path, block):
    """An append that may be refused."""
    url = f"http://{site.lab['b'].address}:4437{path}"
    command = ["curl", "-s", "-m", "2", "-o", "/dev/null", "-X", "POST", "-H", "Content-Type: text/plain", "--data-binary", "@-", url]
    site.lab.inside(*command, input=block, check=False)
