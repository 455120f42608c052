"""Programs of other versions, made without a second build.

The next version is the same program with the digits of its version changed in place, so that it answers `--version` with
them; it differs in nothing else, and what the compiler put elsewhere, such as in `ursula_build_info`, stays. The broken one is a
script that ends at once as a server.
"""

import os
import shutil
import tarfile
from pathlib import Path

from machines import run


def next_version(binary, place):
    """A release tarball of the next version; answers version and file."""
    version = run(binary, "--version").split()[1]
    head, _dot, last = version.rpartition(".")
    assert len(last) == 1 and last != "9", f"{version}: a version whose last number can be raised in place"
    raised = f"{head}.{int(last) + 1}"
    program = Path(place) / "ursula-next"
    program.write_bytes(Path(binary).read_bytes().replace(version.encode(), raised.encode()))
    program.chmod(0o755)
    assert run(program, "--version").split()[1] == raised
    tarball = Path(place) / f"ursula-{raised}.tar.gz"
    with tarfile.open(tarball, "w:gz", compresslevel=1) as out:
        out.add(program, f"ursula-{raised}/bin/ursula")
    return raised, tarball


def broken_version(binary, place):
    """A program that checks settings and asks clusters like the real one, and ends when it shall serve."""
    program = Path(place) / "ursula-broken"
    # The real one lies beside it on each machine.
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "--version) echo ursula 9.9.9 ;;\n"
        "server) echo event=failed broken on purpose >&2; exit 1 ;;\n"
        f'*) exec /opt/ursula/{run(binary, "--version").split()[1]}/bin/ursula "$@" ;;\n'
        "esac\n"
    )
    os.chmod(program, 0o755)
    return "9.9.9", program


def package(binary, place):
    """The program in a Debian package, as small as one can be."""
    tree = Path(place) / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    version = run(binary, "--version").split()[1]
    architecture = run("dpkg", "--print-architecture").strip()
    control = f"Package: ursula\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: nobody <n@localhost>\nDescription: ursula\n"
    (tree / "DEBIAN/control").write_text(control)
    shutil.copy(binary, tree / "usr/bin/ursula")
    file = Path(place) / f"ursula_{version}.deb"
    run("dpkg-deb", "--build", "--root-owner-group", "-z1", tree, file)
    return file
