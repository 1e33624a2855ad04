"""Shared fixtures; the heavy imports stay inside, so that tests of light parts start fast."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin cost tenfold where another job shares the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors here are tiny: more threads only wait for each other

from typing import Any

import pytest


@pytest.fixture(scope="session")
def pipe() -> Any:
    """A tiny v-prediction unCLIP pipeline; tests must leave it as they found it."""
    from tiny import tiny_pipeline

    return tiny_pipeline()


@pytest.fixture(scope="session")
def classifier() -> Any:
    from tiny import TinyClassifier

    return TinyClassifier().eval()
