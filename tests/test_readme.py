"""The README's Python example runs as it stands, and is as short as it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import neurosym

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def example() -> str:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"executed by tests/test_readme\.py -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_example_has_at_most_ten_lines(example: str) -> None:
    assert len([line for line in example.splitlines() if line.strip()]) <= 10


def test_example_runs_on_real_images(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch.utils.data import DataLoader

    from neurosym.models.data import load_mosaic

    demo = Path(neurosym.__file__).parent / "demo"
    shutil.copy(demo / "rules.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with np.load(demo / "labels.npz") as archive:
        images = load_mosaic(demo / "images.webp", archive["labels"])
    torch.manual_seed(0)
    loaders = {
        "cal_loader": DataLoader(images.take(np.arange(20)), batch_size=8),
        "test_loader": DataLoader(images.take(np.arange(20, 28)), batch_size=8),
    }
    namespace: dict[str, object] = dict(loaders)
    exec(compile(example, "README.md", "exec"), namespace)
    sets = namespace["sets"]
    assert isinstance(sets, np.ndarray)
    assert sets.shape == (8, 12)
    assert sets.dtype == bool
    # the untrained network knows nothing: true labels must be in the sets far more often than chance allows to miss
    assert sets[np.arange(8), images.labels[20:28]].mean() >= 0.5
