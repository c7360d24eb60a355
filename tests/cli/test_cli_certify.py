"""``neurosym certify``: forms, overrides, table, JSON, and every refusal before work starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("model: checkpoints/signs\ndata: {name: demo}\nalpha: 0.2\nradius: 0.5\nmethod: bincp\n")
    return path


@pytest.fixture
def evidence(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("cal.npz", "test.npz", "rules.yaml")]
    for path in paths:
        path.write_text("x")
    return paths


def test_demo(run: Any, pipeline: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "o"
    ran = run("certify", "--demo", "--out", out)
    assert ran.code == 0
    assert ran.err == "a library talks\n"
    ((name, (settings, place), named),) = pipeline.calls
    assert (name, place, named) == ("certify_config", out, {"resume": False, "progress": False})
    assert settings.trials == 128
    for text in ("90 % of sets hold the true label", "93.5 %", "90.0 % to 96.0 %", "1.25", "1.50 without rules",
                 "81.0 %", "91.7 %", "24 images", "exclusive, weights x 0.5", "100 tuning", "12.3",
                 "certificate.json"):  # fmt: skip
        assert text in ran.out, text
    assert max(len(line) for line in ran.out.splitlines() if str(out) not in line) <= 80
    assert not out.exists()  # making it is the pipeline's business


def test_paths_are_never_folded_and_cells_never_cut(run: Any, pipeline: Any) -> None:
    out = Path("a" * 60) / ("b" * 60)
    pipeline.summary["method"] = "m" * 100
    ran = run("certify", "--demo", "--out", out)
    assert ran.code == 0
    *table, last = ran.out.splitlines()
    assert last == f"wrote {out / 'certificate.json'}"
    assert max(len(line) for line in table) <= 80
    assert sum(line.count("m" * 5) > 0 and line.count("m") for line in table[:2]) >= 100


def test_flags_go_before_the_file(run: Any, pipeline: Any, config: Path, tmp_path: Path) -> None:
    ran = run("certify", config, "--out", tmp_path / "o", "--alpha", "0.050", "--sigma", ".5", "--method", "rcp1",
              "--circuit", "none", "--bound", "decoupled", "--score", "aps", "--trials", "64", "--seed", "3",
              "--workers", "2", "--device", "cpu", "--resume")  # fmt: skip
    assert ran.code == 0, ran.err
    ((_, (settings, _), named),) = pipeline.calls
    assert named["resume"] is True
    found = settings.model_dump()
    wanted = {"alpha": "0.05", "radius": "0.5", "sigma": "0.5", "method": "rcp1", "circuit": "none", "score": "aps",
              "bound": "decoupled", "trials": 64, "seed": 3, "workers": 2, "device": "cpu",
              "model": "checkpoints/signs"}  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted


def test_without_flags_the_file_stands(run: Any, pipeline: Any, config: Path, tmp_path: Path) -> None:
    assert run("certify", config, "--out", tmp_path / "o", "--radius", "0.10").code == 0
    settings = pipeline.calls[0][1][0]
    assert (settings.alpha, settings.radius, settings.method, settings.trials) == ("0.2", "0.1", "bincp", 256)


def test_evidence(run: Any, pipeline: Any, evidence: list[Path], tmp_path: Path) -> None:
    cal, test, rules = evidence
    ran = run("certify", "--evidence", cal, "--test", test, "--rules", rules, "--method", "colep", "--score", "lac",
              "--radius", "0.25", "--alpha", "0.1", "--seed", "7", "--tune", "0.3", "--out", tmp_path / "o",
              "--device", "cpu")  # fmt: skip
    assert ran.code == 0, ran.err
    ((name, (a, b, c, settings, out), _),) = pipeline.calls
    assert (name, a, b, c, out) == ("certify_files", cal, test, rules, tmp_path / "o")
    assert (settings.method, settings.score, settings.circuit, settings.bound) == ("colep", "lac", "auto", "exact")
    assert (settings.alpha, settings.radius, settings.seed, settings.tune) == ("0.1", "0.25", 7, 0.3)


def test_evidence_defaults(run: Any, pipeline: Any, evidence: list[Path], tmp_path: Path) -> None:
    ran = run("certify", "--evidence", evidence[0], "--method", "vanilla", "--radius", "0", "--out", tmp_path / "o")
    assert ran.code == 0
    _, (_, test, rules, settings, _), _ = pipeline.calls[0]
    assert (test, rules, settings.alpha, settings.radius, settings.seed) == (None, None, "0.1", "0", 0)


def test_json_is_the_only_thing_on_stdout(run: Any, pipeline: Any, tmp_path: Path) -> None:
    ran = run("certify", "--demo", "--out", tmp_path / "o", "--json")
    assert ran.code == 0
    content = json.loads(ran.out)
    files = content.pop("files")
    assert content == pipeline.summary
    assert files == {"certificate": str(tmp_path / "o" / "certificate.json")}


def test_quiet(run: Any, pipeline: Any, tmp_path: Path) -> None:
    pipeline.summary |= {"advice": "more", "trivial": True}
    ran = run("certify", "--demo", "--out", tmp_path / "o", "--quiet")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "a library talks\n"


def test_trivial_sets_are_said_out_loud(run: Any, pipeline: Any, tmp_path: Path) -> None:
    pipeline.summary |= {"trivial": True, "advice": "use at least 300 images", "coverage": None,
                         "attacked_coverage": None, "certified_coverage": None, "mean_size": 12.0,
                         "model_only_mean_size": None, "circuit": "none", "sigma": "0"}  # fmt: skip
    ran = run("certify", "--demo", "--out", tmp_path / "o")
    assert ran.code == 0
    assert "every set holds every label: use at least 300 images" in ran.err
    assert "None" not in ran.out
    assert "noise" not in ran.out


def test_a_warning_is_one_line(run: Any, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    from neurosym.certify import pipeline as module

    monkeypatch.setattr(module, "demo_config", lambda: warnings.warn("level\npublished", stacklevel=2) or 1 / 0)
    ran = run("certify", "--demo", "--out", tmp_path / "o")
    assert ran.err.splitlines()[0] == "neurosym: warning: level published"
    assert "warning" not in run("certify", "--demo", "--out", tmp_path / "o", "--quiet").err


DEMO = ("certify", "--demo", "--out", "OUT")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("certify", "--out", "OUT"), ("nothing to certify", "--demo", "--evidence")),
        (("certify", "--demo", "CONFIG", "--out", "OUT"), ("--demo", "config.yaml", "exclude")),
        (("certify", "--demo", "--evidence", "CAL", "--out", "OUT"), ("--demo", "--evidence", "exclude")),
        (("certify", "CONFIG", "--evidence", "CAL", "--out", "OUT"), ("config.yaml", "--evidence")),
        (("certify", "--demo"), ("--out is missing",)),
        (("certify", "no.yaml", "--out", "OUT"), ("no.yaml: no such file", "configuration")),
        (("certify", "FOLDER", "--out", "OUT"), ("is a folder",)),
        ((*DEMO, "--method", "bimcp"), ("--method", "did you mean 'bincp'?")),
        ((*DEMO, "--method", "zzz"), ("--method: 'zzz' is unknown; choose one of vanilla, rcp1, bincp",)),
        ((*DEMO, "--score", "apx"), ("--score", "aps")),
        ((*DEMO, "--circuit", "rule"), ("--circuit", "rules")),
        ((*DEMO, "--bound", "x"), ("--bound", "exact, decoupled")),
        ((*DEMO, "--device", "gpu"), ("--device", "cuda")),
        ((*DEMO, "--alpha", "0"), ("--alpha: 0 is not between 0 and 1",)),
        ((*DEMO, "--alpha", "1"), ("--alpha",)),
        ((*DEMO, "--alpha", "1.5"), ("--alpha: 1.5 is not between 0 and 1",)),
        ((*DEMO, "--alpha", "-0.1"), ("--alpha",)),
        ((*DEMO, "--alpha", "abc"), ("--alpha", "'abc' is not a number")),
        ((*DEMO, "--alpha", "nan"), ("--alpha",)),
        ((*DEMO, "--radius", "-1"), ("--radius: -1 is negative",)),
        ((*DEMO, "--radius", "inf"), ("--radius",)),
        ((*DEMO, "--sigma", "-.5"), ("--sigma",)),
        ((*DEMO, "--trials", "0"), ("--trials: 0 is too small",)),
        ((*DEMO, "--workers", "0"), ("--workers",)),
        ((*DEMO, "--seed", "-1"), ("--seed",)),
        ((*DEMO, "--test", "CAL"), ("--test: has an effect only with --evidence",)),
        ((*DEMO, "--rules", "CAL"), ("--rules", "--evidence")),
        (("certify", "--evidence", "CAL", "--out", "OUT", "--radius", "0"), ("--method is missing",)),
        (("certify", "--evidence", "CAL", "--out", "OUT", "--method", "colep"), ("--radius is missing",)),
        (("certify", "--evidence", "no.npz", "--out", "OUT", "--method", "colep", "--radius", "0"), ("no.npz",)),
        (("certify", "--evidence", "CAL", "--test", "no.npz", "--out", "OUT", "--method", "colep", "--radius", "0"),
         ("no.npz: no such file",)),
        (("certify", "--evidence", "CAL", "--rules", "no.yaml", "--out", "OUT", "--method", "colep", "--radius", "0"),
         ("no.yaml: no such file", "rules file")),
        (("certify", "--evidence", "CAL", "--sigma", "1", "--out", "OUT", "--method", "colep", "--radius", "0"),
         ("--sigma: has an effect only with CONFIG.yaml or --demo",)),
        (("certify", "--evidence", "CAL", "--tune", "1", "--out", "OUT", "--method", "colep", "--radius", "0"),
         ("--tune: 1 is not a share",)),
        (("certify", "--evidence", "CAL", "--device", "cuda", "--out", "OUT", "--method", "colep", "--radius", "0"),
         ("--device cuda",)),
    ],
)  # fmt: skip
def test_refused_before_any_work(
    run: Any,
    refused: Any,
    pipeline: Any,
    config: Path,
    evidence: list[Path],
    tmp_path: Path,
    words: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    out = tmp_path / "out"
    places = {"OUT": out, "CONFIG": config, "CAL": evidence[0], "FOLDER": tmp_path}
    ran = run(*(places.get(word, word) for word in words))
    refused(ran, *parts, folder=out)
    assert not pipeline.calls
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("modle: x\n", ("config.yaml: field", "modle")),
        ("model: m\ndata: {name: demo}\nradious: 1\n", ("config.yaml: field radious",)),
        ("model: m\ndata: {name: demo, roots: 1}\n", ("field data.roots",)),
        ("model: m\ndata: {name: demo}\nmethod: bimcp\n", ("field method",)),
        ("model: m\ndata: {name: demo}\nalpha: 0\n", ("field alpha",)),
        ("model: m\ndata: {name: demo}\nalpha: 1.5\n", ("field alpha",)),
        ("model: m\ndata: {name: demo}\nalpha: abc\n", ("field alpha",)),
        ("model: m\ndata: {name: demo}\nradius: -1\n", ("field radius",)),
        ("- a\n- b\n", ("config.yaml",)),
        ("a: [\n", ("config.yaml", "YAML")),
        ("", ("config.yaml",)),
    ],
)
def test_bad_configuration(
    run: Any, refused: Any, pipeline: Any, tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    refused(run("certify", path, "--out", tmp_path / "o"), *parts, folder=tmp_path / "o")
    assert not pipeline.calls


@pytest.mark.parametrize("tail", ["", "sub", "sub/deeper"])
def test_unwritable_out(run: Any, refused: Any, pipeline: Any, tmp_path: Path, tail: str) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    refused(run("certify", "--demo", "--out", blocker / tail), "--out", str(blocker), "give another place")
    assert blocker.read_text() == "kept"
    assert not pipeline.calls


def test_out_behind_a_dangling_link(run: Any, refused: Any, pipeline: Any, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    refused(run("certify", "--demo", "--out", link / "o"), "--out")


def test_write_protected_out(
    run: Any, refused: Any, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def fail(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)  # tests may run as root, whom no permission stops
    refused(run("certify", "--demo", "--out", tmp_path / "o"), "--out", "Permission denied")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"radius": "0", "sigma": "0", "trials": 0}, "90 % of sets hold the true label, no attacker"),
        ({"sigma": "0", "trials": 0}, "boxes of L2 radius 0.25"),
        ({"alpha": "0.005"}, "99.5 % of sets hold the true label, attacks up to L2 0.25"),
        ({"trials": 1}, "noise 0.25, 1 draw an image"),
    ],
)
def test_the_promise(run: Any, pipeline: Any, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    pipeline.summary |= changes
    assert text in run("certify", "--demo", "--out", tmp_path / "o").out


def test_a_missing_device_is_refused_first(
    run: Any, refused: Any, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(run("certify", "--demo", "--out", tmp_path / "o", "--device", "cuda"), "cuda", folder=tmp_path / "o")
    assert not pipeline.calls
