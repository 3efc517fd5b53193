"""What a model manifest says: a TOML file in, a validated `Manifest` of models and model sets out."""

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, TypeVar, get_args

from ocr_onnx.errors import ModelContractError, ModelError, ModelMissingError

Stage: TypeAlias = Literal["det", "rec", "cls"]
SourceLayout: TypeAlias = Literal["pir", "legacy", "tar"]
GateText: TypeAlias = Literal["drawn", "real"]
Shape: TypeAlias = tuple[int, ...]

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")  # no separator, no leading dot: stays in its folder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InputContract:
    """What a model's one input takes.

    `layout` names the axes in order ("NCHW"), `color` the channels ("BGR"). The three shapes bound
    every axis, and tell the usual size.
    """

    name: str
    layout: str
    color: str
    min_shape: Shape
    opt_shape: Shape
    max_shape: Shape


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a Paddle model. `sha256` and `size_bytes` are None where nobody published them."""

    name: str
    sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A Paddle model to convert from: `files` lie under `base_url`, None if they are not published.

    `layout` is "pir" (inference.json), "legacy" (inference.pdmodel) or "tar" (either, packed).
    """

    layout: SourceLayout
    base_url: str | None
    files: tuple[SourceFile, ...]


@dataclass(frozen=True, slots=True)
class GateResult:
    """How far a file of lower precision agreed with its float32 original when it was made.

    `text` is what it was tried on: "drawn" by the export itself, or "real" pictures of its user's.
    `measure` is what was compared ("mask IoU", "equal lines"), `mean` and `worst` are over `samples`,
    from 0 to 1.
    """

    text: GateText
    measure: str
    samples: int
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, one file.

    `official` is the publisher's name, `sha256` pins the bytes of `file` wherever they come from
    (None: the file has yet to be made by `ocr-onnx export`), `classes` counts the outputs of rec
    (blank and space included) and cls, `urls` are ready ONNX files with that SHA-256 and
    `sources` what the export stage converts. `gates` are there for precisions below fp32. None means
    not known.
    """

    name: str
    stage: Stage
    file: str
    official: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    license: str = ""
    origin: str = ""
    precision: str = ""
    opset: int | None = None
    classes: int | None = None
    urls: tuple[str, ...] = ()
    sources: tuple[ModelSource, ...] = ()
    input: InputContract | None = None
    gates: tuple[GateResult, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The names of the models that work together, one per stage."""

    name: str
    det: str
    rec: str
    cls: str


class SetModels(NamedTuple):
    """The specs of a model set."""

    det: ModelSpec
    rec: ModelSpec
    cls: ModelSpec


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every model and every model set that a manifest file describes."""

    models: tuple[ModelSpec, ...] = ()
    sets: tuple[ModelSet, ...] = ()

    def find(self, name: str) -> ModelSpec | None:
        """Return the model called `name`, by our name or the publisher's, or None."""
        return next((model for model in self.models if name in (model.name, model.official)), None)

    def model(self, name: str) -> ModelSpec:
        """Return the model called `name`; raises ModelMissingError with the nearest and every name."""
        found = self.find(name)
        if found is None:
            raise _unknown("model", name, [model.name for model in self.models])
        return found

    def set_models(self, name: str) -> SetModels:
        """Return the models of the set called `name`.

        Raises ModelMissingError for an unknown set or model, ModelContractError where a model
        stands in another stage's place.
        """
        found = next((model_set for model_set in self.sets if model_set.name == name), None)
        if found is None:
            raise _unknown("model set", name, [model_set.name for model_set in self.sets])
        specs = SetModels(self.model(found.det), self.model(found.rec), self.model(found.cls))
        for stage, spec in zip(STAGES, specs, strict=True):
            if spec.stage != stage:
                problem = f"names {spec.name} as its {stage} model, which is a {spec.stage} model"
                raise ModelContractError(f"model set {name}", problem, "correct the manifest")
        return specs

    def overlaid(self, other: Self) -> "Manifest":
        """Return this manifest with the entries of `other` added; where both have a name, `other` wins."""
        models = {entry.name: entry for entry in (*self.models, *other.models)}
        sets = {entry.name: entry for entry in (*self.sets, *other.sets)}
        return Manifest(tuple(models.values()), tuple(sets.values()))


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file; raises ModelError naming the file, the place and the remedy."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise _invalid(str(path), f"is larger than {MAX_MANIFEST_BYTES} bytes")
        document = tomllib.loads(raw.decode())
    except OSError as cause:
        raise _invalid(str(path), f"can't be read ({cause.strerror})") from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise _invalid(str(path), f"is not valid TOML ({cause})") from cause
    root = _Table(document, str(path))
    models = tuple(_model(table) for table in root.tables("model"))
    sets = tuple(_model_set(table) for table in root.tables("set"))
    root.end()
    for kind, names in (("model", [m.name for m in models]), ("set", [s.name for s in sets])):
        if twice := {name for name in names if names.count(name) > 1}:
            raise _invalid(str(path), f"describes the {kind} {min(twice)} twice")
    return Manifest(models, sets)


