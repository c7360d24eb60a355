"""``neurosym data``: which images are there, fetch them, and check that a configuration finds what it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosym.cli import checks, options
from neurosym.cli.console import emit_json, emit_table, working
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.sources import Source

DATA_EXAMPLES = """\b
Examples:
  neurosym data list
  neurosym data gtsrb --root data              are the images there?
  neurosym data gtsrb --root data --download   fetch them (360 MB)
  neurosym data cifar10 --root data
  neurosym data check config.yaml              do network, images, rules fit?

\b
Folders are looked for below --root, or below $NEUROSYM_DATA.
"""

SPLITS = {"train": "GTSRB/Training", "test": "GTSRB/Final_Test/Images"}
CIFAR10 = "cifar-10-batches-py"
DATA_SETS = {
    "demo": "GTSRB-12 test images inside this package",
    "gtsrb12": "German traffic signs, twelve classes",
    "gtsrb43": "German traffic signs, all 43 classes",
    "cifar10": "CIFAR-10, photographs of ten classes",
    "FILE.npz": "images uint8 [n, H, W, 3], labels int [n]",
}

Root = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="Folder of the data sets; $NEUROSYM_DATA when left out.")
]

data_app = typer.Typer(
    rich_markup_mode=None, help="Data sets: list, fetch and check.", epilog=DATA_EXAMPLES, no_args_is_help=False
)


def _root(root: Path | None) -> Path | None:
    found = os.environ.get("NEUROSYM_DATA") if root is None else str(root)
    return Path(found) if found else None


def _splits(root: Path | None) -> list[str]:
    """The GTSRB splits below ``root``, in torchvision's layout."""
    if root is None:
        return []
    return [name for name, place in SPLITS.items() if (root / "gtsrb" / place).is_dir()]


def _demo_there() -> bool:
    import neurosym

    return (Path(neurosym.__file__).resolve().parent / "demo" / "images.webp").is_file()


@data_app.command("list", epilog=DATA_EXAMPLES)
def list_data(root: Root = None, as_json: options.Json = False) -> None:
    """Data sets by name, and whether they are there."""
    place = _root(root)
    splits = _splits(place)
    state = {
        "demo": "there" if _demo_there() else "missing",
        "cifar10": "train, test" if place is not None and (place / CIFAR10).is_dir() else "missing",
        "FILE.npz": "your own",
    }
    signs = ", ".join(splits) if splits else "missing"
    rows = [(name, what, state.get(name, signs)) for name, what in DATA_SETS.items()]
    if as_json:
        sets = [{"name": name, "what": what, "state": there} for name, what, there in rows]
        emit_json({"root": place, "data_sets": sets})
        return
    emit_table(rows, header=("data", "what", "state"))
    print(f"root: {place}" if place is not None else "root: not set; give --root DIR or set NEUROSYM_DATA")


@data_app.command("gtsrb", epilog=DATA_EXAMPLES)
def gtsrb(
    root: Root = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch what is missing (360 MB).")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that the GTSRB images are there.

    They are fetched only when asked to."""
    place = _root(root)
    if place is None:
        raise InputError("--root is missing; name the folder of the data sets or set NEUROSYM_DATA")
    missing = [name for name in SPLITS if name not in _splits(place)]
    if missing and not download:
        raise InputError(
            f"{place}: no GTSRB {' and '.join(missing)} images in {place / 'gtsrb'}; "
            f"run: neurosym data gtsrb --root {place} --download"
        )
    if missing:
        checks.writable_folder(place, "--root")
    with working(quiet):
        counts = {name: _count(place, name, name in missing) for name in SPLITS}
    if as_json:
        emit_json({"root": place, "images": counts})
    elif not quiet:
        emit_table([(name, f"{count:,} images") for name, count in counts.items()])


def _count(root: Path, split: str, download: bool) -> int:
    from neurosym.models.backbones import import_torchvision

    torchvision = import_torchvision()
    try:
        return len(torchvision.datasets.GTSRB(str(root), split=split, download=download))
    except (OSError, RuntimeError) as error:
        mend = "try again when the network is up" if download else f"delete {root / 'gtsrb'} and fetch it again"
        raise InputError(
            f"{root / 'gtsrb'}: GTSRB {split} cannot be {'fetched' if download else 'read'} ({error}); {mend}"
        ) from None


@data_app.command("cifar10", epilog=DATA_EXAMPLES)
def cifar10(
    root: Root = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch what is missing (170 MB).")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that the CIFAR-10 images are there.

    They are fetched only when asked to."""
    place = _root(root)
    if place is None:
        raise InputError("--root is missing; name the folder of the data sets or set NEUROSYM_DATA")
    if download:
        checks.writable_folder(place, "--root")
    with working(quiet):
        from neurosym.models.data import load_cifar10

        if download:
            _fetch_cifar10(place)
        counts = {name: len(load_cifar10(place, name)) for name in ("train", "test")}
    if as_json:
        emit_json({"root": place, "images": counts})
    elif not quiet:
        emit_table([(name, f"{count:,} images") for name, count in counts.items()])


def _fetch_cifar10(root: Path) -> None:
    from neurosym.models.backbones import import_torchvision

    try:
        import_torchvision().datasets.CIFAR10(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{root}: CIFAR-10 cannot be fetched ({error}); try again when the network is up") from None


@data_app.command("check", epilog=DATA_EXAMPLES)
def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="As for neurosym certify.")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check what a configuration needs.

    Network, images and rules are loaded and compared; nothing is written."""
    checks.existing_file(config, "give a YAML configuration; see neurosym certify --help")
    with working(quiet):
        facts = _facts(config)
    if as_json:
        emit_json(facts)
    elif not quiet:
        emit_table([(name.replace("_", " "), str(value)) for name, value in facts.items()])


def _fits(source: Source, device: str) -> None:
    """Refuse a network that does not give one logit a predicate, found by running it on one image."""
    import numpy as np

    from neurosym.certify.sampling import ModelEvidence

    one = source.images.take(np.arange(1))
    evidence = ModelEvidence(
        source.model, one, "1", 1, 0, predicates=source.predicates, num_classes=source.num_classes, device=device
    )
    next(iter(evidence.chunks()))


def _facts(path: Path) -> dict[str, Any]:
    from neurosym.certify.config import load_config
    from neurosym.certify.sources import load_source

    config = load_config(path)
    source = load_source(config)
    _fits(source, config.device)
    n = len(source.images)
    tune, calibrate = (int(share * n) for share in (config.splits.tune, config.splits.calibrate))
    return {
        "model": config.model,
        "weights_sha256": source.weights_sha256,
        "data": source.images.name,
        "images": n,
        "split": f"about {tune} tuning, {calibrate} calibration, {n - tune - calibrate} test",
        "classes": source.num_classes,
        "concepts": len(source.predicates) - source.num_classes,
        "rules": 0 if source.kb is None else len(source.kb.rules),
    }
