"""Every test run has its own cache folder, and one thread a process."""

from __future__ import annotations

import os
import tempfile

from hypothesis import settings

# How long an example takes says nothing here, and on a busy machine fails at random.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "FIONA_TEST_HOME" not in os.environ:
    # Workers of pytest-xdist inherit the controller's folder, so a corpus is tokenised once a run.
    os.environ["FIONA_TEST_HOME"] = tempfile.mkdtemp(prefix="fiona-test-")
os.environ["FIONA_HOME"] = os.environ["FIONA_TEST_HOME"]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_unconfigure(config) -> None:
    if not hasattr(config, "workerinput"):
        import shutil

        shutil.rmtree(os.environ["FIONA_TEST_HOME"], ignore_errors=True)
