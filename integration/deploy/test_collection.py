"""The collection's own order, without machines: each variable is declared, described and has a default."""

import ast
import json
import re

import jinja2
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

import runbooks
from machines import REPOSITORY

COLLECTION = REPOSITORY / "ansible"
ROLES = sorted(path.name for path in (COLLECTION / "roles").iterdir())
NAME = re.compile(r"\bursula_[a-z0-9_]+")


class Loader(yaml.SafeLoader):
    """YAML as Ansible writes it: its own tags are plain values."""


Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


def parsed(path):
    return yaml.load(path.read_text(), Loader) or {}


def files():
    for part in ("playbooks", "roles"):
        for path in sorted((COLLECTION / part).rglob("*")):
            if path.suffix in (".yml", ".j2") and path.parent.name != "meta" and "files" not in path.parts:
                yield path


def without_names_of_things(text):
    """Names in the text that are variables: not metrics, files, groups of hosts that `group_by` makes, or parts of a word."""
    text = re.sub(r"(?m)(^|\s)#.*$", "", text).replace(": ursula_monitoring\n", "\n").replace("'ursula_monitoring'", "")
    return re.sub(r"\bursula_(dr_lag_seconds|formed_(yes|no)|roll_(yes|no)|formed_\{|roll_\{)", "", text)


def set_by_itself(node):
    """What tasks and plays set for those after them."""
    if isinstance(node, list):
        for one in node:
            yield from set_by_itself(one)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "register":
                yield value
            elif key in ("vars", "ansible.builtin.set_fact") and isinstance(value, dict):
                yield from value
            elif isinstance(value, (dict, list)):
                yield from set_by_itself(value)


