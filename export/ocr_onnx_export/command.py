"""What `ocr-onnx export` is given in, folders for `--model-dir` out: names, folders, archives, ONNX files."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx
from filelock import FileLock

from ocr_onnx import model_store
from ocr_onnx.errors import ModelError, ModelMissingError, OptionError
from ocr_onnx.files import Progress
from ocr_onnx.manifest import Manifest, ModelSpec, Stage, read_manifest
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.recognize import charset_from
from ocr_onnx.runtime import Session
from ocr_onnx_export.convert import convert
from ocr_onnx_export.from_onnx import convert_onnx
from ocr_onnx_export.official import check_source, fetch_source
from ocr_onnx_export.publish import Published
from ocr_onnx_export.reduce import Precision
from ocr_onnx_export.rewrite import Target, passes_for, rewrite
from ocr_onnx_export.routes import Rewrite, Route

DICTIONARY_MODEL = "ppocrv4-mobile-rec"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is converted.

    `target` None is "gpu" for fp16 and "cpu" otherwise. `stock` leaves the converted graph as it
    is: no rewrites, float input. `verify` compares with Paddle. `gate_images` is a folder of
    pictures with text that a lower precision has to pass on as well.
    """

    route: Route = "light"
    precision: Precision = "fp32"
    target: Target | None = None
    stock: bool = False
    verify: bool = False
    gate_images: Path | None = None

    def __post_init__(self) -> None:
        if self.stock and self.target is not None:
            raise OptionError(
                "--stock", "contradicts --target, which chooses rewrites", "give one of the two"
            )
        if self.gate_images is not None and self.precision == "fp32":
            raise OptionError(
                "--gate-images",
                "is for a lower precision, and this is fp32",
                "add --precision, or leave it out",
            )

    @property
    def rewrite(self) -> Rewrite | None:
        """The passes for the target, then the input and output that ocr-onnx prefers."""
        if self.stock and self.precision == "fp32":
            return None
        target = self.target or ("gpu" if self.precision == "fp16" else "cpu")

        def apply(model: onnx.ModelProto, stage: Stage) -> onnx.ModelProto:
            return rewrite(model, () if self.stock else passes_for(target, stage))

        return apply


@dataclass(frozen=True, slots=True)
class Access:
    """Where official models may come from, and who hears of it.

    `allow_unpinned` takes files without a published hash; `warn` is told the hash they have.
    """

    allow_unpinned: bool = False
    offline: bool = False
    progress: Progress | None = None
    warn: Callable[[str], None] | None = None


def export(
    what: str,
    out: Path,
    recipe: Recipe = Recipe(),
    access: Access = Access(),
    *,
    name: str = "",
    dictionary: Path | None = None,
    source: Path | None = None,
    from_onnx: bool = False,
) -> list[Published]:
    """Convert a model, or all models of a set that are not inside the package, into the folder `out`.

    `what` is a model or set of the manifest, a folder or tar archive with a Paddle inference model,
    or an ONNX file (ending in .onnx, or with `from_onnx`). `source` has the files of an official model,
    which are checked and used in place of a download. `name` and `dictionary` are for models of
    one's own.

    Raises
    ------
    ModelError
        Any of the kinds that `official`, `convert` and `from_onnx` name.
    OptionError
        The arguments contradict each other.
    DownloadError, DependencyError
        As `official.fetch_source` and `convert.convert` do.
    """
    manifest = model_store.load_manifest()
    path, specs = Path(what), _specs(manifest, what)
    if specs:
        _check_official(what, bool(name or dictionary or from_onnx), source is not None and len(specs) > 1)
        return [_official(spec, out, recipe, access, source) for spec in specs]
    if source is not None:
        raise OptionError(
            "--source", f"was given, but {what!r} is no official model", "name one, or leave --source out"
        )
    if not _exists(path):
        known = ", ".join([*(one.name for one in manifest.sets), *(one.name for one in manifest.models)])
        raise ModelMissingError(
            what, "is neither a file or folder here nor an official model", f"give a path, or one of {known}"
        )
    if not from_onnx and path.suffix.lower() != ".onnx":
        return [_convert(path, out, recipe, name=name, dictionary=dictionary)]
    if recipe.verify or recipe.route != "light":
        raise OptionError(what, "is ONNX already: Paddle has no part in it", "leave --verify and --route out")
    return [
        convert_onnx(
            path,
            out,
            name=name,
            dictionary=dictionary,
            rewrite=recipe.rewrite,
            precision=recipe.precision,
            gate_images=recipe.gate_images,
        )
    ]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # below a folder that may not be entered, or a name that is too long
        problem = f"can't be read ({error.strerror})"
        raise ModelMissingError(str(path), problem, "give a path that you may read") from error


