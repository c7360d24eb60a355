"""``neurosym certify``: calibrate a robust conformal predictor and write its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosym.cli import checks, options
from neurosym.cli.console import emit_files, emit_json, emit_table, note, number, percent, show_progress, working
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.pipeline import Outcome

CERTIFY_EXAMPLES = """\b
Examples:
  neurosym certify --demo --out out/demo
      a bundled traffic-sign network, its images and its rules
  neurosym certify config.yaml --out out/run --radius 0.5 --alpha 0.05
      your network and images; flags override the file
  neurosym certify --evidence cal.npz --test test.npz --rules rules.yaml
      --method colep --radius 0.25 --alpha 0.1 --out out/run
      outputs that were computed elsewhere, no network needed

\b
A CONFIG.yaml:
  model: checkpoints/signs           # or torchvision:resnet18, module:make
  data: {name: gtsrb12, root: data}  # or name: FILE.npz, or a folder
  rules: rules.yaml
  method: bincp
  alpha: 0.1
  radius: 0.25

\b
Methods:
  vanilla  no attacker (radius 0)
  rcp1     one noisy draw for each image; the cheapest
  bincp    many noisy draws; the smallest sets under attack
  cas      many noisy draws; bounds from the distribution of the score
  rscp_plus  many noisy draws; bounds from the mean score
  rscp     as rscp_plus, but proved for infinitely many draws only
  colep    rules over votes or boxes of the predicates
  vrcp_i   bounds of each test image, no noise; L2 or L-infinity
  vrcp_c   bounds of the calibration images, one plain pass at test
  levy_prokhorov  scores that shift: --radius for all, --rho of them anywhere

\b
DIR gets certificate.json, report.html and sets.npz. Next:
  neurosym verify DIR/certificate.json
"""

_CONFIG_FORMS = "CONFIG.yaml or --demo"
_EVIDENCE_FORM = "--evidence"
_FORMS = "give one of --demo, CONFIG.yaml or --evidence cal.npz"
_EVIDENCE, _RULES = "an .npz evidence file", "a rules file (YAML)"


def certify(
    config: options.ConfigFile = None,
    out: options.RequiredOut = None,
    demo: options.Demo = False,
    evidence: options.Evidence = None,
    test: options.TestEvidence = None,
    rules: options.Rules = None,
    method: options.Method = None,
    score: options.Score = None,
    radius: options.Radius = None,
    norm: options.Norm = None,
    rho: options.Rho = None,
    alpha: options.Alpha = None,
    sigma: options.Sigma = None,
    trials: options.Trials = None,
    circuit: options.Circuit = None,
    bound: options.Bound = None,
    tune: options.Tune = None,
    seed: options.Seed = None,
    workers: options.Workers = None,
    device: options.Device = None,
    resume: options.Resume = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Certify prediction sets that hold under attack.

    Three forms: the bundled demonstration (--demo), a configuration (CONFIG.yaml), or evidence files (--evidence)."""
    typed = {"method": method, "score": score, "radius": radius, "alpha": alpha, "seed": seed}
    typed |= {"circuit": circuit, "bound": bound, "norm": norm, "rho": rho}
    typed = _checked(typed)
    run = {"sigma": sigma, "trials": trials, "workers": workers, "device": device}
    files = {"--test": test, "--rules": rules, "--tune": tune}
    _one_form(demo, config, evidence)
    if out is None:
        raise InputError("--out is missing; name the folder for the results, for instance --out out/run")
    checks.writable_folder(out)
    if evidence is not None:
        if _checked({"device": device}).get("device") == "cuda":
            raise InputError("--device cuda: evidence files are worked on the CPU; leave it out")
        checks.only_with(_CONFIG_FORMS, {f"--{name}": run[name] for name in ("sigma", "trials", "workers")})
        outcome = _from_files(evidence, test, rules, tune, typed, out, quiet)
    else:
        checks.only_with(_EVIDENCE_FORM, files)
        outcome = _from_config(config, typed | _checked(run), out, resume, quiet)
    _show(outcome, as_json, quiet)


def _one_form(demo: bool, config: Path | None, evidence: Path | None) -> None:
    given = {"--demo": demo, str(config): config is not None, "--evidence": evidence is not None}
    names = [name for name, there in given.items() if there]
    if not names:
        raise InputError(f"nothing to certify; {_FORMS}")
    if len(names) > 1:
        raise InputError(f"{' and '.join(names)} exclude each other; {_FORMS}")


