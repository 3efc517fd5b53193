"""`ocr-onnx bench`: figures measured on this machine, each with a record of what it rests on."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ocr_onnx.cli.options import (
    ApiKeyFile,
    Assignments,
    ConfigFile,
    Device,
    ModelFolder,
    ModelSet,
    Quiet,
    Threads,
    read_key,
)
from ocr_onnx.console import say
from ocr_onnx.errors import DependencyError, InputError, OptionError
from ocr_onnx.options import ModelOptions

bench_app = typer.Typer(
    help="Measure speed, accuracy and memory, and write a record of every run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RecordName = Annotated[
    str | None,
    typer.Option("--record", metavar="NAME", help="Name of the record. [default: after what is measured]"),
]
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="Folder of the records, NAME.json each.")
]
LabelledSet = Annotated[
    Path, typer.Option(metavar="PATH", help="Folder of a labelled set, or its label file.")
]
LimitImages = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Only the first N images. [default: all]")
]
RESULTS = Path("benchmarks/results")


@bench_app.callback()
def need_extra(context: typer.Context) -> None:
    """Measure speed, accuracy and memory, and write a record of every run."""
    if context.invoked_subcommand == "gpu":
        return  # runs where there is a GPU, and little else
    for package in ("shapely", "matplotlib", "onnx"):
        if importlib.util.find_spec(package) is None:
            raise DependencyError(package, "is not installed", "install 'ocr-onnx[bench]'")


@bench_app.command()
def soak(
    pages: Annotated[int, typer.Option(min=1, help="Drawn pages of random sizes to read.")] = 2000,
    settled_pages: Annotated[
        int, typer.Option(min=1, help="Memory is compared with that after this page.")
    ] = 200,
    sample_pages: Annotated[int, typer.Option(min=1, help="Pages between two samples.")] = 20,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Pages worked on at a time.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the drawn pages.")] = 1,
    record: RecordName = None,
    results: Results = RESULTS,
) -> None:
    """Read thousands of pages and watch the resident memory."""
    from ocr_onnx_bench import soak
    from ocr_onnx_bench.record import path_of

    path = path_of(record or "soak-mobile-cpu", results)
    found = soak.make_record(
        pages, settled_pages=settled_pages, sample_pages=sample_pages, workers=workers, seed=seed
    )
    _finish(found, soak.summary(found), path)


@bench_app.command()
def latency(
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="Profile of the cases file: default, xeon-8t or t4.")
    ] = "default",
    names: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="Only this model, by its publisher's name. Repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="Instead of the profile's.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Instead of the profile's; 0 for all.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, metavar="N", help="Least runs of a case.")] = 30,
    seconds: Annotated[float, typer.Option(min=0, metavar="S", help="Least time of a case.")] = 3.0,
    graphs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Official graphs (DIR/graphs/NAME/inference.json) of models whose weights are not here; "
            "they get random ones. [default: what OCR_ONNX_PADDLE_MODELS names]",
        ),
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Cases file. [default: benchmarks/cases.toml]")
    ] = None,
    model_dir: ModelFolder = None,
    record: RecordName = None,
    results: Results = RESULTS,
    quiet: Quiet = False,
) -> None:
    """Time networks and whole pages, every case in a process of its own and in turns."""
    from dataclasses import replace

    from ocr_onnx_bench import cases as matrix
    from ocr_onnx_bench import latency, models
    from ocr_onnx_bench.record import path_of

    path = path_of(record or f"latency-{profile}", results)
    other = device is not None or threads is not None  # than the setting of the published figures
    chosen = [
        replace(
            case,
            device=device or case.device,
            threads=case.threads if threads is None else threads,
            reference=None if other else case.reference,
        )
        for case in latency.matching(matrix.read(cases or matrix.default_file(), profile), names or ())
    ]
    found = latency.make_record(
        profile,
        tuple(dict.fromkeys(chosen)),
        options=ModelOptions(folder=model_dir or ""),
        graphs=models.graphs_folder(graphs),
        effort=latency.Effort(repetitions, seconds),
        progress=None if quiet else lambda message: say("measuring", message),
    )
    _finish(found, latency.summary(found), path)
    if not found.cases:
        raise InputError(f"profile {profile}", "has no case that runs here", "see what was left out, and why")


@bench_app.command()
def rewrites(
    stock: Annotated[
        Path, typer.Argument(metavar="STOCK", help="Folder that `ocr-onnx export --stock` wrote.")
    ],
    rewritten: Annotated[
        Path, typer.Argument(metavar="REWRITTEN", help="Folder that `ocr-onnx export` wrote.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="Only this file, without .onnx. Repeatable."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times each is run, in turns.")] = 30,
    threads: Annotated[int, typer.Option(min=0, metavar="N", help="Threads of one run; 0 for all.")] = 0,
    record: RecordName = None,
    results: Results = RESULTS,
) -> None:
    """Time rewritten models against stock ones, in turns."""
    from ocr_onnx_bench import rewrites
    from ocr_onnx_bench.record import path_of

    path = path_of(record or "rewrites-cpu", results)
    found = rewrites.make_record(stock, rewritten, models or (), rounds=rounds, threads=threads)
    _finish(found, rewrites.summary(found), path)


@bench_app.command()
def accuracy(
    data: LabelledSet,
    stages: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Find regions, read the true ones, do both to whole pages."),
    ] = "det,rec,e2e",
    limit_images: LimitImages = None,
    model_set: ModelSet = None,
    device: Device = None,
    threads: Threads = None,
    model_dir: ModelFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    record: RecordName = None,
    results: Results = RESULTS,
) -> None:
    """Measure how well the text of a labelled set is found and read.

    Sets are PP-OCR label files, ICDAR and SROIE folders, XFUND's JSON, and lists of line pictures.
    Nothing is downloaded: get the models of another set with `ocr-onnx models pull` first.
    """
    from ocr_onnx.config import load
    from ocr_onnx_bench import accuracy
    from ocr_onnx_bench.record import path_of

    if record is not None:
        path_of(record, results)  # a bad name is told before minutes of work
    chosen = accuracy.parse_stages(stages)
    flags: dict[str, object] = {
        "models.name": model_set,
        "models.folder": model_dir,
        "runtime.device": device,
        "runtime.threads": threads,
    }
    effective = load(config, assignments or (), flags)
    found = accuracy.make_record(data, effective, stages=chosen, limit_images=limit_images)
    path = path_of(record or accuracy.default_name(found), results)
    _finish(found, accuracy.summary(found), path)


@bench_app.command()
def sides(
    data: LabelledSet,
    lengths: Annotated[
        str,
        typer.Option("--sides", metavar="A,B,...", help="Long sides in px that pages are shrunk to."),
    ] = "640,960,1280,1600,1920,2560",
    stages: Annotated[
        str, typer.Option(metavar="A,B", help="det finds regions; e2e also reads whole pages.")
    ] = "det,e2e",
    limit_images: LimitImages = None,
    model_set: ModelSet = None,
    device: Device = None,
    threads: Threads = None,
    model_dir: ModelFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    record: RecordName = None,
    results: Results = RESULTS,
) -> None:
    """Measure accuracy and time of a labelled set at several working sizes, and at "auto".

    Sets are those of `bench accuracy`, without line pictures. Nothing is downloaded.
    """
    from ocr_onnx.config import load
    from ocr_onnx_bench import sides
    from ocr_onnx_bench.record import path_of

    if record is not None:
        path_of(record, results)  # a bad name is told before minutes of work
    sides_px, read = sides.parse_sides(lengths), sides.parse_stages(stages)
    flags: dict[str, object] = {
        "models.name": model_set,
        "models.folder": model_dir,
        "runtime.device": device,
        "runtime.threads": threads,
    }
    effective = load(config, assignments or (), flags)
    found = sides.make_record(data, effective, sides_px, read=read, limit_images=limit_images)
    path = path_of(record or sides.default_name(found), results)
    _finish(found, sides.summary(found), path)


@bench_app.command()
def scaling(
    max_megapixels: Annotated[float, typer.Option(min=0.1, help="Largest page.")] = 40,
    max_lines: Annotated[int, typer.Option(min=1, help="Most lines on a page.")] = 500,
    max_pages: Annotated[int, typer.Option(min=1, help="Most pages in a run.")] = 2000,
    max_workers: Annotated[int, typer.Option(min=1, max=256, help="Most pages worked on at a time.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of every point; the median counts.")] = 5,
    record: RecordName = None,
    results: Results = RESULTS,
) -> None:
    """Find how time and memory grow with area, lines, pages and workers."""
    from ocr_onnx_bench import scaling
    from ocr_onnx_bench.record import path_of

    path = path_of(record or "scaling-cpu", results)
    axes = scaling.axes(
        max_megapixels=max_megapixels, max_lines=max_lines, max_pages=max_pages, max_workers=max_workers
    )
    found = scaling.make_record(axes, repeats=repeats)
    _finish(found, scaling.summary(found), path)


@bench_app.command()
def gpu(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Record to write, after every part.")],
    device: Annotated[
        str,
        typer.Option(metavar="DEVICE", help="cuda[:i] or tensorrt[:i]; cpu for a dry run of the same code."),
    ] = "cuda",
    quick: Annotated[
        bool, typer.Option("--quick", help="Few shapes and pages: proves that it runs, measures little.")
    ] = False,
    parts: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Only these: parity, texts, fp16, search, stalls, memory-bounded, memory-unbounded, "
            "reduced, workers, latency, soak. [default: all]",
            show_default=False,
        ),
    ] = "",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what FILE has of the same run; run what is missing or failed."),
    ] = False,
    soak_pages: Annotated[int, typer.Option(min=1, help="Pages of the soak.")] = 2000,
    part_seconds: Annotated[float, typer.Option(min=1, help="Seconds that one part may take.")] = 3600,
    seed: Annotated[int, typer.Option(help="Of the drawn pages and shapes.")] = 1,
    model_dir: ModelFolder = None,
    quiet: Quiet = False,
) -> None:
    """Measure everything that matters on a GPU, and write one record of it.

    A part that fails is recorded with its error, the others go on, and the exit code is then 1. On a
    CPU the record says that it is a dry run.
    """
    from ocr_onnx_bench import gpu
    from ocr_onnx_bench.gpu_device import Plan
    from ocr_onnx_bench.gpu_record import failures, summary

    names = gpu.parse_parts(parts)
    found = gpu.measure(
        Plan(device, quick, model_dir or "", soak_pages, seed),
        names,
        out,
        resume=resume,
        part_seconds=part_seconds,
        say=None if quiet else lambda message: say("measuring", message),
    )
    typer.echo(summary(found))
    typer.echo(f"record: {out}")
    failed = failures(found.parts)
    if failed:
        say("failed", ", ".join(failed))
        raise typer.Exit(1)


@bench_app.command()
def report(
    results: Results = RESULTS,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for REPORT.md and plots/.", file_okay=False)
    ] = Path("benchmarks"),
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Only check that each figure in FILE stands in the record it names."
        ),
    ] = None,
) -> None:
    """Make tables and plots of all records, or check a page's figures against them."""
    from ocr_onnx_bench import figures, records, report

    if check is None:
        found = records.read_all(results)
        for reason in found.left_out:
            say("left out", reason)
        for file in report.write(found, out):
            typer.echo(file)
        return
    problems = figures.unbacked(check, results)
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(1 if problems else 0)