def _check_official(what: str, renamed: bool, source_of_many: bool) -> None:
    if Path(what).exists():
        raise OptionError(
            what,
            "is the name of an official model and of a file or folder here",
            f"write ./{what} for what is here",
        )
    if renamed or source_of_many:
        raise OptionError(
            what,
            "is official: it takes no --name, --dict or --from-onnx, and --source for one model only",
            "leave them out",
        )


def make(spec: ModelSpec, access: Access = Access()) -> None:
    """Convert an official model by the light route into the cache, where `model_store` looks for it.

    Under a lock, as every export there changes the same manifest. Raises what `export` does.
    """
    folder = model_store.exported_dir()
    lock = FileLock(folder.with_name(".exported.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        problem = f"can't be written ({error.strerror or error})"
        raise ModelError(
            str(folder.parent), problem, "set OCR_ONNX_CACHE_DIR to a folder you may write to"
        ) from error
    with lock:
        lock.release()  # `with` holds it a second time
        if not _is_made(spec, folder):
            _official(spec, folder, Recipe(), access, None)


def _is_made(spec: ModelSpec, folder: Path) -> bool:
    """Tell whether another process was quicker."""
    path = folder / model_store.MANIFEST_NAME
    made = read_manifest(path).find(spec.name) if path.is_file() else None
    return made is not None and (folder / made.file).is_file()


def _specs(manifest: Manifest, what: str) -> list[ModelSpec]:
    """Return the model of that name, the models of that set, or nothing."""
    model = manifest.find(what)
    if model is not None:
        return [model]
    if all(one.name != what for one in manifest.sets):
        return []
    embedded = model_store.embedded_dir()
    specs = [spec for spec in manifest.set_models(what) if not (embedded / spec.file).is_file()]
    if not specs:
        raise OptionError(
            what, "has nothing to export: all its models are inside the package", "name one of its models"
        )
    return specs


def _official(spec: ModelSpec, out: Path, recipe: Recipe, access: Access, source: Path | None) -> Published:
    if source is None:
        source = fetch_source(
            spec,
            allow_unpinned=access.allow_unpinned,
            offline=access.offline,
            warn=access.warn,
            progress=access.progress,
        )
    else:
        check_source(spec, source, allow_unpinned=access.allow_unpinned, warn=access.warn)
    with ExitStack() as stack:
        dictionary = None
        if _lacks_dictionary(spec, source):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            dictionary = folder / "characters.txt"
            dictionary.write_text("\n".join(_embedded_characters()), encoding="utf-8")
        return _convert(source, out, recipe, dictionary=dictionary, known=spec)


def _convert(
    source: Path,
    out: Path,
    recipe: Recipe,
    *,
    name: str = "",
    dictionary: Path | None = None,
    known: ModelSpec | None = None,
) -> Published:
    return convert(
        source,
        out,
        route=recipe.route,
        name=name,
        dictionary=dictionary,
        known=known,
        rewrite=recipe.rewrite,
        precision=recipe.precision,
        gate_images=recipe.gate_images,
        verify=recipe.verify,
    )


def _lacks_dictionary(spec: ModelSpec, source: Path) -> bool:
    """Tell a legacy rec model of the usual classes, which is published without its dictionary."""
    if spec.stage != "rec" or source.is_file() or any(source.glob("*.txt")) or any(source.glob("*.yml")):
        return False
    return spec.classes == model_store.load_manifest().model(DICTIONARY_MODEL).classes


def _embedded_characters() -> tuple[str, ...]:
    """Return PP-OCRv4's dictionary, from the embedded recognition model."""
    path = model_store.embedded_dir() / model_store.load_manifest().model(DICTIONARY_MODEL).file
    return charset_from(Session(path, RuntimeOptions()).metadata, str(path))[1:-1]
