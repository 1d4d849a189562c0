"""constraints.txt names a good version of everything that setup.py asks for, and CITATION.cff names ours."""

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from blocklora_jax import __version__

ROOT = Path(__file__).parents[1]
# Only for accelerators and faces: no version of these was tested.
UNTESTED = {"opencv-python-headless", "gcsfs"}


def test_every_requirement_has_a_pin_that_satisfies_it():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[canonicalize_name(name)] = version
    asked = [
        Requirement(text) for text in re.findall(r'"([\w.-]+(?:\[\w+\])?>=[\d.]+)"', (ROOT / "setup.py").read_text())
    ]
    assert len(asked) > 30
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        assert name in UNTESTED or requirement.specifier.contains(pinned[name]), requirement


def test_the_readmes_pytorch_is_the_pinned_one():
    asked = re.search(r'pip install "(torch==[\d.]+)"', (ROOT / "README.md").read_text())[1]
    assert asked in (ROOT / "constraints.txt").read_text().split()


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