@bench_app.command()
def peers(
    data: Annotated[
        Path, typer.Option(metavar="DIR|FILE", help="Labelled set, folder of pictures, or one picture.")
    ],
    engines: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Engines to compare; ours with other options as ocr-onnx@det.limit_side_px=1600@... "
            "[default: all]",
            show_default=False,
        ),
    ] = "",
    baseline: Annotated[
        str, typer.Option(metavar="ENGINE", help="Engine whose needs are set against the others'.")
    ] = "ocr-onnx",
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of every engine that are counted.")] = 5,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of every engine; 0 for all this process may use.")
    ] = 0,
    limit_images: Annotated[int | None, typer.Option(min=1, help="Only the first N pages.")] = None,
    throughput: Annotated[
        bool,
        typer.Option(
            "--throughput", help="Pages per second over a list of pages, by processes, threads and workers."
        ),
    ] = False,
    pages_per_pass: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Pages of a pass for --throughput; 0: the set, 20 or more."),
    ] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that an engine has for one page.")] = 300,
    envs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the engines' environments here, and use those that are. [default: none]"
        ),
    ] = None,
    det_model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Stock ONNX file for peers. [default: from RapidOCR's wheel]"),
    ] = None,
    rec_model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Stock ONNX file for peers. [default: from RapidOCR's wheel]"),
    ] = None,
    paddle_models: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="OCR_ONNX_PADDLE_MODELS",
            help="Folder of Paddle models for PaddleOCR. [default: it fetches them itself]",
        ),
    ] = None,
    record: RecordName = None,
    results: Results = RESULTS,
) -> None:
    """Install other OCR engines, let all read the same pages in turns, and set them side by side."""
    from ocr_onnx_bench import peer_figures, peers
    from ocr_onnx_bench import throughput as layouts
    from ocr_onnx_bench.peer_running import Plan
    from ocr_onnx_bench.record import path_of

    if record is not None:
        path_of(record, results)  # a bad name is to be told before minutes of work
    plan = Plan(
        engines=tuple(name.strip() for name in engines.split(",")) if engines else (),
        baseline=baseline,
        repetitions=repetitions,
        threads=threads,
        limit_images=limit_images,
        timeout_s=timeout,
        envs=envs,
        det_model=det_model,
        rec_model=rec_model,
        paddle_models=paddle_models,
    )
    if throughput:
        measured = layouts.make_record(data, plan, pages_per_pass, lambda step: say("peers", step))
        path = path_of(record or layouts.default_name(measured), results)
        _finish(measured, layouts.summary(measured), path)
        return
    if pages_per_pass:
        raise OptionError("--pages-per-pass", "is of use with --throughput only", "give both, or neither")
    found = peers.make_record(data, plan, lambda step: say("peers", step))
    path = path_of(record or peer_figures.default_name(found), results)
    _finish(found, peer_figures.summary(found), path)