def options(role):
    specs = parsed(COLLECTION / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    return {name: option for spec in specs.values() for name, option in (spec.get("options") or {}).items()}


def defaults(role):
    """Those that are the user's to set, and those that are derived."""
    path = COLLECTION / f"roles/{role}/defaults/main.yml"
    given, derived, is_derived = set(), set(), False
    for line in path.read_text().splitlines():
        # Of a block of derived ones, until an empty line.
        is_derived = line.startswith("# Derived") or is_derived and bool(line)
        if found := re.match(r"(ursula_\w+):", line):
            (derived if is_derived else given).add(found[1])
    assert given | derived == set(parsed(path))
    return given, derived


DECLARED = {name for role in ROLES for name in options(role)}


def test_each_variable_that_is_used_is_declared_or_set_before():
    made = {name for role in ROLES for name in defaults(role)[1]}
    made |= {name for role in ROLES for path in (COLLECTION / f"roles/{role}/vars").glob("*.yml") for name in parsed(path)}
    made |= {name for path in files() if path.suffix == ".yml" for name in set_by_itself(parsed(path))}
    used = {name: path for path in files() for name in NAME.findall(without_names_of_things(path.read_text()))}
    assert {name: str(path) for name, path in used.items() if name not in DECLARED | made} == {}


@pytest.mark.parametrize("role", ROLES)
def test_each_variable_of_a_role_is_described_and_has_a_default(role):
    given, _derived = defaults(role)
    known = options(role)
    assert given - set(known) == set(), "without a description"
    required = {name for name, option in known.items() if option.get("required")}
    assert set(known) - given - required == set(), "without a default"
    assert all(option.get("description") and option.get("type") for option in known.values())


def test_each_variable_that_is_declared_is_used():
    text = "\n".join(path.read_text() for path in files() if path.parent.name != "defaults")
    text += "\n".join((COLLECTION / f"roles/{role}/defaults/main.yml").read_text() for role in ROLES)
    idle = [name for name in DECLARED if len(re.findall(rf"\b{name}\b", text)) < 2]
    assert idle == []


DASHBOARDS = sorted((COLLECTION / "roles/monitoring/files/dashboards").glob("*.json"))


def lost(before, after, at=""):
    """What is in the first and not in the second."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after[key], f"{at}.{key}") if key in after else [f"{at}.{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{at}[{number}]")
    elif before != after:
        yield f"{at}: {before!r} becomes {after!r}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_by_grafanas_own_schema(path):
    """Read into Grafana's own types and written again, it is the same: a field that they do not know, or know otherwise, is lost."""
    plugins.register_default_plugins()
    given = json.loads(path.read_text())
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    assert list(lost(given, written)) == []
    assert all(written[key] for key in ("uid", "title", "schemaVersion", "panels"))


def test_dashboards_are_sound_beside_each_other():
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 3
    for board in boards:
        variables = {one["name"] for one in board["templating"]["list"]}
        ids, taken = [panel["id"] for panel in board["panels"]], set()
        assert len(ids) == len(set(ids))
        for panel in board["panels"]:
            at = panel["gridPos"]
            places = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not places & taken and max(x for x, _y in places) < 24, f"{board['title']}: {panel['title']} lies over another"
            taken |= places
            references = [target["refId"] for target in panel["targets"]]
            assert panel["fieldConfig"]["defaults"]["unit"] and len(references) == len(set(references))
            used = set(re.findall(r"\$\{?(\w+)", json.dumps(panel))) - {"__rate_interval", "__all"}
            assert used <= variables, f"{panel['title']}: {used - variables}"


def test_what_provisions_grafana_names_what_the_dashboards_want():
    def rendered(name, **variables):
        template = (COLLECTION / f"roles/monitoring/templates/{name}.j2").read_text()
        return yaml.safe_load(jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(variables))

    sources = rendered("grafana-datasources.yml", ursula_monitoring_grafana_prometheus="http://p:9090", ursula_monitoring_interval_s=15)
    (source,) = sources["datasources"]
    assert sources["apiVersion"] == 1 and source["type"] == "prometheus" and source["access"] == "proxy"
    assert source["url"] == "http://p:9090" and source["jsonData"]["timeInterval"] == "15s"
    boards = rendered("grafana-dashboards.yml", ursula_monitoring_grafana_dashboards_dir="/d")
    (provider,) = boards["providers"]
    assert boards["apiVersion"] == 1 and provider["type"] == "file" and provider["options"] == {"path": "/d"}
    for path in DASHBOARDS:
        kinds = {one["name"]: one for one in json.loads(path.read_text())["templating"]["list"] if one["type"] == "datasource"}
        assert kinds["datasource"]["query"] == source["type"]


def test_what_the_readme_says_is_there():
    """Its inventory is one, and playbooks, variables and runbooks that the pages name exist."""
    for page in (REPOSITORY / "README.md", COLLECTION / "README.md"):
        text = page.read_text()
        block = re.search(r"(?m)^    ursula:\n((?:      .*\n)+)", text)[0]
        inventory = yaml.safe_load(block)["ursula"]
        assert len(inventory["hosts"]) == 3 and len(block.splitlines()) <= 10, "an inventory of a few lines"
        assert len({host["ursula_node_id"] for host in inventory["hosts"].values()}) == 3
        watchers = [yaml.safe_load(found[0]) for found in re.finditer(r"(?m)^    ursula_monitoring:\n((?:      .*\n)+)", text)]
        machines = [*inventory["hosts"].values(), *(host for found in watchers for host in found["ursula_monitoring"]["hosts"].values())]
        settings = {name for host in [inventory["vars"], *machines] for name in host}
        named = set(re.findall(r"-e (ursula_\w+)=", text))
        if page.parent == COLLECTION:
            named |= set(NAME.findall(text))
        unknown = (settings | named) - DECLARED - {"ansible_host", "ursula_monitoring"}
        assert unknown == set(), page
        playbooks = {path.stem for path in (COLLECTION / "playbooks").glob("*.yml")}
        assert set(re.findall(r"ursula\.cluster\.(\w+)", text)) <= playbooks | {"variables", "health"}


RULES = COLLECTION / "roles/monitoring/files/ursula.rules.yml"


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not():
    fires, quiet = set(), set()
    for test in parsed(COLLECTION / "tests/ursula.rules.test.yml")["tests"]:
        for asked in test["alert_rule_test"]:
            (fires if asked["exp_alerts"] else quiet).add(asked["alertname"])
    alerts = {rule["alert"] for group in parsed(RULES)["groups"] for rule in group["rules"]}
    assert alerts == fires == quiet


def sources():
    for part in ("src", "storage/src"):
        for path in sorted((REPOSITORY / part).rglob("*.rs")):
            yield path.read_text()


def test_what_a_runbook_names_is_there():
    """Metrics, bounds, settings and events of the log: who looks for them at night finds them."""
    source = "\n".join(sources())
    events = set(re.findall(r"\bevent=(\w+)", source))
    settings = (REPOSITORY / "src/config/settings.rs").read_text()
    unknown = []
    for page in sorted((COLLECTION / "runbooks").glob("*.md")):
        text = page.read_text()
        for code in re.findall(r"`([^`\n]+)`", text):
            for metric in re.findall(r"\bursula_\w+", code):
                name = re.sub(r"_(bucket|count|sum)$", "", metric.removeprefix("ursula_"))
                if metric not in DECLARED and not re.search(rf"\b(ursula_)?{name}\b", source):
                    unknown.append(f"{page.stem}: metric {metric}")
            looked_for = re.findall(r"\bevent=(\w+)", code)
            if found := re.search(r"^journalctl.*\| grep (?:-E )?['\"]?([^'\"]+)", code):
                looked_for += [part for part in found[1].split("|") if not part.startswith("level=")]
            unknown += [f"{page.stem}: event {part}" for part in looked_for
                        if "level=" not in code and not any(part in event for event in events)]
            if re.fullmatch(r"(?!ursula_)[a-z0-9_]+_(max|ms|bytes|file|dir)", code) and not re.search(rf'\b{code}\b', settings + source):
                unknown.append(f"{page.stem}: {code}")
            if command := re.match(r"ursula (cluster|doctor|version|config|backup|scrub)\b", code):
                assert f'"{command[1]}"' in source, code
    assert unknown == []


def test_commands_and_panels_of_runbooks_are_ones_that_are_known():
    """The commands are run on a machine by test_monitoring.py, all but those of the hardware."""
    known = runbooks.PROGRAMS | runbooks.OF_THE_HARDWARE | runbooks.ON_THE_CONTROLLER
    found = [*runbooks.commands("What to look at"), *runbooks.commands("What to do"), *runbooks.commands("What it means")]
    assert [(page, code) for page, code in found if runbooks.program(code) not in known] == []
    titles = {panel["title"] for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]}
    assert [(page, title) for page, title in runbooks.panels() if title not in titles] == []
    # A panel is named in the way that is looked at here.
    assert [page.stem for page in runbooks.PAGES if re.search(r"\b[Pp]anels?\s+[^*\s]", page.read_text())] == []
    for page in runbooks.PAGES:
        text = page.read_text()
        assert [part for part in re.findall(r"(?m)^#+ .*", text)] == [f"# {page.stem}", "## What it means", "## What to look at", "## What to do"]
        assert [name for name in re.findall(r"\]\((\w+)\.md\)", text) if not (page.parent / f"{name}.md").exists()] == []


