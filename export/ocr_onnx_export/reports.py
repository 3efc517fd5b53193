"""A folder with the official models in, the parity reports of `export/reports` out.

Run as `python -m ocr_onnx_export.reports --models DIR`. DIR holds `paddle/NAME/` (programs with
weights) and `graphs/NAME/` (PIR programs without, which are given synthesised ones).
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from ocr_onnx.errors import ModelMissingError, OcrError
from ocr_onnx.manifest import Stage
from ocr_onnx_export import parity, pir
from ocr_onnx_export.finish import to_bytes
from ocr_onnx_export.report import Report
from ocr_onnx_export.rewrite import TIDY, passes_for, rewrite
from ocr_onnx_export.rewrite.graph import Graph, Pass
from ocr_onnx_export.rewrite.upgrade_opset import upgrade_opset
from ocr_onnx_export.routes import convert_source
from ocr_onnx_export.sources import Source, read_source
from ocr_onnx_export.synthesise import synthesise_file

OUT = Path("export/reports")
TIMED_ON: Mapping[Stage, tuple[int, int, int]] = {
    "det": (1, 320, 320),
    "rec": (1, 48, 320),
    "cls": (6, 48, 192),
}
# Without oneDNN Paddle takes 10 s for a line of 3200 px with them, and 30 s for a page of 736 x 1280.
SERVER_DET_GRID = ((1, 32, 32), (2, 128, 256), (1, 320, 320), (1, 480, 640))
SERVER_REC_GRID = ((1, 48, 160), (8, 48, 160), (2, 48, 320), (1, 48, 640), (1, 48, 3200))


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to report on.

    `graph` names the program without weights that it has, None where `paddle/` has its weights.
    `classes` are its own number of classes and that of the program, where they differ; it then has
    PP-OCRv4_mobile_rec's dictionary. `grid` replaces the stage's own.
    """

    name: str
    graph: str | None = None
    classes: tuple[int, int] | None = None
    grid: tuple[tuple[int, int, int], ...] = ()


SUBJECTS = (
    Subject("PP-OCRv4_mobile_det"),
    Subject("PP-OCRv4_mobile_rec"),
    Subject("ch_ppocr_mobile_v2.0_cls"),
    Subject("PP-OCRv4_server_det", "PP-OCRv4_server_det", grid=SERVER_DET_GRID),
    Subject("PP-OCRv4_server_rec", "PP-OCRv4_server_rec_doc", (6625, 15631), SERVER_REC_GRID),
    Subject("PP-OCRv4_server_rec_doc", "PP-OCRv4_server_rec_doc", grid=SERVER_REC_GRID),
    Subject("ch_SVTRv2_rec", "ch_SVTRv2_rec", grid=SERVER_REC_GRID),
)


def open_subject(subject: Subject, models: Path, folder: Path) -> Source:
    """Return a model's files; those that are synthesised are written to `folder`.

    Raises
    ------
    ModelMissingError
        `models` lacks a file.
    SourceFormatError
        A file is not what it should be.
    """
    if subject.graph is None:
        return read_source(_existing(models / "paddle" / subject.name))
    graph = models / "graphs" / subject.graph
    text = _existing(graph / "inference.json").read_text(encoding="utf-8")
    if subject.classes is None:
        shutil.copy(_existing(graph / "inference.yml"), folder)
    else:
        own, programs = subject.classes
        text = text.replace(str(programs), str(own))
        shutil.copy(_existing(models / "paddle" / "PP-OCRv4_mobile_rec" / "ppocr_keys_v1.txt"), folder)
    (folder / "inference.json").write_text(text, encoding="utf-8")
    data = synthesise_file(pir.read_program(folder / "inference.json"))
    (folder / "inference.pdiparams").write_bytes(data)
    return read_source(folder)


