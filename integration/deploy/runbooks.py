"""What the runbooks tell an operator to run and to look at, read from the pages.

A page's commands stand in backquotes. Those below "What to look at" change nothing and are run by the tests on a machine; those
below "What to do" change something.
"""

import re

from machines import REPOSITORY

PAGES = sorted((REPOSITORY / "ansible/runbooks").glob("*.md"))
# Each is on the machines of the tests.
PROGRAMS = {"cat", "df", "dmesg", "du", "iostat", "journalctl", "openssl", "systemctl", "timedatectl", "top", "ursula"}
# These look at disks, memory banks, clocks and CPUs, of which a container has none; Debian has a package of each.
OF_THE_HARDWARE = {"chronyc", "edac-util", "nvme", "perf", "smartctl"}
ON_THE_CONTROLLER = {"ansible-playbook"}


def sections():
    """Page, heading, and text."""
    for page in PAGES:
        for part in page.read_text().split("\n## ")[1:]:
            heading, _line, text = part.partition("\n")
            yield page.stem, heading, text


def commands(heading):
    """Page and command of all that a section of this name says to run."""
    for page, found, text in sections():
        for code in re.findall(r"`([^`]+)`", text):
            if found == heading and is_command(code):
                yield page, re.sub(r"\s+", " ", code)


def is_command(code):
    """A setting with its value and a request are none."""
    return program(code) in PROGRAMS | OF_THE_HARDWARE | ON_THE_CONTROLLER or bool(re.search(r"\s", code)) and not re.match(r"\w+ = |PUT ", code)


def program(code):
    return code.split()[0]


def panels():
    """Page and title of each panel that a page names."""
    for page, _heading, text in sections():
        for title in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", text):
            yield page, re.sub(r"\s+", " ", title)


def metrics():
    return {name for _page, _heading, text in sections() for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"^ursula_\w+$", code)}
