"""What all tests share: a private Prefect home, the real images, Hypothesis without a clock."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Set before any test module imports prefect, and inherited by every process that a test starts.
_prefect_home = tempfile.mkdtemp(prefix="tilekit-prefect-")
atexit.register(shutil.rmtree, _prefect_home, ignore_errors=True)
os.environ.update(
    DO_NOT_TRACK="1",
    OMP_NUM_THREADS="1",  # tests run side by side, and threads that share a core wait for each other at every barrier
    OMP_WAIT_POLICY="PASSIVE",  # where training takes all cores none the less, waiting costs no CPU
    PREFECT_HOME=_prefect_home,
    PREFECT_LOGGING_LEVEL="WARNING",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
)
os.environ.pop("PREFECT_API_URL", None)  # a developer's own server stays out of it

# Times vary with the load: a slow example is not a wrong one. Where CI is set, the same examples are tried each time.
settings.register_profile("tilekit", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tilekit")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout; tests that need it are skipped where there is none."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no folder of real images at {path}")
    return path