def report_on(source: Source, name: str, folder: Path, grid: Sequence[tuple[int, int, int]] = ()) -> Report:
    """Compare both routes and every rewrite with Paddle; the ONNX files are written to `folder`.

    The rewrites are those of an ordinary export, one more of them in each file, so the last has what
    `ocr-onnx export` makes. Rewrites with nothing to do in the light route's file are shown on
    Paddle2ONNX's; the report names those with nothing to do in either.

    Raises
    ------
    ModelError
        A route can't convert the model, or Paddle can't run it.
    DependencyError
        There is no Paddle.
    """
    light = convert_source(source, name)
    other = convert_source(source, name, route="paddle2onnx")
    stage = light.label.stage
    passes = passes_for("cpu", stage)
    files = files_of(light.data, other.data, passes)
    candidates = {}
    for number, (label, data) in enumerate(files.items()):
        candidates[label] = folder / f"{number:02d}.onnx"
        candidates[label].write_bytes(data)
    report = parity.compare(source, stage, candidates, grid or parity.FULL_GRID[stage], model=name)
    facts = {}
    for label, path in candidates.items():
        time_ms, ratio = parity.time_against(candidates["light"], path, stage, TIMED_ON[stage])
        facts[label] = {
            **report.candidates[label],
            "operations": len(onnx.load(path).graph.node),
            "time_ms": round(time_ms, 2),
            "time_to_first": round(ratio, 3),
        }
    shown = {label.rpartition("+ ")[2] for label in files}
    idle = tuple(pass_name(one) for one in passes if pass_name(one) not in shown)
    return replace(report, candidates=facts, idle=idle)


def files_of(light: bytes, other: bytes, passes: Sequence[Pass]) -> dict[str, bytes]:
    """Return the files to compare by label: two plain ones, then what the passes make of them."""
    on_light, on_other = steps(light, passes), steps(other, passes)
    extra = {name: data for name, data in on_other.items() if name not in on_light}
    return {
        "light": light,
        "paddle2onnx": other,
        **{f"+ {name}": data for name, data in on_light.items()},
        **{f"paddle2onnx + {name}": data for name, data in extra.items()},
        "paddle2onnx + all": to_bytes(rewrite(onnx.load_from_string(other), passes)),
    }


def steps(plain: bytes, passes: Sequence[Pass]) -> dict[str, bytes]:
    """Return, by name, the file after each pass that changes it, all earlier ones included."""
    found = {}
    graph = Graph.from_model(upgrade_opset(onnx.load_from_string(plain)))
    before = _tidied(graph)
    for one in passes:
        graph = one(graph)
        after = _tidied(graph)
        if after != before:
            found[pass_name(one)] = after
        before = after
    return found


def _tidied(graph: Graph) -> bytes:
    """Return the file that `rewrite` would make if its passes ended here."""
    for one in TIDY:
        graph = one(graph)
    return to_bytes(graph.to_model())


def pass_name(one: Pass) -> str:
    """Return the name of a pass, or of the function that made it: `image_input(DET, ...)` makes one."""
    return one.__qualname__.partition(".")[0]


def write_reports(subjects: Sequence[Subject], models: Path, out: Path) -> Iterator[Report]:
    """Write NAME.json and NAME.md of every subject into `out`, and yield the reports.

    Raises what `open_subject` and `report_on` do.
    """
    for subject in subjects:
        with tempfile.TemporaryDirectory() as sources, tempfile.TemporaryDirectory() as files:
            source = open_subject(subject, models, Path(sources))
            report = report_on(source, subject.name, Path(files), subject.grid)
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{subject.name}.json").write_text(report.to_json(), encoding="utf-8")
        (out / f"{subject.name}.md").write_text(report.to_markdown(), encoding="utf-8")
        yield report


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the reports that the command line asks for; return 1 where one is not equal to Paddle."""
    given = _parser().parse_args(arguments)
    subjects = [one for one in SUBJECTS if not given.only or one.name in given.only]
    passed = True
    try:
        for report in write_reports(subjects, given.models, given.out):
            sys.stdout.write(f"{report.model}: {'equal' if report.passed else 'NOT equal'} to Paddle\n")
            passed = passed and report.passed
    except OcrError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if passed else 1


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ModelMissingError(
            str(path), "is not there", "give the folder of the official models (--models)"
        )
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ocr_onnx_export.reports", description="Write the parity reports of the official models."
    )
    parser.add_argument(
        "--models", type=Path, required=True, help="folder with paddle/NAME and graphs/NAME", metavar="DIR"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where the reports go (%(default)s)")
    names = [one.name for one in SUBJECTS]
    parser.add_argument("--only", action="append", choices=names, help="this model; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
