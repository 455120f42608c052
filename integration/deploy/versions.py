"""The releases that are deployed: this version and the next as `run` has packed them, and one that does not serve."""

import os
from pathlib import Path


class Release:
    """What a directory has of `ansible/packaging/build`."""

    def __init__(self, directory):
        (self.tarball,) = directory.glob("*.tar.gz")
        self.package = next(directory.glob("*.deb"), None)
        self.version = self.tarball.name.split("-")[1]


def broken_version(version, place):
    """A program that checks settings and asks clusters like the real one of `version`, and ends when it shall serve."""
    program = Path(place) / "ursula-broken"
    # The real one lies beside it on each machine.
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "--version) echo ursula 9.9.9 ;;\n"
        "server) echo event=failed broken on purpose >&2; exit 1 ;;\n"
        f'*) exec /opt/ursula/{version}/bin/ursula "$@" ;;\n'
        "esac\n"
    )
    os.chmod(program, 0o755)
    return "9.9.9", program