# Modules that do the same on each distribution; `package` asks whatever manager there is.
OF_ANY_LINUX = {
    "assert", "command", "copy", "debug", "fail", "fetch", "file", "find", "group", "group_by", "import_playbook", "include_role",
    "include_tasks", "package", "set_fact", "shell", "slurp", "stat", "systemd_service", "tempfile", "template", "uri", "user",
}
OF_DEBIAN = r"\b(apt(-get)?|dpkg(-deb)?|debconf|update-rc\.d|adduser|/etc/default|/etc/apt)\b"
OF_OTHERS = r"\b(yum|dnf|rpm|zypper|/etc/sysconfig)\b"


def steps(node):
    """Each task of a file, also those in blocks."""
    for one in node if isinstance(node, list) else [node]:
        if isinstance(one, dict):
            yield one
            for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
                yield from steps(one.get(part) or [])


def test_roles_do_the_same_on_each_distribution_but_for_what_asks_which_it_is():
    text = {path: re.sub(r"(?m)(^|\s)#.*$", "", path.read_text()) for path in files()}
    facts = {fact for one in text.values() for fact in re.findall(r"ansible_facts\.(\w+)", one)}
    assert facts == {"distribution", "os_family", "selinux", "virtualization_role", "virtualization_type"}
    modules = {name for one in text.values() for name in re.findall(r"(?m)^ *(?:- )?ansible\.builtin\.(\w+):", one)}
    assert modules <= OF_ANY_LINUX
    for path in (path for path in files() if path.suffix == ".yml"):
        for step in steps(parsed(path)):
            shown = json.dumps({key: value for key, value in step.items() if key not in ("block", "rescue", "always", "tasks", "name")})
            assert not re.search(OF_OTHERS, shown), f"{path}: {step}"
            if re.search(OF_DEBIAN, shown):
                assert "package" in str(step.get("when")) or "os_family" in shown, f"{path}: {step}"
    # A play has the facts that its roles ask for, from itself or from one before.
    for path in sorted((COLLECTION / "playbooks").glob("*.yml")):
        gathered = [play.get("gather_subset", []) for play in parsed(path) if play.get("gather_facts")]
        roles = {role["role"] for play in parsed(path) for role in play.get("roles", [])}
        if roles & {"ursula.cluster.install", "ursula.cluster.host"}:
            assert gathered and {"distribution", "selinux", "virtual"} <= set(gathered[0]), path