@bench_app.command()
def load(
    url: Annotated[str, typer.Option(metavar="URL", help="Address of the ocr-onnx server.")],
    data: Annotated[Path, typer.Option(metavar="DIR|FILE", help="Pictures and PDFs to send, mixed.")],
    clients: Annotated[
        str, typer.Option(metavar="A,B,...", help="Numbers of clients, one step for each.")
    ] = "4,8,16,32",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a step.")] = 600,
    server_pid: Annotated[
        int | None, typer.Option(metavar="PID", min=1, help="Watch this process's memory. Linux only.")
    ] = None,
    sample_seconds: Annotated[float, typer.Option(min=0.01, help="Time between two samples of it.")] = 5,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a client waits for a page.")] = 300,
    engine_seconds: Annotated[
        float, typer.Option(min=0.1, help="At least so long an engine reads without HTTP, between steps.")
    ] = 60,
    api_key_file: ApiKeyFile = None,
    model_set: ModelSet = None,
    model_dir: ModelFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    record: RecordName = None,
    results: Results = RESULTS,
    quiet: Quiet = False,
) -> None:
    """Load a server with many clients, and compare its results with an engine's.

    The engine reads every file once before, and between the steps for its speed without HTTP; models
    and options are to be those of the server. The exit code is 1 where a request failed otherwise than
    with 503, or a page was read otherwise.
    """
    from ocr_onnx.config import load as load_config
    from ocr_onnx_bench import load
    from ocr_onnx_bench.record import path_of

    if record is not None:
        path_of(record, results)  # a bad name is told before minutes of work
    flags: dict[str, object] = {"models.name": model_set, "models.folder": model_dir}
    effective = load_config(config, assignments or (), flags)
    plan = load.Plan(
        url=url,
        clients=load.parse_clients(clients),
        seconds=seconds,
        api_key="" if api_key_file is None else read_key(api_key_file),
        server_pid=server_pid,
        sample_seconds=sample_seconds,
        timeout_s=timeout,
        engine_seconds=engine_seconds,
    )
    say_step = (lambda _: None) if quiet else (lambda step: say("load", step))
    found = load.make_record(data, plan, effective, say_step)
    _finish(found, load.summary(found), path_of(record or load.default_name(found), results))
    if any(step.errors or step.other for step in found.steps):
        raise typer.Exit(1)


def _finish(found: object, summary: str, path: Path) -> None:
    """Print what was found for people, and write its record (a dataclass)."""
    from ocr_onnx_bench.record import write

    typer.echo(summary)
    write(path, found)
    typer.echo(f"record: {path}")
