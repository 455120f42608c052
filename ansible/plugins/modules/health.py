#!/usr/bin/python
"""Waits until a cluster is whole: the gate between two steps of a rolling change.

Owns what "whole" means. Reads `ursula cluster status --json`, and changes nothing.
"""

DOCUMENTATION = r"""
---
module: health
short_description: Waits until every group of an ursula cluster is healthy and caught up
description:
  - Asks O(at) for the cluster's status until all that is asked for is so, or the time is over.
  - A cluster is healthy where each member answers, each group has a leader and the members that it shall have, no
    replica is in trouble, and each member has applied what the leader had applied when the question was first asked.
author:
  - The authors of ursula
options:
  binary:
    description: The ursula program.
    type: path
    required: true
  at:
    description: Cluster address of a node.
    type: str
    required: true
  members:
    description: Numbers of the nodes that shall be the cluster. Empty is any.
    type: list
    elements: int
    default: []
  leads_nothing:
    description: Number of a node that shall lead no group. 0 is none.
    type: int
    default: 0
  leave_out:
    description: Number of a node that is not judged, since it comes or goes. 0 is none.
    type: int
    default: 0
  drained_allowed:
    description: Numbers of nodes that may be drained.
    type: list
    elements: int
    default: []
  timeout_s:
    description: Seconds to wait. 0 looks once.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Wait until the cluster is whole
  ursula.cluster.health:
    binary: /usr/local/bin/ursula
    at: 10.0.0.1:4447
    members: [1, 2, 3]
"""

RETURN = r"""
summary:
  description: One line for people.
  returned: always
  type: str
status:
  description: The last status.
  returned: when one was got
  type: dict
"""

import json  # noqa: E402
import time  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

PAUSE_S = 0.5


def node_of(raft_id):
    """A raft id has the node's number below, and above it how often its disk was replaced."""
    return raft_id & 0xFFFF


def voters_of(status):
    found = set()
    for group in status["groups"]:
        found.update(node_of(v) for v in group["voters"])
    return found


def judge(status, targets, wish):
    """What is not as it should be, as texts. `targets`: the index that each group must have reached everywhere."""
    wrong = []
    left_out = {wish["leave_out"]}
    members = ({m["node"] for m in status["members"]} or voters_of(status)) - left_out
    wanted = set(wish["members"]) - left_out
    if wanted and members != wanted:
        wrong.append("members are %s, not %s" % (sorted(members), sorted(wanted)))
    drained = {m["node"] for m in status["members"] if m["drained"]} - set(wish["drained_allowed"]) - left_out
    if drained:
        wrong.append("drained: %s; `ursula cluster drain --undo N` ends that" % sorted(drained))
    answered = {n["node"]: n for n in status["nodes"] if "error" not in n}
    silent = members - set(answered)
    if silent:
        errors = [n["cluster"] + ": " + n["error"] for n in status["nodes"] if "error" in n]
        wrong.append("no answer from nodes %s (%s)" % (sorted(silent), "; ".join(errors)))
    wrong.extend(judge_groups(status, members, left_out))
    for number in sorted(members & set(answered)):
        node = answered[number]
        if node["groups_without_leader"]:
            wrong.append("node %d sees %d groups without leader" % (number, node["groups_without_leader"]))
        applied = {g["group"]: g["applied"] for g in node["groups"]}
        behind = [g for g, index in targets.items() if applied.get(g, -1) < index]
        if behind:
            wrong.append("node %d is behind in groups %s" % (number, behind[:8]))
    idle = wish["leads_nothing"]
    if idle in answered and answered[idle]["groups_led"]:
        wrong.append("node %d still leads %d groups" % (idle, answered[idle]["groups_led"]))
    return wrong


def judge_groups(status, members, left_out):
    wrong = []
    if not status["groups"]:
        wrong.append("no groups")
    for group in status["groups"]:
        name = "group %d" % group["group"]
        if not group["leader"]:
            wrong.append(name + " has no leader")
        if group["trouble"]:
            wrong.append("%s: %s" % (name, group["trouble"]))
        if {node_of(v) for v in group["learners"]} - left_out:
            wrong.append(name + " still has learners")
        voters = {node_of(v) for v in group["voters"]} - left_out
        if voters != members:
            wrong.append("%s has the voters %s, not %s" % (name, sorted(voters), sorted(members)))
    if status["groups_waiting"] and left_out == {0}:
        wrong.append("groups that do not have their members yet: %s" % ", ".join(status["groups_waiting"]))
    return wrong


def ask(module):
    command = [module.params["binary"], "cluster", "--at", module.params["at"], "status", "--json"]
    code, out, err = module.run_command(command)
    if code:
        return None, err.strip() or "exit code %d" % code
    try:
        return json.loads(out), ""
    except ValueError as error:
        return None, "not JSON: %s" % error


def main():
    module = AnsibleModule(
        argument_spec={
            "binary": {"type": "path", "required": True},
            "at": {"type": "str", "required": True},
            "members": {"type": "list", "elements": "int", "default": []},
            "leads_nothing": {"type": "int", "default": 0},
            "leave_out": {"type": "int", "default": 0},
            "drained_allowed": {"type": "list", "elements": "int", "default": []},
            "timeout_s": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    end = time.monotonic() + module.params["timeout_s"]
    status, targets, wrong = None, None, []
    while True:
        found, failure = ask(module)
        if found is None:
            wrong = [failure]
        else:
            status = found
            if targets is None and status["groups"]:
                targets = {g["group"]: g["applied"] for g in status["groups"]}
            wrong = judge(status, targets or {}, module.params)
        if not wrong:
            summary = "%d groups healthy on %d nodes" % (len(status["groups"]), len(status["nodes"]))
            module.exit_json(changed=False, summary=summary, status=status)
        if time.monotonic() >= end:
            break
        time.sleep(PAUSE_S)
    summary = "after %d s: %s" % (module.params["timeout_s"], "; ".join(wrong))
    module.fail_json(msg="The cluster is not whole " + summary, summary=summary, status=status)


if __name__ == "__main__":
    main()
