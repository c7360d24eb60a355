"""Makes the networks of this folder importable from its tests, and gives each of them in turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["conv", "dense", "linear", "residual"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    from bounded_networks import networks

    return networks()[request.param]
