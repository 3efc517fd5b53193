"""The files in deploy/ against the checkout: what images are made of, and how they are started."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ocr_onnx.cli.serve import serve_pages
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
    told = re.findall(r"--extra (\w+)", " ".join(values["RUN"]))
    assert told == ["pdf", "serve"]
    assert {extra, *told} <= set(project["project"]["optional-dependencies"])
    assert values["EXPOSE"] == ["8080"]


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


def manifests(kind: str) -> list[dict[str, Any]]:
    """Return what Kubernetes gets of a kind, from both files."""
    files = (DEPLOY / name for name in ("kubernetes.yaml", "kubernetes-serve.yaml"))
    return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one["kind"] == kind]


def pods(kind: str) -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in manifests(kind)]


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return found


def unit() -> dict[str, str]:
    """Return the settings of the systemd unit, none of which is given twice."""
    lines = (DEPLOY / "ocr-onnx.service").read_text().splitlines()
    pairs = [line.partition("=")[::2] for line in lines if "=" in line and not line.startswith("#")]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def commands() -> list[list[str]]:
    """Return every command line of the examples that `ocr-onnx` gets."""
    containers = [one for kind in ("Job", "Deployment") for pod in pods(kind) for one in pod["containers"]]
    started = [*(service["command"] for service in services().values()), *(one["args"] for one in containers)]
    return [*started, unit()["ExecStart"].split()[1:]]


def test_the_examples_give_options_that_exist(run: Run) -> None:
    told = {name: run(name, "--help").out for name in ("run", "serve")}
    for command in commands():
        assert all(option in told[command[0]] for option in command if option.startswith("--")), command
    assert [command[0] for command in commands()].count("serve") == 5


def serve_default(name: str) -> Any:
    return inspect.signature(serve_pages).parameters[name].default


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_who_stops_a_server_waits_for_what_it_accepted() -> None:
    grace = [seconds(one["stop_grace_period"]) for one in services().values() if one["command"][0] == "serve"]
    grace.append(seconds(unit()["TimeoutStopSec"]))
    for pod in pods("Deployment"):
        pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1]
        grace.append(pod["terminationGracePeriodSeconds"] - seconds(pause))
    assert len(grace) == 5
    assert min(grace) > serve_default("shutdown_timeout")


def test_a_server_comes_back_asks_for_keys_and_is_asked_itself() -> None:
    served = [one for one in services().values() if one["command"][0] == "serve"]
    assert len(served) == 2
    for service in served:
        assert service["restart"] == "unless-stopped"
        assert service["read_only"] is True
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["healthcheck"]["test"] == ["CMD", "sh", "/usr/local/bin/ocr-onnx-health"]
        assert f"/run/secrets/{service['secrets'][0]}" in service["command"]
    assert unit()["Restart"] == "always"
    for pod in pods("Deployment"):
        [container] = pod["containers"]
        paths = [
            container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
        ]
        assert paths == ["/readyz", "/readyz", "/healthz"]
        assert "--api-key-file" in container["args"]


def test_every_deployment_has_its_service() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in manifests("Deployment")]
    assert len(labels) == 2
    assert [one["spec"]["selector"] for one in manifests("Service")] == labels
    assert [one["spec"]["selector"]["matchLabels"] for one in manifests("Deployment")] == labels


def test_the_proxy_bounds_what_the_service_bounds_and_is_as_the_readme_has_it() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    told = dict(re.findall(r"^ *(\w+) ([^;]+);", text, re.MULTILINE))
    assert int(told["client_max_body_size"].removesuffix("m")) * 2**20 == serve_default("max_body_bytes")
    assert seconds(told["proxy_read_timeout"]) > serve_default("request_timeout")
    [refused] = re.findall(r"return 413 '(.*)';", text)
    assert {"errorCode", "errorMsg", "error"} == set(json.loads(refused))
    readme = (ROOT / "README.md").read_text()
    [shown] = re.findall(r"For nginx[^\n]*\n\n```\n(.*?)```", readme, re.DOTALL)
    assert {line.strip() for line in shown.splitlines()} <= {line.strip() for line in text.splitlines()}


def test_the_jobs_look_before_they_begin() -> None:
    assert len(pods("Job")) == 2
    for pod in pods("Job"):
        assert pod["initContainers"][0]["command"] == pod["containers"][0]["livenessProbe"]["exec"]["command"]


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_pods_are_bounded_and_locked(kind: str) -> None:
    for pod in pods(kind):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            locked = container["securityContext"]
            assert locked["readOnlyRootFilesystem"] is True
            assert locked["capabilities"] == {"drop": ["ALL"]}
            on_gpu = container["image"].endswith("gpu")
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) is on_gpu
            assert ("cuda" in container.get("args", ["cuda"] * on_gpu)) is on_gpu


def health(tmp_path: Path, process: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the health check in a container whose first process has this command line."""
    (tmp_path / "cmdline").write_text("\0".join([*process.split(), ""]))
    command = ["sh", str(DEPLOY / "health.sh"), str(tmp_path / "cmdline")]
    whole = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OCR_ONNX_HEALTH_DEVICE": "cuda", **env}
    return subprocess.run(command, env=whole, capture_output=True, text=True, check=False)


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
    reads(tmp_path, reader)
    done = health(tmp_path, "ocr-onnx run serve", {})
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def reads(tmp_path: Path, reader: str) -> None:
    command = tmp_path / "ocr-onnx"
    command.write_text(f"#!/bin/sh\n{reader}\n")
    command.chmod(0o755)


class Answering(BaseHTTPRequestHandler):
    """Says whether it is ready, by its server's `status`."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.mark.skipif(os.name == "nt", reason="runs in the image, which is Linux")
@pytest.mark.parametrize(("status", "code", "said"), [(200, 0, "/readyz"), (503, 1, "503")])
def test_what_serves_is_asked_itself(tmp_path: Path, status: int, code: int, said: str) -> None:
    reads(tmp_path, "echo BOARDING PASS")  # a second engine would be well
    server = HTTPServer(("127.0.0.1", 0), Answering)
    server.status = status  # type: ignore[attr-defined]
    threading.Thread(target=server.handle_request).start()
    env = {
        "OCR_ONNX_HEALTH_URL": f"http://127.0.0.1:{server.server_port}/readyz",
        "http_proxy": "http://127.0.0.1:9",
    }
    done = health(tmp_path, "ocr-onnx serve --port 1", env)
    server.server_close()
    assert done.returncode == code
    assert said in done.stdout + done.stderr


@pytest.mark.skipif(os.name == "nt", reason="runs in the image, which is Linux")
@pytest.mark.parametrize(
    "process",
    ["/opt/ocr-onnx/bin/python3 /opt/ocr-onnx/bin/ocr-onnx serve", "docker-init -- ocr-onnx serve --host ::"],
)
def test_a_server_is_known_by_the_first_process(tmp_path: Path, process: str) -> None:
    reads(tmp_path, "echo a second engine was opened")
    (tmp_path / "python3").write_text('#!/bin/sh\necho "asked $4"\n')
    (tmp_path / "python3").chmod(0o755)
    done = health(tmp_path, process, {})
    assert done.stdout == "asked http://127.0.0.1:8080/readyz\n"
