"""``neurosym train``: one configuration in, one checkpoint folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neurosym.cli import checks, options
from neurosym.cli.console import emit_files, emit_json, emit_table, number, working
from neurosym.errors import InputError

TRAIN_EXAMPLES = """\b
Examples:
  neurosym train train.yaml --out checkpoints/signs
  neurosym train train.yaml --out checkpoints/quick --epochs 2 --device cpu

\b
A train.yaml:
  data: gtsrb12        # or gtsrb43, or an .npz with images and labels
  root: data           # $NEUROSYM_DATA when left out
  rules: rules.yaml    # classes and concepts come from it
  sigma: 0.25          # noise to train with: that of the certificate
  epochs: 30

\b
DIR gets model.safetensors and card.json when training is over, and nothing
before. Next: model: DIR in the configuration of neurosym certify.
"""


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Data, rules, noise and training settings.")],
    out: options.OutFolder,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Passes over the images.")] = None,
    sigma: options.Sigma = None,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a network for the classes and concepts of a rules file.

    Flags override the configuration."""
    typed: dict[str, Any] = {}
    if epochs is not None:
        typed["epochs"] = checks.whole("--epochs", epochs, 1)
    if sigma is not None:
        typed["sigma"] = float(checks.size("--sigma", sigma))
    if seed is not None:
        typed["seed"] = checks.whole("--seed", seed, 0)
    if device is not None:
        typed["device"] = checks.choice("--device", device, options.DEVICES)
    checks.existing_file(config, "give a YAML configuration; see neurosym train --help")
    checks.writable_folder(out)
    with working(quiet):
        from neurosym.models import training

        settings = training.load_train_config(config)
        _need(settings.rules, f"{config}: field rules")
        _hush()
        card = training.train(settings.model_copy(update=typed), out, quiet=quiet or as_json)
    if as_json:
        emit_json({"out": out, **card})
    elif not quiet:
        rows = [(name, number(value, 4)) for name, value in sorted(card.get("metrics", {}).items())]
        rows += [("seconds", number(card.get("seconds"), 1)), ("device", str(card.get("device")))]
        emit_table(rows)
        emit_files({"checkpoint": str(out)})


def _hush() -> None:
    """Lightning logs its state and advertisements; what counts is in the table."""
    import logging

    import pytorch_lightning  # noqa: F401  sets its own level while it is imported

    for name in ("pytorch_lightning", "lightning", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _need(path: str, where: str) -> None:
    if not Path(path).is_file():
        raise InputError(f"{where}: {path}: no such file; give the path of a rules file")
