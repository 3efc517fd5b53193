"""YAML file, assignments and command-line flags in; one validated `Config` out, and back to YAML."""

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_origin, get_type_hints

from ocr_onnx.errors import OptionError
from ocr_onnx.options import (
    ClsOptions,
    CropOptions,
    DetOptions,
    InputOptions,
    ModelOptions,
    Options,
    RecOptions,
    RuntimeOptions,
)
from ocr_onnx.validation import check_fields, described

MAX_FILE_BYTES = 1024 * 1024

DESCRIPTIONS: Mapping[str, str] = {
    "models.name": "model set of the manifest: mobile, server, svtrv2, repsvtr",
    "models.det": "own detection model (ONNX file) instead of the set's",
    "models.rec": "own recognition model (ONNX file) instead of the set's",
    "models.cls": "own 0/180 text-line classifier (ONNX file) instead of the set's",
    "models.dictionary": "one character per line, for an own rec model without a dictionary inside",
    "models.folder": "folder that is searched for models before the cache",
    "models.offline": "never download anything",
    "runtime.device": "cpu, cuda[:i], tensorrt[:i], openvino or auto",
    "runtime.threads": "threads of one network run; 0 for all this process may use",
    "runtime.precision": "fp32; bf16 on openvino where the processor has it; fp16 on GPUs, with FP16 files",
    "runtime.allow_fallback": "go on with a slower device where the one asked for can't be used, and say so",
    "runtime.gpu_memory_mib": "bound on the memory of a GPU that each network may take, in MiB; 0 for none",
    "runtime.tf32": "let a GPU multiply in TF32; false for full FP32",
    "input.max_bytes": "bound on a file, a body or a download, in bytes",
    "input.max_pixels": "bound on width x height of a picture, checked before its pixels are decoded",
    "input.max_pages": "bound on the pages of one PDF or the frames of one file",
    "input.max_pdf_objects": "bound on the objects (texts, paths, pictures) of one PDF page",
    "input.pages": 'pages to read, counted from one: "1-3,7,10-"; empty for all',
    "input.dpi": "resolution PDF pages are rendered at, in pixels per inch",
    "input.password": "password of an encrypted PDF",
    "input.all_frames": "read every frame of an animated GIF, PNG or WebP",
    "input.recursive": "descend into folders",
    "input.timeout_s": "bound on one download, in seconds",
    "det.limit_type": "max: shrink the longer side to the limit; min: enlarge the shorter side to it; "
    "auto: as max, then finer where text is small",
    "det.limit_side_px": "the limit, in pixels",
    "det.max_pixels": "bound on width x height at which a page is searched, whatever the limit says",
    "det.tile_pixels": "larger pages are searched in tiles of at most so many pixels, which overlap",
    "det.thresh": "pixels with a text probability above it belong to a region",
    "det.box_thresh": "regions with a lower mean probability are dropped",
    "det.unclip_ratio": "how far the shrunk regions grow back: times area / perimeter",
    "det.max_candidates": "bound on the contours looked at",
    "det.score_mode": "mean inside the rectangle (fast) or inside the contour (slow)",
    "det.box_type": "quad or polygon",
    "det.dilate": "close one-pixel gaps in the regions",
    "crop.order": "reading: columns and lines by the text's own height; reference: PaddleX's 10 px rule",
    "crop.turn_ratio": "a crop this many times as high as wide is turned by 90 degrees",
    "cls.enabled": "turn lines that stand on their head",
    "cls.thresh": "probability from which a line is turned",
    "cls.batch_size": "lines in one run",
    "rec.width": "tight: as narrow as keeps accuracy; reference: at least 320 px, as PaddleX",
    "rec.batch_size": "lines of equal width in one run",
    "rec.max_width_px": "lines wider than this at 48 px height are split with overlap and merged",
    "rec.drop_score": "lines with a lower mean probability are left out, and counted",
}
"""What each key means, in the order and words `to_yaml` writes."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be configured; each field is a section of the file."""

    models: ModelOptions = field(default_factory=ModelOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    input: InputOptions = field(default_factory=InputOptions)
    det: DetOptions = field(default_factory=DetOptions)
    crop: CropOptions = field(default_factory=CropOptions)
    cls: ClsOptions = field(default_factory=ClsOptions)
    rec: RecOptions = field(default_factory=RecOptions)

    def __post_init__(self) -> None:
        check_fields(self, "config")

    @property
    def options(self) -> Options:
        """The sections that may differ from call to call."""
        return Options(self.input, self.det, self.crop, self.cls, self.rec)


class Setting(NamedTuple):
    """One value for one key ("det.box_thresh"), and where it was given (a file, "--set")."""

    key: str
    value: object
    origin: str


def load(
    file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Config:
    """Return the defaults, overridden by `file`, then by `assignments`, then by `flags`.

    `assignments` are "section.key=value" with the value in YAML; `flags` maps "section.key" to a
    value, and those that are None were not given. `defaults` are those of a command that has other ones.

    Raises
    ------
    OptionError
        The file can't be read or is not YAML, a section or key is unknown, a value has the wrong
        type or is out of range.
    """
    other_defaults = [Setting(key, value, "default") for key, value in (defaults or {}).items()]
    return build([*other_defaults, *given(file, assignments, flags)])


def given(
    file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
) -> list[Setting]:
    """Return what was given, as `load` takes it, in the order of precedence; the later wins.

    Raises OptionError for a file or an assignment that can't be parsed.
    """
    return [
        *(() if file is None else _read_file(file)),
        *map(_read_assignment, assignments),
        *(Setting(key, value, "command line") for key, value in (flags or {}).items() if value is not None),
    ]


def build(settings: Iterable[Setting]) -> Config:
    """Return the defaults with `settings` applied; of two for one key, the later wins."""
    last: dict[str, Setting] = {}
    for setting in settings:
        _known(setting.key, _KEY_TYPES, setting.origin, "key")
        last[setting.key] = setting
    try:
        return Config(
            models=_section(ModelOptions, "models", last),
            runtime=_section(RuntimeOptions, "runtime", last),
            input=_section(InputOptions, "input", last),
            det=_section(DetOptions, "det", last),
            crop=_section(CropOptions, "crop", last),
            cls=_section(ClsOptions, "cls", last),
            rec=_section(RecOptions, "rec", last),
        )
    except OptionError as error:
        if error.subject not in last:
            raise
        raise OptionError(
            f"{last[error.subject].origin}: {error.subject}", error.problem, error.remedy
        ) from error


def to_yaml(config: Config) -> str:
    """Write every key with its value and a comment; `load` reads it back to an equal `Config`."""
    blocks = []
    for section in fields(config):
        values = getattr(config, section.name)
        lines = [f"{section.name}:"]
        for option in fields(values):
            lines.append(f"  # {DESCRIPTIONS[f'{section.name}.{option.name}']}")
            lines.append(f"  {option.name}: {_scalar(getattr(values, option.name))}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def save(config: Config, file: Path, *, overwrite: bool = False) -> None:
    """Write `to_yaml` to `file`, whole or not at all, with the folders it needs.

    Raises OptionError when the file exists and `overwrite` is off, or can't be written.
    """
    from ocr_onnx.render import write_atomic  # here, as it brings OpenCV along

    if os.path.lexists(file) and not overwrite:
        raise OptionError(str(file), "exists already", "give another --output, or --force to replace it")
    write_atomic(file, to_yaml(config).encode("utf-8"))


def _key_types() -> dict[str, object]:
    """Map every "section.key" to the type its dataclass declares."""
    return {
        f"{section}.{name}": expected
        for section, section_type in get_type_hints(Config).items()
        for name, expected in get_type_hints(section_type).items()
    }


_KEY_TYPES = _key_types()
_SECTIONS = tuple(field.name for field in fields(Config))
_T = TypeVar("_T")


def _section(section_type: type[_T], section: str, settings: Mapping[str, Setting]) -> _T:
    keys = {f"{section}.{name}": name for name in get_type_hints(section_type)}
    return section_type(**{name: settings[key].value for key, name in keys.items() if key in settings})


def _read_file(file: Path) -> list[Setting]:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OptionError(str(file), f"can't be read ({reason})", "give a YAML file") from error
    if len(content) > MAX_FILE_BYTES:
        raise OptionError(str(file), f"is larger than {MAX_FILE_BYTES} bytes", "give a configuration file")
    document = _parse(content, str(file))
    if document is None:
        return []
    settings = []
    for section, values in _mapping(document, str(file), "section").items():
        _known(str(section), _SECTIONS, str(file), "section")
        if values is not None:  # a section whose keys are all commented out
            for key, value in _mapping(values, f"{file}: {section}", "key").items():
                settings.append(Setting(f"{section}.{key}", value, str(file)))
    return settings


def _read_assignment(assignment: str) -> Setting:
    key, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals:
        raise OptionError(f"--set {assignment}", "has no '='", "write it as --set det.box_thresh=0.5")
    if _is_text(_KEY_TYPES.get(key)) and not text.startswith(("'", '"')):
        return Setting(key, text, "--set")  # a password 0123, the pages 7: YAML would see numbers
    return Setting(key, _parse(text.encode("utf-8", "replace"), f"--set {assignment}"), "--set")


def _parse(content: bytes, origin: str) -> object:
    import yaml  # here and not above: most runs need neither file nor assignment

    try:
        document: object = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not text that can be parsed"
        raise OptionError(origin, f"is not valid YAML{place} ({reason})", "correct it there") from error
    return document


def _mapping(value: object, origin: str, noun: str) -> Mapping[object, object]:
    if not isinstance(value, dict):
        problem = f"holds {described(value)} where {noun}s should be listed"
        raise OptionError(origin, problem, f"write '{noun}: value', one per line")
    return value


def _known(name: str, names: Iterable[str], origin: str, noun: str) -> None:
    known = tuple(names)
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]}?" if nearest else "`ocr-onnx config` lists them all"
    raise OptionError(f"{origin}: {name}", f"is not a known {noun}", remedy)


def _is_text(expected: object) -> bool:
    return expected is str or get_origin(expected) is Literal


def _scalar(value: object) -> str:
    import yaml

    style = '"' if isinstance(value, str) else None
    text: str = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=math.inf)
    return text.removesuffix("...\n").rstrip()