def _model(table: "_Table") -> ModelSpec:
    contract = table.table("input")
    spec = ModelSpec(
        name=table.need("name", str),
        official=table.take("official", str),
        stage=table.choice("stage", STAGES),
        file=table.plain_name("file"),
        sha256=table.sha256(),
        size_bytes=table.count("size_bytes"),
        license=table.need("license", str),
        origin=table.need("origin", str),
        precision=table.need("precision", str),
        opset=table.count("opset"),
        classes=table.count("classes"),
        urls=table.items("urls", str),
        sources=tuple(_source(source) for source in table.tables("source")),
        input=_contract(contract) if contract else None,
        gates=tuple(_gate(gate) for gate in table.tables("gate")),
    )
    table.end()
    for url in spec.urls:
        table.check_url("urls", url)
    if spec.urls and spec.sha256 is None:
        raise table.invalid("has urls but no sha256 to check their files with")
    return spec


def _contract(table: "_Table") -> InputContract:
    shapes = [table.items(f"{bound}_shape", int) for bound in ("min", "opt", "max")]
    contract = InputContract(
        table.need("name", str), table.need("layout", str), table.need("color", str), *shapes
    )
    table.end()
    axes = len(contract.layout)
    if any(len(shape) != axes for shape in shapes) or any(
        not 1 <= low <= opt <= high for low, opt, high in zip(*shapes, strict=True)
    ):
        raise table.invalid(f"needs three shapes of {axes} axes, min <= opt <= max, from 1 up")
    return contract


def _gate(table: "_Table") -> GateResult:
    text = table.choice("text", get_args(GateText))
    measure, samples = table.need("measure", str), table.count("samples")
    mean, worst = table.need("mean", float), table.need("worst", float)
    table.end()
    if samples is None or not 0 <= worst <= mean <= 1:
        raise table.invalid("needs samples, and a worst and a mean agreement, 0 <= worst <= mean <= 1")
    return GateResult(text, measure, samples, mean, worst)


def _source(table: "_Table") -> ModelSource:
    layout = table.choice("layout", get_args(SourceLayout))
    base_url = table.take("base_url", str)
    files = []
    for entry in table.tables("files"):
        files.append(SourceFile(entry.plain_name("name"), entry.sha256(), entry.count("size_bytes")))
        entry.end()
    table.end()
    if base_url is not None:
        table.check_url("base_url", base_url)
    if not files:
        raise table.invalid("names no files")
    return ModelSource(layout, base_url, tuple(files))


def _model_set(table: "_Table") -> ModelSet:
    model_set = ModelSet(*(table.need(key, str) for key in ("name", "det", "rec", "cls")))
    table.end()
    return model_set


class _Table:
    """A TOML table that is emptied key by key, each with its type, and complains with file and place."""

    def __init__(self, values: dict[str, Any], place: str) -> None:
        self._values = dict(values)
        self._place = f"{place}, {values['name']}" if isinstance(values.get("name"), str) else place

    def invalid(self, problem: str) -> ModelError:
        return _invalid(self._place, problem)

    def take(self, key: str, kind: type[T]) -> T | None:
        value = self._values.pop(key, None)
        if value is None or type(value) is kind:  # type(), because True is an int to isinstance
            return value
        raise self.invalid(f"{key} must be of type {kind.__name__}, not {type(value).__name__}")

    def need(self, key: str, kind: type[T]) -> T:
        value = self.take(key, kind)
        if value is None or value == "":
            raise self.invalid(f"has no {key}")
        return value

    def items(self, key: str, kind: type[T]) -> tuple[T, ...]:
        values: list[Any] = self.take(key, list) or []
        if any(type(value) is not kind for value in values):
            raise self.invalid(f"{key} must be a list of {kind.__name__}")
        return tuple(values)

    def count(self, key: str) -> int | None:
        value = self.take(key, int)
        if value is not None and value < 1:
            raise self.invalid(f"{key} must be at least 1")
        return value

    def choice(self, key: str, choices: tuple[T, ...]) -> T:
        value = self.need(key, str)
        for choice in choices:
            if choice == value:
                return choice
        raise self.invalid(f"{key} must be one of {', '.join(map(str, choices))}, not {value!r}")

    def plain_name(self, key: str) -> str:
        name = self.need(key, str)
        if not _PLAIN_NAME.fullmatch(name):
            raise self.invalid(f"{key} must be a plain file name, not {name!r}")
        return name

    def sha256(self) -> str | None:
        digest = self.take("sha256", str)
        if digest is not None and not _SHA256.fullmatch(digest):
            raise self.invalid("sha256 must be 64 hexadecimal digits in lower case")
        return digest

    def check_url(self, key: str, url: str) -> None:
        if not url.startswith(("https://", "http://")):
            raise self.invalid(f"{key} must hold http(s) addresses, not {url!r}")

    def table(self, key: str) -> "_Table | None":
        values = self.take(key, dict)
        return None if values is None else _Table(values, f"{self._place}, {key}")

    def tables(self, key: str) -> list["_Table"]:
        return [_Table(values, f"{self._place}, {key}") for values in self.items(key, dict)]

    def end(self) -> None:
        if self._values:
            raise self.invalid(f"has unknown keys: {', '.join(sorted(self._values))}")


def _invalid(place: str, problem: str) -> ModelError:
    return ModelError(place, problem, "correct it, or write it anew with `ocr-onnx export`")


def _unknown(kind: str, name: str, known: list[str]) -> ModelMissingError:
    near = difflib.get_close_matches(name, known, n=1)
    question = f"did you mean {near[0]}? " if near else ""
    remedy = f"{question}there are: {', '.join(known) or 'none'}"
    return ModelMissingError(f"{kind} {name!r}", "is in no manifest", remedy)
