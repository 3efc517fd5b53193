"""The files in deploy/ against the checkout: what images are made of, and how they are started."""

import importlib.util
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Run

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")


def rehearsal() -> Any:
    """Import the script that runs a Dockerfile's steps: it must read them as these tests do."""
    spec = importlib.util.spec_from_file_location("rehearsal", DEPLOY / "rehearse.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REHEARSAL = rehearsal()
RULES = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]


def steps(name: str) -> list[tuple[str, str]]:
    return list(REHEARSAL.instructions((DEPLOY / name).read_text()))


def files_of(source: str) -> list[str]:
    """Return a file of the checkout, or all files of a folder, without what Python leaves there."""
    found = [ROOT / source, *(ROOT / source).rglob("*")]
    kept = (path for path in found if path.is_file() and "__pycache__" not in path.parts)
    return [path.relative_to(ROOT).as_posix() for path in kept]


def let_through(source: str) -> list[str]:
    return [file for file in files_of(source) if not REHEARSAL.ignored(file, RULES)]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_pinned_runs_as_nobody_and_is_checked(name: str) -> None:
    found = steps(name)
    values: dict[str, list[str]] = {}
    for instruction, rest in found:
        values.setdefault(instruction, []).append(rest)
    [base] = [rest for rest in values["ARG"] if rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", base)
    assert all(rest.split()[0] == "${BASE}" for rest in values["FROM"])
    assert any(re.fullmatch(r"UV_VERSION=\d+\.\d+\.\d+", rest) for rest in values["ARG"])
    assert "--frozen" in " ".join(values["RUN"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values["USER"][-1])
    order = [instruction for instruction, _ in found]
    assert order.index("USER") < order.index("HEALTHCHECK") < order.index("ENTRYPOINT")
    assert json.loads(values["ENTRYPOINT"][0]) == ["ocr-onnx"]
    assert json.loads(values["CMD"][0]) == ["doctor"]
    [extra] = [rest.removeprefix("EXTRA=") for rest in values["ARG"] if rest.startswith("EXTRA=")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {extra, "pdf"} <= set(project["project"]["optional-dependencies"])


def test_the_two_images_differ_where_they_say() -> None:
    cpu, gpu = (steps(name) for name in DOCKERFILES)
    differing = [(one, other) for one, other in zip(cpu, gpu, strict=True) if one != other]
    assert [one[1].split("=")[0] for one, _ in differing] == ["BASE", "EXTRA", "PATH"]
    assert differing[2][0][1].replace("DEVICE=cpu", "DEVICE=cuda") == differing[2][1][1]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_build_gets_all_that_the_wheel_is_made_of(name: str) -> None:
    copied = [rest.split() for step, rest in steps(name) if step == "COPY" and "--from" not in rest]
    sources = [source for *files, _ in copied for source in files]
    for source in sources:
        assert let_through(source), source
    given = {file for source in sources for file in let_through(source)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], "pyproject.toml", "uv.lock"]
    needed += [project["project"]["readme"], *project["project"]["license-files"]]
    assert {file for source in needed for file in files_of(source)} <= given


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("ocr_onnx/engine.py", False),
        ("ocr_onnx/__pycache__/engine.pyc", True),
        ("tests/data/boarding-pass.png", False),
        ("tests/conftest.py", True),
        ("benchmarks/results/soak-mobile-cpu.json", True),
        (".git/config", True),
    ],
)
def test_only_what_is_needed_reaches_the_build(path: str, out: bool) -> None:
    assert REHEARSAL.ignored(path, RULES) is out


def commands() -> list[list[str]]:
    """Return every command line of the examples that `ocr-onnx` gets."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    jobs = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    containers = [
        one for job in jobs if job["kind"] == "Job" for one in job["spec"]["template"]["spec"]["containers"]
    ]
    return [*(service["command"] for service in services), *(one["args"] for one in containers)]


def test_the_examples_give_options_that_exist(run: Run) -> None:
    told = run("run", "--help").out
    for command in commands():
        assert command[0] == "run"
        assert all(option in told for option in command if option.startswith("--")), command


def test_the_jobs_are_bounded_locked_and_look_before_they_begin() -> None:
    jobs = [
        one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()) if one["kind"] == "Job"
    ]
    assert len(jobs) == 2
    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["initContainers"], *pod["containers"]):
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) is container["image"].endswith(
                "gpu"
            )
        assert pod["initContainers"][0]["command"] == pod["containers"][0]["livenessProbe"]["exec"]["command"]


@pytest.mark.skipif(os.name == "nt", reason="runs in the image, which is Linux")
@pytest.mark.parametrize(
    ("reader", "code", "said"),
    [
        ("echo BOARDING PASS", 0, "read a page on cuda"),
        ("echo nothing", 1, "was not read right on cuda: nothing"),
        ("echo 'error: no driver' >&2; exit 1", 1, "no driver"),
    ],
)
def test_the_health_check_is_what_reading_says(tmp_path: Path, reader: str, code: int, said: str) -> None:
    command = tmp_path / "ocr-onnx"
    command.write_text(f"#!/bin/sh\n{reader}\n")
    command.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OCR_ONNX_HEALTH_DEVICE": "cuda"}
    done = subprocess.run(
        ["sh", str(DEPLOY / "health.sh")], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
