"""The command line through its front door: arguments in, exit code, stdout and stderr out."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ocr_onnx import console, detect, doctor, engine, model_store, runtime, threads
from ocr_onnx.cli import run
from ocr_onnx.config import Config, load
from ocr_onnx.data import PageResult, Provenance, TextLine
from ocr_onnx.errors import InputError, ModelMissingError, OcrError
from ocr_onnx.formats import Format
from ocr_onnx.inference import WarmUp
from ocr_onnx.options import ModelOptions, Options
from tests.conftest import Run

DEMO = Path(__file__).parent / "data" / "boarding-pass.png"
QUAD = ((1.0, 2.0), (30.0, 2.0), (30.0, 12.0), (1.0, 12.0))


def page(source: str, *texts: str, index: int | None = None, warnings: tuple[str, ...] = ()) -> PageResult:
    lines = tuple(TextLine(text, 0.9, 0.8, 0.7, QUAD, QUAD) for text in texts)
    image = np.full((20, 40, 3), 255, np.uint8)
    return PageResult(lines, 40, 20, source, index, warnings=warnings, image=image)


class FakeEngine:
    """Reads "bad..." as an error, "*.pdf" as two pages and anything else as its own name."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}
        self.workers = 0
        self.provenance: Provenance | None = None
        self.warm_ups = 0

    def warm_up(self) -> WarmUp:
        self.warm_ups += 1
        return WarmUp(runs=12, seconds=3.456)

    def load(
        self,
        models: ModelOptions,
        *,
        device: str,
        threads: int,
        precision: str,
        allow_fallback: bool,
        gpu_memory_mib: int,
        tf32: bool,
        options: Options,
        progress: Callable[[str, int, int | None], None],
    ) -> "FakeEngine":
        self.loaded = {"models": models, "device": device, "threads": threads, "precision": precision}
        self.loaded |= {"allow_fallback": allow_fallback, "gpu_memory_mib": gpu_memory_mib, "tf32": tf32}
        self.loaded["options"] = options
        for done in (0, 50, 100):
            progress("rec.onnx", done, 100)
        return self

    def stream(
        self, sources: Iterable[str], *, workers: int, on_error: Callable[[OcrError], None]
    ) -> Iterator[PageResult]:
        self.workers = workers
        for source in sources:
            if source.startswith("bad"):
                on_error(InputError(source, "is bad", "give a good one"))
            elif source.startswith("interrupt"):
                raise KeyboardInterrupt
            elif source.endswith(".pdf"):
                yield page(source, "first", index=0)
                yield page(source, index=1, warnings=("the page was tiny",))
            else:
                yield page(source, Path(source).stem, "第二行")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(engine, "Engine", fake)
    monkeypatch.setattr(model_store, "resolve", lambda *_: None)
    return fake


# Start-up and usage


def test_start_up_imports_nothing_heavy() -> None:
    heavy = {"PIL", "cv2", "httpx", "numpy", "onnxruntime", "rich", "shapely", "pyclipper", "yaml"}
    code = f"import sys, ocr_onnx, ocr_onnx.cli; print(*sorted({heavy!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_help_imports_nothing_heavy_either() -> None:
    code = (
        "import sys\nfrom ocr_onnx import cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit: print([name for name in ('numpy', 'cv2', 'rich', 'yaml') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("run",),
        ("serve",),
        ("config",),
        ("doctor",),
        ("export",),
        ("models",),
        ("models", "list"),
        ("models", "pull"),
        ("models", "verify"),
        ("models", "path"),
        ("bench",),
        ("bench", "latency"),
        ("bench", "rewrites"),
        ("bench", "soak"),
        ("bench", "accuracy"),
        ("bench", "sides"),
        ("bench", "scaling"),
        ("bench", "report"),
        ("bench", "peers"),
        ("bench", "load"),
    ],
)
def test_every_command_explains_itself(run: Run, command: tuple[str, ...]) -> None:
    outcome = run(*command, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: {' '.join(('ocr-onnx', *command))} ")
    assert outcome.err == ""


def test_the_defaults_in_the_help_are_those_of_the_options(run: Run) -> None:
    text = " ".join(run("run", "--help").out.split())
    default = Config()
    for option, value in {
        "--model-set": default.models.name,
        "--device": default.runtime.device,
        "--threads": default.runtime.threads,
        "--precision": default.runtime.precision,
        "--dpi": default.input.dpi,
    }.items():
        assert re.search(rf"{option} [A-Z]+ .*?\[default: {value}\]", text), option


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"ocr-onnx {version('ocr-onnx')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "Missing argument 'INPUT"),
        (("run", "a.png", "--format", "xml"), "'xml' is not one of"),
        (("run", "a.png", "--workers", "-1"), "--workers"),
        (("run", "a.png", "--nonsense"), "No such option"),
        (("runn",), "No such command"),
        (("run", "a.png", "--threads", "-1"), "error: command line: runtime.threads: -1 is out of range"),
        (("run", "a.png", "--set", "det.tresh=1"), "error: --set: det.tresh: is not a known key"),
        (("run", "a.png", "--config", "no.yaml"), "error: no.yaml: can't be read"),
        (("run", "a.png", "--dict", "d.txt"), "error: command line: models.dictionary: was given without"),
    ],
)
def test_wrong_usage_exits_with_2(
    run: Run, fake: FakeEngine, arguments: tuple[str, ...], message: str
) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""
    assert not fake.loaded