FACTS = {
    "Debian 12": ("Debian", "Debian", "disabled"), "Ubuntu 22.04": ("Ubuntu", "Debian", "disabled"),
    "Ubuntu 24.04": ("Ubuntu", "Debian", "disabled"), "Rocky 9": ("Rocky", "RedHat", "enabled"),
}


@pytest.mark.parametrize("system", FACTS)
def test_what_a_role_asks_of_a_distribution_is_answered_for_each(system):
    """The conditions of the role install, as Ansible evaluates them, with what the modules find on these systems."""
    distribution, family, selinux = FACTS[system]
    role = list(steps(parsed(COLLECTION / "roles/install/tasks/unpack.yml")))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)

    def holds(condition, **variables):
        facts = {"distribution": distribution, "os_family": family, "selinux": {"status": selinux}}
        return environment.compile_expression(condition)(ansible_facts=facts, **variables)

    (refuses,) = (step for step in role if "package where it cannot" in step["name"])
    allowed = refuses["ansible.builtin.assert"]["that"]
    assert holds(allowed, ursula_install_kind="tarball")
    assert holds(allowed, ursula_install_kind="package") == (family == "Debian")
    (labels,) = (step for step in role if "restorecon" in json.dumps(step.get("ansible.builtin.command", "")))
    assert holds(labels["when"]) == (selinux == "enabled")


# What came after systemd 249 and Prometheus 2.31, which Ubuntu 22.04 has: no machine of the tests is as old.
TOO_NEW = (
    "--timestamp=unix", "--syntax-only", "Type=notify-reload", "ExitType", "RestrictFileSystems", "MemoryZSwapMax", "MemoryKSM", "OpenFile",
    "RestartSteps", "RestartMaxDelaySec", "RestartMode", "FileDescriptorStorePreserve", "ImportCredential", "DelegateSubgroup",
    "SurviveFinalKillSignal", "PrivatePIDs", "ProtectControlGroups=private", "ProtectControlGroups=strict", "PrivateTmp=disconnected",
    "ManagedOOMMemoryPressureDurationSec", "CPUSetPartition",
)


def test_the_oldest_systems_know_what_they_are_asked():
    asked = [*files(), *(COLLECTION / "roles/ursula/files").iterdir(), *(COLLECTION / "packaging/debian").iterdir()]
    found = [f"{path.name}: {word}" for path in asked for word in TOO_NEW if re.search(rf"(?m)^[^#\n]*{re.escape(word)}\b", path.read_text())]
    assert found == []


def test_modules_are_of_the_oldest_python_that_the_readme_names():
    (minor,) = re.findall(r"Python 3\.(\d+) or newer", re.sub(r"\s+", " ", (COLLECTION / "README.md").read_text()))
    for path in (COLLECTION / "plugins").rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, int(minor)))
