"""A Dockerfile's steps, run as they stand without a container engine: a stage is a folder, RUN a chroot.

    python deploy/rehearse.py deploy/Dockerfile.cpu --root ROOT --into DIR

ROOT is an unpacked system that stands for the base image (`debootstrap --variant=minbase trixie ROOT`).
Needs root. Understands what these Dockerfiles use and refuses what it does not know. At the end the health
check and CMD run as the image's user. `--file HOST=INSIDE` and `--env NAME=VALUE` lend the steps what a
machine's network needs, such as certificates.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(slots=True)
class Stage:
    """A folder that is becoming an image, and what its later steps see."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    health: list[str] = field(default_factory=list)
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield (INSTRUCTION, rest) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    for line in joined.splitlines():
        name, _, rest = line.strip().partition(" ")
        yield name.upper(), rest.strip()


def ignored(path: str, rules: Sequence[str]) -> bool:
    """Tell whether .dockerignore keeps a file of the checkout out of the build."""
    out = False
    for rule in rules:
        keep, pattern = rule.startswith("!"), rule.removeprefix("!")
        parts = [part.as_posix() for part in (Path(path), *Path(path).parents)]
        if any(fnmatch(part, pattern) or fnmatch(f"/{part}", f"/{pattern}") for part in parts if part != "."):
            out = not keep
    return out


def filled(text: str, values: dict[str, str]) -> str:
    """Replace $NAME and ${NAME} by what was set; an unknown one is empty, as for Docker."""
    return VARIABLE.sub(lambda found: values.get(found[1] or found[2], ""), text)


def rehearse(
    dockerfile: Path, system: Path, into: Path, given: dict[str, str], lent: dict[str, str]
) -> Stage:
    """Run every step; return the last stage."""
    rules = [line for line in Path(".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    first: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for name, rest in instructions(dockerfile.read_text()):
        print(f"-- {name} {rest[:160]}", flush=True)
        if name == "FROM":
            words = filled(rest, first).split()
            alias = words[2] if len(words) == 3 and words[1].upper() == "AS" else f"stage {len(stages)}"
            stage = stages[alias] = Stage(into / alias.replace(" ", "-"))
            subprocess.run(["cp", "-a", "--reflink=auto", str(system), str(stage.root)], check=True)
        elif name == "ARG":
            key, _, default = rest.partition("=")
            target = first if stage is None else stage.args
            target[key] = given.get(key, "".join(shlex.split(default)))
        elif stage is None:
            raise SystemExit(f"{name} before FROM")
        else:
            step(stage, stages, name, rest, rules, lent)
    if stage is None:
        raise SystemExit("has no FROM")
    return stage


def step(
    stage: Stage, stages: dict[str, Stage], name: str, rest: str, rules: Sequence[str], lent: dict[str, str]
) -> None:
    """Run one step of a stage."""
    values = {**stage.args, **stage.env}
    if name == "ENV":
        stage.env |= {
            key: filled(value, values) for key, _, value in (one.partition("=") for one in shlex.split(rest))
        }
    elif name == "RUN":
        inside(stage, ["/bin/sh", "-c", rest], lent, {**stage.args})
    elif name == "WORKDIR":
        stage.folder = rest
        (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif name == "COPY":
        copy(stage, stages, shlex.split(rest), rules)
    elif name == "USER":
        stage.user = rest
    elif name == "HEALTHCHECK":
        stage.health = json.loads(rest[rest.index("CMD") + 3 :])
    elif name == "ENTRYPOINT":
        stage.entry = json.loads(rest)
    elif name == "CMD":
        stage.command = json.loads(rest)
    elif name not in ("VOLUME", "EXPOSE"):
        raise SystemExit(f"does not know {name}")


def copy(stage: Stage, stages: dict[str, Stage], words: list[str], rules: Sequence[str]) -> None:
    """Copy files of the checkout that .dockerignore lets through, or folders of another stage."""
    flags = [word for word in words if word.startswith("--")]
    *sources, target = (word for word in words if not word.startswith("--"))
    there = stage.root / (target if target.startswith("/") else f"{stage.folder}/{target}").lstrip("/")
    for flag in flags:
        if not flag.startswith("--from="):
            raise SystemExit(f"does not know COPY {flag}")
    for source in sources:
        if flags:
            path = stages[flags[0].removeprefix("--from=")].root / source.lstrip("/")
            shutil.copytree(path, there, symlinks=True, dirs_exist_ok=True)
            continue
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "--", source],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        kept = [file for file in listed if not ignored(file, rules)]
        if not kept:
            raise SystemExit(f"COPY {source}: nothing that .dockerignore lets through")
        for file in kept:
            into_folder = target.endswith("/")
            relative = Path(file).name if Path(source).is_file() else str(Path(file).relative_to(source))
            goal = there / relative if into_folder or Path(source).is_dir() else there
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, goal)


def inside(stage: Stage, command: Sequence[str], lent: dict[str, str], extra: dict[str, str]) -> int:
    """Run a command in a stage as its user; return its exit code, or end where a build step fails."""
    path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    env = {**path, **lent, **extra, **stage.env}
    shell = f'cd "{stage.folder}" && exec "$@"'
    whole = ["unshare", "--pid", "--fork", f"--mount-proc={stage.root}/proc"]
    whole += ["chroot", f"--userspec={stage.user}", str(stage.root), "/usr/bin/env", "-i"]
    whole += [f"{key}={value}" for key, value in env.items()]
    done = subprocess.run([*whole, "/bin/sh", "-c", shell, "sh", *command], check=False)
    if stage.user == "0:0" and done.returncode:
        raise SystemExit(f"RUN ended with {done.returncode}")
    return done.returncode


def main() -> int:
    """Rehearse, then run the health check and CMD; return 0 where both do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--file", action="append", default=[])
    given = parser.parse_args()
    system = given.into / "base"
    given.into.mkdir(parents=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(given.root), str(system)], check=True)
    for host, place in (("/etc/resolv.conf", "etc/resolv.conf"), *(one.split("=") for one in given.file)):
        goal = system / place.lstrip("/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.unlink(missing_ok=True)
        shutil.copy2(host, goal)
    arguments = dict(one.split("=", 1) for one in given.build_arg)
    lent = dict(one.split("=", 1) for one in given.env)
    image = rehearse(given.dockerfile, system, given.into, arguments, lent)
    if image.user.split(":")[0] in ("0", "root", ""):
        raise SystemExit("would run as root")
    health = inside(image, image.health, {}, {})
    command = inside(image, [*image.entry, *image.command], {}, {})
    print(f"health check: {health}, {' '.join(image.entry + image.command)}: {command}")
    return int(bool(health or command))


if __name__ == "__main__":
    sys.exit(main())