def _checked(typed: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed, each checked; numbers as exact decimal text."""
    known = {
        "method": options.METHODS,
        "score": options.SCORES,
        "circuit": options.CIRCUITS,
        "bound": options.BOUNDS,
        "norm": options.NORMS,
        "device": options.DEVICES,
    }
    least = {"trials": 1, "workers": 1, "seed": 0}
    found: dict[str, Any] = {}
    for name, value in typed.items():
        if value is None:
            continue
        option = f"--{name}"
        if name in known:
            found[name] = checks.choice(option, value, known[name])
        elif name in least:
            found[name] = checks.whole(option, value, least[name])
        elif name == "alpha":
            found[name] = checks.level(option, value)
        else:
            found[name] = checks.size(option, value)
    return found


def _from_config(path: Path | None, typed: dict[str, Any], out: Path, resume: bool, quiet: bool) -> Outcome:
    if path is not None:
        checks.existing_file(path, "give a YAML configuration; see neurosym certify --help")
    from neurosym.certify.config import config_from_mapping, load_config

    with working(quiet):
        from neurosym.certify import pipeline
        from neurosym.certify.noise import pick_device

        config = pipeline.demo_config() if path is None else load_config(path)
        checks.level(f"{path or '--demo'}: field alpha", config.alpha)
        for name in ("radius", "sigma"):
            checks.size(f"{path or '--demo'}: field {name}", getattr(config, name))
        config = config_from_mapping(config.model_dump() | typed, "command line")
        pick_device(config.device)  # refused now rather than after the first files are written
        return pipeline.certify_config(config, out, resume=resume, progress=show_progress(quiet))


def _from_files(
    calibration: Path,
    test: Path | None,
    rules: Path | None,
    tune: str | None,
    typed: dict[str, Any],
    out: Path,
    quiet: bool,
) -> Outcome:
    for name in ("method", "radius"):
        if name not in typed:
            raise InputError(f"--{name} is missing; evidence files need --method and --radius")
    for path, what in ((calibration, _EVIDENCE), (test, _EVIDENCE), (rules, _RULES)):
        if path is not None:
            checks.existing_file(path, f"give {what}")
    settings = dict(typed)
    if tune is not None:
        settings["tune"] = checks.share("--tune", tune)
    with working(quiet):
        from neurosym.certify import pipeline

        return pipeline.certify_files(calibration, test, rules, pipeline.FileOptions(**settings), out)


def _show(outcome: Outcome, as_json: bool, quiet: bool) -> None:
    summary = outcome.summary
    if as_json:
        emit_json({**summary, "files": outcome.files})
    elif not quiet:
        emit_table(_rows(summary))
        emit_files(outcome.files)
    if summary.get("trivial") and not quiet:
        note(
            f"every set holds every label: {summary.get('advice') or 'use more data, a smaller radius or larger alpha'}"
        )
    elif summary.get("advice") and not quiet:
        note(summary["advice"])


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The table: what is promised, and what was measured."""
    get = summary.get
    draws = "1 draw" if get("trials") == 1 else f"{get('trials')} draws"
    noise = f"; noise {get('sigma')}, {draws} an image" if _noisy(summary) else ""
    scale = get("scale")
    rules = str(get("circuit"))
    if rules != "none" and scale is not None:
        rules += f", weights x {float(scale):g}"
    split = f"{get('n_tune')} tuning, {get('n_calibration')} calibration, {get('n_test')} test"
    rows = [
        ("method", f"{get('method')}{noise}"),
        ("guarantee", f"{_promise(summary)}"),
        ("points", split),
        ("rules", rules),
    ]
    if get("coverage") is not None:
        interval = f"95 % interval {percent(get('coverage_lower'))} to {percent(get('coverage_upper'))}"
        rows.append(("coverage, clean", f"{percent(get('coverage'))}   {interval}"))
    if get("attacked_coverage") is not None:
        rows.append(
            ("coverage, attacked", f"{percent(get('attacked_coverage'))}   {get('attacked_images')} images attacked")
        )
    if get("mean_size") is not None:
        base = get("model_only_mean_size")
        rows.append(
            (
                "labels in a set",
                number(get("mean_size")) + (f"   {number(base)} without rules" if base and rules != "none" else ""),
            )
        )
    if get("certified_coverage") is not None:
        rows.append(("certified coverage", f"{percent(get('certified_coverage'))}   of the sets before enlarging"))
    if get("seconds") is not None:
        rows.append(("seconds", number(get("seconds"), 1)))
    return rows


def _promise(summary: dict[str, Any]) -> str:
    from neurosym.certify import exact

    share = exact.to_text(100 * (1 - exact.from_text(str(summary["alpha"]), "alpha")))
    radius = exact.decimal(str(summary["radius"]), "radius")
    distance = {"linf": "L-infinity"}.get(str(summary.get("norm")), "L2")
    attacks = "no attacker" if radius == 0 else f"attacks up to {distance} {summary['radius']}"
    if summary.get("norm") == "score":
        attacks = f"scores moved by up to {summary['radius']}"
    elif radius != 0 and not _noisy(summary):
        attacks = f"boxes of {distance} radius {summary['radius']}"
    limit = "; asymptotic, not proved for these draws" if summary.get("method") == "rscp" else ""
    return f"{share} % of sets hold the true label, {attacks}{limit}"


def _noisy(summary: dict[str, Any]) -> bool:
    return summary.get("sigma") not in (None, "0", 0)
