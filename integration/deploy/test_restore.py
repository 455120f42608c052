"""All nodes are lost, and a new cluster is made on the same machines from the backup in the cold store."""

import time

from conftest import FIRST
from machines import BUCKET, wait_until

BACKUP = f"s3://{BUCKET}/deploy"
STREAMS = 12
BLOCK = "0123456789abcdef" * 512


def dr_lag(site):
    """The largest of all nodes' in seconds."""
    texts = [site.fetch(n, "/metrics")[1] for n in FIRST]
    rows = [line for text in texts for line in text.splitlines() if line.startswith("ursula_dr_lag_seconds{")]
    return max(float(row.split()[-1]) for row in rows)


def test_a_cluster_that_lost_all_nodes_is_restored_from_its_backup(site, cluster):
    without = {key: value for key, value in site.variables["ursula_settings"].items() if key != "dr"}
    assert "There is no backup" in site.play("backup", variables={"ursula_settings": without}, wanted=2).said()
    kept = {}
    for number in range(STREAMS):
        path = f"/v1/stream/kept/{number}"
        assert site.fetch("a", path, "PUT", "")[0] == 201
        parts = [f"{number}:{part}:{BLOCK}" for part in range(8)]
        for part in parts:
            assert site.fetch("b", path, "POST", part)[0] == 204
        kept[path] = "".join(parts)
    appended = time.monotonic()
    wait_until("all of it is in the backup", 60, lambda: dr_lag(site) < time.monotonic() - appended)
    assert site.play("backup", variables={"ursula_backup_verify": True}).changed == 0

    said = site.play("restore", variables={"ursula_restore_from": BACKUP}, wanted=2).said()
    assert "has data in /var/lib/ursula" in said and "Nothing was changed" in said

    site.wipe()
    site.variables["ursula_cluster_id"] = "deploy-restored"
    assert "Say where the backup is" in site.play("restore", wanted=2).said()
    given = {"ursula_restore_from": BACKUP, "ursula_restore_cluster": "deploy-test"}
    before = {n: site.tree(n) for n in FIRST}
    shown = site.play("restore", "--check", "--diff", variables=given)
    assert f"The node's data would be made from {BACKUP}" in shown.said() and {n: site.tree(n) for n in FIRST} == before
    site.play("restore", variables=given)
    for name in FIRST:
        for path, text in kept.items():
            assert site.fetch(name, f"{path}?offset=-1") == (200, text), f"{path} at {name}"
    assert site.fetch("c", "/v1/stream/kept/0", "POST", "more")[0] == 204
    assert site.fetch("a", "/v1/stream/kept/0?offset=-1")[1] == kept["/v1/stream/kept/0"] + "more"
    assert not site.status()["groups_waiting"]
