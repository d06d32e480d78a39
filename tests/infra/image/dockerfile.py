"""Reads a Dockerfile, and carries its steps out in folders instead of containers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOTS = ("/src", "/build", "/wheels", "/opt/tidegate")
"""Where the steps put things. Arguments that begin with one of these are paths in the container."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, its flags (`--from=build`), and the rest as it stands."""

    word: str
    flags: dict[str, str]
    text: str

    @property
    def arguments(self) -> list[str]:
        """The exec form, or words."""
        return json.loads(self.text) if self.text.startswith("[") else self.text.split()

    @property
    def is_exec(self) -> bool:
        """Whether no shell is needed."""
        return self.text.startswith("[")


def parse(path: Path) -> list[Instruction]:
    """All instructions, in order. Raises: ValueError for a line that is none."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        matched = re.fullmatch(r"([A-Z]+)\s+(.*)", line)
        if matched is None:
            raise ValueError(f"not an instruction: {line}")
        rest, flags = matched[2], {}
        while flag := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags[flag[1]] = flag[2]
            rest = rest[flag.end() :]
        found.append(Instruction(matched[1], flags, rest))
    return found


def stages(instructions: list[Instruction]) -> list[list[Instruction]]:
    """The instructions of each stage, its FROM first; what stands before the first FROM is left out."""
    found: list[list[Instruction]] = []
    for instruction in instructions:
        if instruction.word == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def variables(instruction: Instruction) -> dict[str, str]:
    """What ENV or LABEL sets."""
    return {name: value.strip('"') for name, value in re.findall(r'([\w.]+)=("[^"]*"|\S+)', instruction.text)}


class Ignored:
    """What .dockerignore keeps out, as far as this repository's own patterns go: the last match decides."""

    def __init__(self, path: Path) -> None:
        lines = [line.strip() for line in path.read_text().splitlines()]
        self._rules = [line for line in lines if line and not line.startswith("#")]

    def __call__(self, name: str) -> bool:
        ignored = False
        for rule in self._rules:
            pattern = rule.removeprefix("!")
            if _matches(pattern, name):
                ignored = not rule.startswith("!")
        return ignored


def _matches(pattern: str, name: str) -> bool:
    parts = PurePosixPath(name).parts
    # A pattern that fits a folder fits all that is in it.
    candidates = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    expression = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return any(re.fullmatch(expression, candidate) for candidate in candidates)


@dataclass
class Stage:
    """One stage being carried out. `root` stands for its file system, and `python` for the base image's."""

    root: Path
    context: Path
    python: Path = Path(sys.executable)
    others: dict[str, Stage] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    commands: list[list[str]] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """A path in the container, here."""
        return self.root / str(PurePosixPath(self.workdir, name)).lstrip("/")

    def argument(self, text: str) -> str:
        """An argument of a command, with container paths replaced."""
        return str(self.path(text)) if text.startswith(ROOTS) else text

    def carry_out(self, instruction: Instruction, environment: dict[str, str]) -> None:
        """COPY, RUN, ENV, WORKDIR and USER; the others say nothing about files.

        Parameters: `environment`, what commands get beside the stage's own variables.
        """
        match instruction.word:
            case "ENV":
                self.environment |= variables(instruction)
            case "WORKDIR":
                self.workdir = instruction.text
                self.path(".").mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = instruction.text
            case "COPY":
                self._copy(*instruction.arguments)
            case "RUN" if instruction.is_exec:
                self._run(instruction, environment)

    def _copy(self, *names: str) -> None:
        *sources, target = names
        ignored = Ignored(self.context / ".dockerignore")
        for name in sources:
            source = self.context / name
            files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
            for file in files:
                relative = file.relative_to(self.context).as_posix()
                if ignored(relative):
                    assert file != source, f".dockerignore keeps out {name}, which is copied"
                    continue
                inside = file.name if file == source else file.relative_to(source).as_posix()
                whole = source.is_file() and not target.endswith("/") and len(sources) == 1
                place = self.path(target) if whole else self.path(target) / inside
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)

    def _run(self, instruction: Instruction, environment: dict[str, str]) -> None:
        command = [self.argument(part) for part in instruction.arguments]
        if command[0] == "python":
            command[0] = str(self.python)
        self.commands.append(command)
        mounted = self._mount(instruction.flags.get("mount"))
        try:
            done = subprocess.run(
                command,
                cwd=self.path("."),
                env=environment | self.environment,
                capture_output=True,
                text=True,
                timeout=900,
            )
        finally:
            if mounted:
                mounted.unlink()
        assert done.returncode == 0, f"{instruction.text}\n{done.stdout}\n{done.stderr}"

    def _mount(self, text: str | None) -> Path | None:
        if text is None:
            return None
        options = dict(option.split("=", 1) for option in text.split(","))
        assert options["type"] == "bind"
        place = self.path(options["target"])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(self.others[options["from"]].path(options["source"]))
        return place