# run: options


def test_run_takes_options_from_file_assignments_and_flags(
    run: Run, fake: FakeEngine, tmp_path: Path
) -> None:
    file = tmp_path / "ocr.yaml"
    file.write_text("runtime: {device: cuda, threads: 7}\ndet: {thresh: 0.1, box_thresh: 0.1}\n")
    arguments = ["--config", file, "--set", "det.thresh=0.2", "--set", "runtime.threads=5", "--threads", "3"]
    arguments += ["--set", "runtime.tf32=false", "--set", "runtime.gpu_memory_mib=2048"]
    assert run("run", "a.png", *arguments, "--workers", "4").code == 0
    assert fake.loaded["device"] == "cuda"
    assert fake.loaded["threads"] == 3
    assert (fake.loaded["tf32"], fake.loaded["gpu_memory_mib"]) == (False, 2048)
    assert fake.loaded["options"].det.thresh == 0.2
    assert fake.loaded["options"].det.box_thresh == 0.1
    assert fake.workers == 4


def test_run_hands_every_flag_on(run: Run, fake: FakeEngine) -> None:
    flags = (
        "--model-set server --device auto --threads 2 --precision bf16 --allow-fallback --model-dir m "
        "--offline --det-model d --rec-model r --cls-model c --dict x --pages 2-3 --dpi 99 --password 007 "
        "--recursive --all-frames"
    )
    assert run("run", "a.png", *shlex.split(flags)).code == 0
    options = fake.loaded["options"]
    assert fake.loaded["models"] == ModelOptions("server", "d", "r", "c", "x", "m", offline=True)
    assert (fake.loaded["device"], fake.loaded["threads"]) == ("auto", 2)
    assert fake.loaded["precision"] == "bf16"
    assert fake.loaded["allow_fallback"] is True
    assert (options.input.pages, options.input.dpi, options.input.password) == ("2-3", 99, "007")
    assert options.input.recursive
    assert options.input.all_frames
    assert options.cls.enabled


def test_run_without_flags_uses_the_defaults(run: Run, fake: FakeEngine) -> None:
    run("run", "a.png")
    default = Config()
    assert fake.loaded == {
        "models": default.models,
        "device": default.runtime.device,
        "threads": default.runtime.threads,
        "precision": default.runtime.precision,
        "allow_fallback": False,
        "gpu_memory_mib": default.runtime.gpu_memory_mib,
        "tf32": default.runtime.tf32,
        "options": default.options,
    }


# run: formats


