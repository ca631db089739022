"""Warnings of engines are for people; in tests they would be thousands of lines."""

import pytest
from loguru import logger


@pytest.fixture(autouse=True)
def quiet():
    logger.disable("nvdyn_ase.dynamics.inflight")
    yield
    logger.enable("nvdyn_ase.dynamics.inflight")
