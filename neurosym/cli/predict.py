"""``neurosym predict``: prediction sets for new evidence or new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosym.cli import checks, options
from neurosym.cli.console import emit_files, emit_json, emit_table, show_progress, working
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.pipeline import Prediction

PREDICT_EXAMPLES = """\b
Examples:
  neurosym predict out/run/certificate.json --evidence x.npz
      sets with the certificate's guarantee, printed
  neurosym predict out/run/certificate.json --evidence x.npz --out out/x
      and written: sets.npz, predictions.csv
  neurosym predict config.yaml --images photos
      --certificate out/run/certificate.json --out out/photos
      images in; labels, sets and a contact sheet out

\b
Without --certificate, images get labels but no guaranteed sets.
"""

ROWS_SHOWN = 20
_FORMS = "give certificate.json with --evidence x.npz, or CONFIG.yaml with --images DIR"


def predict(
    source: Annotated[Path, typer.Argument(metavar="CERTIFICATE.json|CONFIG.yaml", help="What to predict with.")],
    evidence: Annotated[
        Path | None, typer.Option("--evidence", metavar="X.npz", help="Evidence file, of the certificate's kind.")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder of image files.")] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Certificate whose sets the images get.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prediction sets for evidence or images.

    The sets carry the certificate's guarantee for inputs like those it was calibrated on."""
    if (evidence is None) == (images is None):
        raise InputError(f"{'neither' if evidence is None else 'both'} --evidence and --images; {_FORMS}")
    if out is not None:
        _own_folder(checks.writable_folder(out))
    if evidence is not None:
        checks.only_with("--images", {"--certificate": certificate, "--device": device})
        prediction = _from_evidence(source, evidence, quiet)
    else:
        assert images is not None
        prediction = _from_images(source, images, certificate, device, quiet)
    files: dict[str, str] = {}
    with_sets = images is None or certificate is not None  # without a certificate nothing is promised
    if out is not None:
        from neurosym.cli.predictions import write_predictions

        with working(quiet):
            files = write_predictions(out, prediction, images, with_sets=with_sets)
    if as_json:
        emit_json(_content(prediction, files, with_sets))
    elif not quiet:
        _show(prediction, files, with_sets)


def _own_folder(out: Path) -> None:
    if (out / "certificate.json").exists():
        raise InputError(f"--out {out}: its sets.npz belongs to the certificate there; give another folder")


def _from_evidence(source: Path, evidence: Path, quiet: bool) -> Prediction:
    path = source / "certificate.json" if source.is_dir() else source
    checks.existing_file(path, "give a certificate.json made by neurosym certify")
    if path.suffix in (".yaml", ".yml"):
        raise InputError(f"{path}: --evidence needs a certificate, not a configuration; {_FORMS}")
    checks.existing_file(evidence, "give an .npz evidence file")
    with working(quiet):
        from neurosym.certify import pipeline

        return pipeline.predict_file(path, evidence)


def _from_images(source: Path, images: Path, certificate: Path | None, device: str | None, quiet: bool) -> Prediction:
    checks.existing_file(source, "give the YAML configuration of the network; see neurosym certify --help")
    if source.suffix == ".json":
        raise InputError(f"{source}: images need the configuration of the network; {_FORMS}, --certificate {source}")
    checks.existing_folder(images, "give a folder of image files")
    if certificate is not None:
        certificate = certificate / "certificate.json" if certificate.is_dir() else certificate
        checks.existing_file(certificate, "give a certificate.json made by neurosym certify")
    if device is not None:
        checks.choice("--device", device, options.DEVICES)
    with working(quiet):
        from neurosym.certify import pipeline
        from neurosym.certify.config import load_config

        config = load_config(source)
        if device is not None:
            config = config.model_copy(update={"device": device})
        return pipeline.predict_images(config, images, certificate, progress=show_progress(quiet))


def _content(prediction: Prediction, files: dict[str, str], with_sets: bool) -> dict[str, Any]:
    from neurosym.cli.predictions import members

    rows: list[dict[str, Any]] = []
    for i, (row, label) in enumerate(zip(prediction.rows, prediction.labels, strict=True)):
        rows.append({"row": str(row), "label": prediction.classes[int(label)]})
        if with_sets:
            rows[-1]["set"] = members(prediction, i)
    found: dict[str, Any] = {"n": len(rows)}
    if with_sets and rows:
        found["mean_size"] = float(prediction.sets.sum(axis=1).mean())
    return {**found, "rows": rows, "files": files}


def _show(prediction: Prediction, files: dict[str, str], with_sets: bool) -> None:
    content = _content(prediction, files, with_sets)
    rows = content["rows"]
    shown = [
        (row["row"], row["label"], ", ".join(row["set"]) or "-") if with_sets else (row["row"], row["label"])
        for row in rows[:ROWS_SHOWN]
    ]
    emit_table(shown, header=("row", "label", "set") if with_sets else ("row", "label"))
    if len(rows) > len(shown):
        more = f"... and {len(rows) - len(shown)} more"
        print(more + ("" if files else "; write them all with --out DIR, or use --json"))
    mean = f", {content['mean_size']:.2f} labels in a set" if "mean_size" in content else ""
    print(f"{len(rows)} rows{mean}" + ("" if with_sets else "; for guaranteed sets give --certificate"))
    emit_files(files)
