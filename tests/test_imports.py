"""What an import costs: the heavy libraries are loaded by those who use them, when they use them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("dask", "distributed", "prefect", "torch")


def loaded_by(module: str) -> list[str]:
    """The heavy libraries that a fresh interpreter has loaded after importing this module."""
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & {set(HEAVY)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("module", ["tilekit", "flows.main"])
def test_import_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(module) == []