@pytest.mark.usefixtures("fake")
def test_text_of_one_file_is_its_lines_alone(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.touch()
    assert run("run", file, "-q") == (0, "a\n第二行\n", "")


@pytest.mark.usefixtures("fake")
def test_text_of_several_inputs_names_them(run: Run) -> None:
    outcome = run("run", "a.png", "b.pdf", "-q")
    assert outcome.out == (
        "==> a.png <==\na\n第二行\n\n==> b.pdf, page 1 <==\nfirst\n\n==> b.pdf, page 2 <==\n"
    )


@pytest.mark.usefixtures("fake")
def test_json_is_one_array(run: Run) -> None:
    results = json.loads(run("run", "a.png", "b.pdf", "--format", "json").out)
    assert [result["source"] for result in results] == ["a.png", "b.pdf", "b.pdf"]
    assert results[0]["lines"][0]["text"] == "a"


@pytest.mark.usefixtures("fake")
def test_json_of_nothing_is_an_empty_array(run: Run) -> None:
    assert json.loads(run("run", "bad", "--format", "json").out) == []


@pytest.mark.usefixtures("fake")
def test_jsonl_is_one_object_per_line(run: Run) -> None:
    rows = run("run", "a.png", "b.pdf", "--format", "jsonl").out.splitlines()
    assert [json.loads(row)["index"] for row in rows] == [None, 0, 1]
    assert "第二行" in rows[0]


@pytest.mark.usefixtures("fake")
def test_tsv_has_one_header(run: Run) -> None:
    rows = [row.split("\t") for row in run("run", "a.png", "b.pdf", "--format", "tsv").out.splitlines()]
    assert rows[0][:4] == ["source", "index", "line", "text"]
    assert [row[3] for row in rows[1:]] == ["a", "第二行", "first"]


@pytest.mark.usefixtures("fake")
def test_reference_has_the_reference_keys(run: Run) -> None:
    (row,) = run("run", "a.png", "--format", "reference").out.splitlines()
    reference = json.loads(row)
    assert list(reference) == ["input_path", "dt_polys", "dt_scores", "rec_text", "rec_score"]
    assert reference["rec_text"] == ["a", "第二行"]


def test_a_warm_up_is_made_and_told_when_asked_for(run: Run, fake: FakeEngine) -> None:
    assert "warm-up" not in run("run", "a.png").err
    assert fake.warm_ups == 0
    assert "warm-up: 12 runs in 3.5 s\n" in run("run", "a.png", "--warm-up").err
    assert run("run", "a.png", "--warm-up", "--quiet").err == ""
    assert fake.warm_ups == 2


@pytest.mark.usefixtures("fake")
def test_a_result_is_written_before_the_next_page_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.StringIO()
    written: list[str] = []

    def sources() -> Iterator[str]:
        for name in ("a.png", "b.png"):
            written.append(stdout.getvalue())
            yield name

    monkeypatch.setattr(sys, "stdout", stdout)
    inputs: Any = sources()
    monkeypatch.setattr(run, "_is_one_source", lambda _inputs: False)
    assert run._read_all(inputs, Config(), Format.jsonl, None, 1, warm_up=False, quiet=True)
    assert written[0] == ""
    assert json.loads(written[1])["source"] == "a.png"


# run: saving, warnings, failures


@pytest.mark.usefixtures("fake")
def test_save_path_gets_json_and_picture_of_every_page(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "results.v2"
    assert run("run", "a.png", "b.pdf", "--save-path", folder).code == 0
    names = sorted(file.name for file in folder.iterdir())
    assert len(names) == 6
    assert [name for name in names if name.startswith("a.png")] == ["a.png.json", "a.png_ocr.png"]
    assert json.loads((folder / "a.png.json").read_text(encoding="utf-8"))["rec_text"] == ["a", "第二行"]


@pytest.mark.usefixtures("fake")
def test_a_page_that_cant_be_saved_is_reported_and_the_others_are_done(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png.json").mkdir()
    outcome = run("run", "a.png", "b.png", "--save-path", tmp_path)
    assert outcome.code == 1
    assert outcome.err.count("error: ") == 1
    assert "b\n" in outcome.out
    assert (tmp_path / "b.png.json").is_file()


@pytest.mark.usefixtures("fake")
def test_a_folder_to_save_to_that_cant_be_made_is_told_before_any_page_is_read(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    outcome = run("run", "a.png", "--save-path", tmp_path / "taken")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "taken: can't be made" in outcome.err


def test_standard_output_that_is_full_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-c", "from ocr_onnx.cli import main; main()", "run", str(DEMO)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: can't be written")
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("fake")
def test_warnings_go_to_stderr_and_quiet_stops_them(run: Run) -> None:
    assert "warning: b.pdf, page 2: the page was tiny\n" in run("run", "b.pdf").err
    assert run("run", "b.pdf", "--quiet").err == ""


def test_a_device_that_was_not_asked_for_is_one_warning(run: Run, fake: FakeEngine) -> None:
    fake.provenance = Provenance(
        (), "cpu", "CPUExecutionProvider", (1.0, 1.0), "1", fallback="cuda:0: no driver"
    )
    outcome = run("run", "a.png", "b.png", "--device", "cuda", "--allow-fallback")
    warning = "warning: cuda:0: no driver; reading on cpu instead"
    assert outcome.err.splitlines() == ["downloading: rec.onnx", warning]
    assert run("run", "a.png", "--device", "cuda", "--allow-fallback", "--quiet").err == ""


@pytest.mark.usefixtures("fake")
def test_one_bad_input_is_reported_the_others_are_done(run: Run) -> None:
    outcome = run("run", "a.png", "bad.png", "b.png", "--quiet")
    assert outcome.code == 1
    assert outcome.out.count("==>") == 2
    assert outcome.err == "error: bad.png: is bad; give a good one\ndone: 2 pages read, 1 failed\n"


@pytest.mark.usefixtures("fake")
def test_a_single_bad_input_is_one_line(run: Run) -> None:
    assert run("run", "bad.png", "-q") == (1, "", "error: bad.png: is bad; give a good one\n")


@pytest.mark.usefixtures("fake")
def test_a_name_can_neither_break_the_line_nor_steer_the_terminal(run: Run) -> None:
    outcome = run("run", "bad\n\x1b[31m红", "-q")
    assert outcome.err == "error: bad\\n\\x1b[31m红: is bad; give a good one\n"


@pytest.mark.usefixtures("fake")
def test_interrupting_exits_with_130(run: Run) -> None:
    outcome = run("run", "interrupt", "-q")
    assert (outcome.code, outcome.err) == (130, "")


def test_a_reader_that_leaves_early_is_no_accident() -> None:
    code = "import sys; sys.stdin.close(); from ocr_onnx import cli; cli.main(['config'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait() == 1


def test_output_is_utf_8_whatever_the_locale() -> None:
    code = (
        "import os, sys; from ocr_onnx import cli, doctor;"
        "doctor.examine = lambda: (doctor.Check('文', '\\udcff', 'ok', ''),); cli.main(['doctor'])"
    )
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert "文" in found.stdout.decode("utf-8")
    assert b"\\udcff" in found.stdout


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # stderr is redirected by each test, since pytest puts its own back after the fixtures
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


@pytest.mark.usefixtures("fake")
def test_downloads_without_a_terminal_are_announced_once(run: Run) -> None:
    assert run("run", "a.png").err == "downloading: rec.onnx\n"


def test_downloads_draw_a_bar_on_a_terminal(terminal: Terminal) -> None:
    with redirect_stderr(terminal), console.download_progress(quiet=False) as progress:
        progress("[x].onnx", 10, 100)
        progress("[x].onnx", 100, 100)
    assert "[x].onnx" in terminal.getvalue()
    assert "100/100 bytes" in terminal.getvalue()


@pytest.mark.parametrize(("count", "shown"), [(1, False), (2, True)])
def test_pages_draw_progress_from_the_second_on(terminal: Terminal, count: int, shown: bool) -> None:
    with redirect_stderr(terminal), console.page_progress(quiet=False) as advance:
        for number in range(count):
            advance(f"[{number}].png")
    assert ("2 pages" in terminal.getvalue()) is shown
    assert ("[1].png" in terminal.getvalue()) is shown


def test_an_error_during_progress_stays_a_line_of_its_own(terminal: Terminal) -> None:
    with redirect_stderr(terminal), console.page_progress(quiet=False) as advance:
        advance("a")
        advance("b")
        console.say("error", "something long that would be broken over lines " * 3)
    assert "error: something long" in terminal.getvalue()


def test_pages_draw_nothing_when_quiet_or_in_the_way_of_results(terminal: Terminal) -> None:
    with redirect_stderr(terminal), console.page_progress(quiet=True) as advance:
        advance("a")
        advance("b")
    with (
        redirect_stdout(Terminal()),
        redirect_stderr(terminal),
        console.page_progress(quiet=False) as advance,
    ):
        advance("a")
        advance("b")
    assert terminal.getvalue() == ""


# config


def test_config_prints_the_effective_configuration(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ocr.yaml"
    file.write_text("det: {thresh: 0.1}\n")
    outcome = run("config", "--config", file, "--set", "rec.batch_size=1")
    written = yaml.safe_load(outcome.out)
    assert (written["det"]["thresh"], written["rec"]["batch_size"]) == (0.1, 1)
    assert written["input"]["dpi"] == 200


def test_config_writes_a_file_that_reads_back_equal(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ocr.yaml"
    assert run("config", "--set", "models.rec=中文.onnx", "--output", file) == (0, "", "")
    assert load(file).models.rec == "中文.onnx"


def test_config_that_cant_be_written_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "no").write_text("a file, no folder")
    outcome = run("config", "--output", tmp_path / "no" / "ocr.yaml")
    assert outcome.code == 2
    assert re.search(r"can't be written \(.+\); give a path you may write to\n$", outcome.err)
    assert outcome.err.count("\n") == 1


def test_config_replaces_a_file_only_by_force(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ocr.yaml"
    file.write_text("# mine\n")
    outcome = run("config", "--output", file)
    assert outcome.code == 2
    assert outcome.err.endswith("exists already; give another --output, or --force to replace it\n")
    assert file.read_text() == "# mine\n"
    assert run("config", "--set", "input.dpi=72", "--output", file, "--force") == (0, "", "")
    assert load(file).input.dpi == 72


# models


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(folder))
    for name in ("OCR_ONNX_MODEL_DIR", "OCR_ONNX_OFFLINE", "OCR_ONNX_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_models_list_shows_sets_models_and_where_they_are(run: Run) -> None:
    outcome = run("models", "list")
    rows = outcome.out.splitlines()
    assert outcome.code == 0
    assert {row.split()[1] for row in rows if row.startswith("set")} == {
        "mobile",
        "server",
        "svtrv2",
        "repsvtr",
    }
    assert any(re.search(r"rec +ppocrv4-mobile-rec +[0-9.]+ MB +ok, embedded", row) for row in rows)
    assert any(re.search(r"svtrv2-rec +.*missing", row) for row in rows)


def test_models_pull_and_path_print_the_files(run: Run) -> None:
    for outcome in (run("models", "pull"), run("models", "path", "mobile")):
        assert outcome.code == 0
        files = [Path(row) for row in outcome.out.splitlines()]
        assert len(files) == 3
        assert all(file.suffix == ".onnx" and file.is_file() for file in files)


def test_models_path_prints_the_cache(run: Run, cache: Path) -> None:
    assert run("models", "path") == (0, f"{cache}\n", "")


def test_an_unknown_set_is_named(run: Run) -> None:
    outcome = run("models", "pull", "mobil")
    assert outcome.code == 1
    assert outcome.err == (
        "error: model set 'mobil': is in no manifest; "
        "did you mean mobile? there are: mobile, server, svtrv2, repsvtr\n"
    )


def test_a_set_without_ready_files_names_the_export_command(run: Run) -> None:
    outcome = run("models", "path", "repsvtr")
    assert outcome.code == 1
    assert "ocr-onnx export" in outcome.err
    assert outcome.err.count("\n") == 1


def test_models_verify_finds_a_corrupted_file(run: Run, tmp_path: Path) -> None:
    assert run("models", "verify").code == 0
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "ppocrv4-mobile-rec.onnx").write_bytes(b"not it")
    outcome = run("models", "verify", "--model-dir", folder)
    assert outcome.code == 1
    assert re.search(r"^corrupt +ppocrv4-mobile-rec +.*ppocrv4-mobile-rec.onnx$", outcome.out, re.MULTILINE)


def test_models_verify_deep_runs_every_step(run: Run) -> None:
    outcome = run("models", "verify", "mobile", "--deep", "--device", "cpu")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert "server" not in outcome.out
    assert all(line.startswith("ok ") for line in lines)
    assert [line.split()[1:3] for line in lines[3:6]] == [
        ["ppocrv4-mobile-det", step] for step in ("resize", "network", "decode")
    ]
    assert "against paddlepaddle 3.2.2" in lines[4]


def test_models_verify_deep_names_the_first_step_that_differs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "MIN_SIDE_PX", 1000)  # no box is long enough
    outcome = run("models", "verify", "mobile", "--deep")
    assert outcome.code == 1
    assert re.search(r"^differs +ppocrv4-mobile-det +decode +max difference inf, ", outcome.out, re.MULTILINE)
    assert re.search(r"^ok +ppocrv4-mobile-rec +decode ", outcome.out, re.MULTILINE)
    last = outcome.out.splitlines()[-1]
    assert last.startswith("first difference: ppocrv4-mobile-det at decode, by inf from paddlepaddle 3.2.2")


def test_models_verify_deep_says_where_there_are_no_golden_tensors(run: Run, tmp_path: Path) -> None:
    name = "ppocrv4-mobile-rec"
    shutil.copy(model_store.embedded_dir() / f"{name}.onnx", tmp_path)
    outcome = run("models", "verify", "mobile", "--deep", "--model-dir", tmp_path)
    assert outcome.code == 0
    assert re.search(rf"^ +{name} +no golden tensors$", outcome.out, re.MULTILINE)
    (tmp_path / f"{name}.golden.npz").write_bytes(b"damaged")
    outcome = run("models", "verify", "mobile", "--deep", "--model-dir", tmp_path)
    assert outcome.code == 1
    assert "is no intact file of golden tensors" in outcome.err
    assert "export the model again" in outcome.err


def test_models_verify_takes_a_device_with_deep_only(run: Run) -> None:
    assert run("models", "verify", "--deep", "--device", "abacus").code == 2
    outcome = run("models", "verify", "--device", "cpu")
    assert (outcome.code, outcome.err) == (2, "error: --device: is of no use without --deep; add --deep\n")


# doctor


def test_doctor_finds_this_installation_healthy(run: Run, cache: Path) -> None:
    outcome = run("doctor", "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 0, [check for check in report["checks"] if check["state"] == "broken"]
    assert report["healthy"] is True
    found = {(check["topic"], check["name"]): check for check in report["checks"]}
    assert found["system", "ocr-onnx"]["detail"] == version("ocr-onnx")
    assert found["package", "numpy"]["detail"] == np.__version__
    assert found["device", "cpu"]["state"] == "ok"
    assert "sha256 " in found["model", "ppocrv4-mobile-rec"]["detail"]
    assert "by affinity" in found["threads", str(threads.usable_threads())]["detail"]
    assert found["cache", str(cache)]["state"] == "ok"


def test_doctor_names_two_onnxruntimes_and_the_repair(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(runtime.wheels, "installed_wheels", lambda: wheels)
    outcome = run("doctor")
    assert outcome.code == 1
    assert re.search(r"^ok +runtime +onnxruntime-gpu +1\.31\.0$", outcome.out, re.MULTILINE)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in outcome.out
    assert re.search(r"^broken +device +cpu", outcome.out, re.MULTILINE)


def test_doctor_says_what_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_options: ModelOptions) -> None:
        raise ModelMissingError("rec.onnx", "is gone", "install again")

    monkeypatch.setattr(model_store, "resolve", missing)
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda _: ["no-such-package>=1", "pytest; extra == 'x'"]
    )
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-extra": "no PDF"})
    monkeypatch.setattr(threads, "cgroup_cpus", lambda: 1.5)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["rec.onnx"] == doctor.Check("model", "rec.onnx", "broken", "is gone", "install again")
    assert checks["no-such-package"].state == "broken"
    assert checks["no-such-extra"].state == "note"
    assert "cgroup quota of 1.5" in checks["1"].detail


def test_doctor_looks_at_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[str, str]:
        (check,) = doctor._cache()
        assert check.name == str(model_store.cache_dir())
        return check.state, check.detail

    assert state() == ("ok", "0.0 MB")
    cache.mkdir()
    (cache / "x.onnx").write_bytes(bytes(2_000_000))
    assert state() == ("ok", "2.0 MB")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert state()[0] == "note"
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(cache / "x.onnx" / "below"))
    assert "is not a folder" in state()[1]


@pytest.mark.parametrize(
    ("inputs", "folder"),
    [
        (["a.png"], ""),
        (["docs/a.png"], "docs"),
        (["docs/a.png", "docs/x/b.png"], "docs"),
        (["docs/**/*.png"], "docs"),
        (["docs/a.png", "b.png"], ""),
        (["docs/a.png", "-", "https://example.org/c.png"], "docs"),
        (["docs/a.png", "/else/b.png"], None),
        (["-"], None),
    ],
)
def test_saved_files_lie_below_the_common_folder(inputs: list[str], folder: str | None) -> None:
    assert run._common_folder(inputs) == folder


# bench


def test_bench_without_its_extra_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else name)
    outcome = run("bench", "soak", "--pages", "1")
    assert outcome.code == 1
    assert outcome.err == "error: matplotlib: is not installed; install 'ocr-onnx[bench]'\n"
