"""`POST /v1/read`: options and files in, the pages' results as they are done out."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ocr_onnx.data import Page, PageResult
from ocr_onnx.document import OpenPdf
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OptionError
from ocr_onnx.inputs import file_outcomes
from ocr_onnx.options import Options
from ocr_onnx.page_range import parse_page_ranges
from ocr_onnx.render import to_jpeg
from ocr_onnx.service.body import Upload
from ocr_onnx.service.faults import Failed, RequestError, bad_request, failed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SECTIONS: Final = tuple(field.name for field in fields(Options))
BOUNDED: Final = frozenset(
    (
        *("input.max_bytes", "input.max_pixels", "input.max_pages", "input.max_pdf_objects"),
        "input.timeout_s",
        *("det.max_pixels", "det.tile_pixels", "det.max_candidates"),
        *("rec.batch_size", "rec.max_width_px", "cls.batch_size"),
    )
)
"""What costs memory or time: a request may lower them, not raise them above the server's."""

_Section = TypeVar("_Section", bound="DataclassInstance")


def parse_options(sent: Any, engine: Engine) -> Options:
    """Return the engine's options with what a request changes.

    Raises OptionError for an unknown section or key, a wrong type, a value out of range or above the
    server's bound, and for what this engine can't honour.
    """
    options = engine.options
    for section, values in _object(sent, "options").items():
        if section not in SECTIONS:
            raise OptionError(f"options.{section[:40]}", "is not a section", f"give {', '.join(SECTIONS)}")
        before = getattr(options, section)
        options = replace(options, **{section: _changed(before, section, _object(values, section))})
    if options.cls.enabled and engine.cls is None:
        raise OptionError("cls.enabled", "is off on this server", "leave it out")
    parse_page_ranges(options.input.pages)
    return options


def _object(value: Any, subject: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(subject, "is no JSON object", 'write {"det": {"box_thresh": 0.5}}')
    return value


def _changed(before: _Section, section: str, values: Mapping[str, Any]) -> _Section:
    names = {field.name for field in fields(before)}
    for name in values:
        if name not in names:
            remedy = f"the keys are {', '.join(sorted(names))}"
            raise OptionError(f"{section}.{name[:40]}", "is not a known key", remedy)
    changed = replace(before, **values)
    for name in values:
        key, bound = f"{section}.{name}", getattr(before, name)
        if key in BOUNDED and getattr(changed, name) > bound:
            raise OptionError(key, "is above the bound of this server", f"give at most {bound}")
    return changed


def parse_picture(sent: str | None) -> bool:
    """Return whether pictures are wanted. Raises RequestError (422)."""
    if sent in (None, "", "false"):
        return False
    if sent != "true":
        raise bad_request("picture", "is neither true nor false", "give one of them")
    return True


def pages_of(uploads: Sequence[Upload], options: Options, open_pdf: OpenPdf) -> Iterator[Page | Failed]:
    """Decode the pages of all files, one after the other."""
    for upload in uploads:
        for outcome in file_outcomes(upload.content, upload.name, options.input, open_pdf):
            yield outcome if isinstance(outcome, Page) else failed(upload.name, outcome)


def page_dict(result: PageResult, *, picture: bool) -> dict[str, Any]:
    """Return `PageResult.to_dict`, with `picture`, the annotated page as JPEG in base64, if wanted."""
    page = result.to_dict()
    if picture:
        page["picture"] = base64.b64encode(to_jpeg(result)).decode("ascii")
    return page


def failed_dict(page: Failed) -> dict[str, Any]:
    """Return what JSON has of a file or page that failed."""
    return {"source": page.source, "index": page.index, "error": page.fault.told._asdict()}


def failure(request_id: str, fault: RequestError) -> dict[str, Any]:
    """Return the body of a request that failed as a whole."""
    return {"error": {**fault.told._asdict(), "requestId": request_id}}


def models_dict(name: str, engine: Engine) -> dict[str, Any]:
    """Return what the engine runs on."""
    used = engine.provenance
    if used is None:
        return {"name": name, "models": []}
    models = [
        {"stage": stage, "name": model.partition("@")[0], "sha256": model.partition("@")[2]}
        for stage, model in used.models
    ]
    return {
        "name": name,
        "models": models,
        "device": used.device,
        "provider": used.provider,
        "precision": used.precision,
        "version": used.version,
    }
