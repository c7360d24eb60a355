"""The configuration that ``neurosym certify CONFIG.yaml`` reads, checked field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from neurosym.certify import exact
from neurosym.certify.methods import CHOICES, ONE_DRAW
from neurosym.errors import InputError, field_message

Circuit = Literal["auto", "none", "rules", "exclusive"]


def _number_text(value: Any) -> str:
    """Numbers stay decimal text: 0.1 means one tenth, all the way to the certificate."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("write a decimal number such as 0.1")
    try:
        return exact.to_text(exact.decimal(value))
    except InputError as error:
        raise ValueError(str(error)) from None


Decimal = Annotated[str, BeforeValidator(_number_text)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(_Section):
    """Where the images come from."""

    name: str = Field(description="gtsrb12, gtsrb43, cifar10, demo, a folder of class folders, or an .npz file")
    root: str | None = Field(default=None, description="folder of the data set; $NEUROSYM_DATA when left out")
    split: Literal["train", "test"] = "test"
    size: int | None = Field(default=None, ge=4, description="side to which the images of a folder are resized")
    limit: int | None = Field(default=None, ge=10, description="use this many randomly chosen images")


def _data_name(value: Any) -> Any:
    """``data: NAME`` is short for ``data: {name: NAME}``."""
    return {"name": value} if isinstance(value, str) else value


class SplitSection(_Section):
    """Shares of the images: tuning, calibration, and the rest for evaluation."""

    tune: float = Field(default=0.2, ge=0, lt=1)
    calibrate: float = Field(default=0.4, gt=0, lt=1)

    @model_validator(mode="after")
    def _room(self) -> SplitSection:
        if self.tune + self.calibrate >= 1:
            raise ValueError("tune + calibrate leave nothing to evaluate on; make them sum to less than 1")
        return self


class AttackSection(_Section):
    """Measure coverage under an adaptive attack, beside the certified one."""

    images: int = Field(default=0, ge=0, description="evaluation images to attack; 0 for none")
    steps: int = Field(default=20, ge=1)
    draws: int = Field(default=16, ge=1, description="noise draws for each gradient")


class CertifyConfig(_Section):
    """Model, data, rules, threat and method of one certification."""

    model: str = Field(description="checkpoint folder, torchvision:NAME, timm:NAME, program.pt2 or module:function")
    weights: str | None = Field(default=None, description="state dict for a network given by name")
    mean: list[float] | None = Field(default=None, description="channel means the network expects")
    std: list[float] | None = Field(default=None, description="channel deviations the network expects")
    data: Annotated[DataSection, BeforeValidator(_data_name)]
    rules: str | None = Field(default=None, description="rules file; without one the predicates are the classes")
    class_kind: Literal["categorical", "binary"] = "categorical"
    method: str = "bincp"
    score: Literal["lac", "aps", "raps", "saps"] = "lac"
    circuit: Circuit = "auto"
    bound: Literal["exact", "decoupled"] = "exact"
    alpha: Decimal = "0.1"
    radius: Decimal = "0.25"
    norm: Literal["l2", "linf"] = Field(default="l2", description="distance of the radius; linf for vrcp_i and vrcp_c")
    rho: Decimal = Field(default="0", description="levy_prokhorov: share of the scores that may move anywhere")
    propagation: Literal["ibp", "crown_ibp", "crown"] = Field(
        default="crown", description="how vrcp_i and vrcp_c bound the network: from fast and loose to slow and tight"
    )
    sigma: Decimal = "0.25"
    trials: int = Field(default=256, ge=1, description="noise draws for each image")
    seed: int = Field(default=0, ge=0, lt=2**63)
    splits: SplitSection = SplitSection()
    attack: AttackSection = AttackSection()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(default=1, ge=1, description="processes that draw noise on the CPU")

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CHOICES:
            raise ValueError(f"{value!r} is no method; choose one of {', '.join(CHOICES)}")
        return value

    @field_validator("alpha")
    @classmethod
    def _level(cls, value: str) -> str:
        if not 0 < exact.from_text(value) < 1:
            raise ValueError(f"{value} is not between 0 and 1; write e.g. 0.1 for 90 % coverage")
        return value

    @field_validator("radius")
    @classmethod
    def _not_negative(cls, value: str) -> str:
        if exact.from_text(value) < 0:
            raise ValueError(f"{value} is negative; write a number >= 0")
        return value

    @field_validator("sigma")
    @classmethod
    def _positive(cls, value: str) -> str:
        if exact.from_text(value) <= 0:
            raise ValueError(f"{value} is no noise; write a number above 0, that of the training as a rule")
        return value

    @property
    def draws(self) -> int:
        """Noise draws for each image that the method looks at."""
        return 1 if self.method in ONE_DRAW else self.trials


def config_from_mapping(content: Any, where: str) -> CertifyConfig:
    """Check a configuration.

    Raises:
        InputError: naming ``where`` and the field.
    """
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected fields such as model, data, rules and radius")
    try:
        return CertifyConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {field_message(error.errors()[0], CertifyConfig.model_fields)}") from None


def load_config(path: str | Path) -> CertifyConfig:
    """Read a certification configuration; relative paths in it are relative to its folder.

    Raises:
        InputError: missing file, not YAML, unknown or bad field.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML configuration") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not text, or an impossible date
        raise InputError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
    config = config_from_mapping(content, str(path))
    return config.model_copy(update=_anchored(config, path.parent))


def _anchored(config: CertifyConfig, folder: Path) -> dict[str, Any]:
    """Paths made relative to the configuration's folder where such a file exists there."""

    def anchor(text: str | None) -> str | None:
        if text is None or Path(text).is_absolute():
            return text
        return str(folder / text) if (folder / text).exists() else text

    data = config.data.model_copy(update={"name": anchor(config.data.name), "root": anchor(config.data.root)})
    return {
        "model": anchor(config.model),
        "weights": anchor(config.weights),
        "rules": anchor(config.rules),
        "data": data,
    }
