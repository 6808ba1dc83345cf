"""Builds the tree with a planted bug (tests/planted/*.patch) in it.

Objects of the normal build are taken along as hard links, so that only what a
patch touches is compiled again.  That leaves the originals alone: the compiler,
ar and the linker put new files in the place of old ones.  What is written in
place (dependency files, sources) is copied.
"""
import contextlib
import os
import shutil
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.path.relpath(os.environ.get("ROSTER_BUILD", "build"), ROOT)
NORMAL = BUILD == "build"  # no other build is planted with bugs
SOURCES = ("engine", "proto", "discovery", "coordinator", "expert_node",
           "client", "models", "tests/support", "tests/memory", "tests/chaos",
           "tests/planted", "tests/unit")
BUILT = ("build/obj", "build/gen", "build/lib")
FILES = ("Makefile", "build/libroster.a", "build/libetcd.a")


def _link(source, target):
    if source.endswith((".o", ".a", ".gguf")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _copy_tree(target):
    for folder in SOURCES + BUILT:
        shutil.copytree(os.path.join(ROOT, folder),
                        os.path.join(target, folder), copy_function=_link)
    for name in FILES:
        _link(os.path.join(ROOT, name), os.path.join(target, name))


def _make(tree, targets):
    outside = {name: value for name, value in os.environ.items()
               if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    subprocess.run(["make", "--silent"] + list(targets), cwd=tree, check=True,
                   env=outside, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def tree(bug, targets):
    """The folder of a copy in which `targets` (such as build/roster) were built
    with the bug; gone afterwards."""
    base = os.path.join(ROOT, "build")  # hard links stay on one file system
    with tempfile.TemporaryDirectory(prefix="planted-", dir=base) as folder:
        _copy_tree(folder)
        subprocess.run(["patch", "-p1", "--silent", "-i",
                        "tests/planted/%s.patch" % bug], cwd=folder, check=True)
        _make(folder, targets)
        yield folder
