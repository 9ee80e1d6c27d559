"""What the tests of whole models share: the port to JAX and its mistakes, where they can run."""

from typing import Any

import pytest

from tests.conftest import DEVICE


@pytest.fixture(scope="module")
def ports() -> Any:
    if DEVICE.type != "cpu":
        pytest.skip("the JAX port computes on the CPU")
    pytest.importorskip("jax", reason="jax is not installed: it has a dependency group of its own")
    from tests.fixtures import test_jax_port

    return test_jax_port
