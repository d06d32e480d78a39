"""Build the layer: dist/tidegate-layer-py313-arm64.zip, from PyPI's wheels for Lambda's platform.

    python lambda_layer/build_layer.py --arch arm64 --python 3.13
    python lambda_layer/build_layer.py --all

The same inputs give the same bytes: versions and hashes are locked in requirements.txt, files are sorted, and their
times and permissions are fixed. psycopg's version is written into it, as looking it up takes a tenth of its import.
Where an interpreter of the layer's own version is on the path, bytecode is built in, which saves each cold start the
compilation of psycopg (/opt cannot be written to); it is hash-based, so it has no times either.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent

ARCHITECTURES = {"arm64": "aarch64", "x86_64": "x86_64"}
PYTHONS = ("3.12", "3.13", "3.14")
POWERTOOLS = ("aws-lambda-powertools", "jmespath")

# Lambda's Amazon Linux 2023 has glibc 2.34.
GLIBCS = ("2_34", "2_28", "2_17")

BUDGET = 15 * 1024 * 1024
"""Bytes unzipped, in AWS's megabytes, without Powertools."""

# Parts that `import tidegate` does not load and few functions do.
WITHOUT_BYTECODE = (
    "psycopg/crdb/*",
    "psycopg/types/hstore",
    "psycopg/types/shapely",
    "psycopg/_dns",
    "psycopg/pq/_debug",
    "tidegate/command",
)

# Long texts in which nothing fails; with both source and bytecode they would take a sixtieth of the budget.
BYTECODE_ONLY = ("typing_extensions.py", "psycopg/errors.py")

TIMESTAMP = (1980, 1, 1, 0, 0, 0)

COMPILE = """
import sys, compileall, os, py_compile
root = sys.argv[1]
how = dict(quiet=1, stripdir=root, prependdir="/opt/python",
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
ok = True
for path in sys.argv[2:]:
    ok &= bool(compileall.compile_file(path, legacy=True, **how))
    os.unlink(path)
sys.exit(not (ok & bool(compileall.compile_dir(root, **how))))
"""
"""Compiles its first argument, a folder, and puts bytecode in the place of its further ones, which are files."""


class BuildError(RuntimeError):
    """The layer cannot be built; the message says why and what to do."""


def platforms(arch: str) -> list[str]:
    """The wheel platforms that Lambda can load, the newest first. Parameters: `arch`, Lambda's word."""
    machine = ARCHITECTURES[arch]
    return [*(f"manylinux_{glibc}_{machine}" for glibc in GLIBCS), f"manylinux2014_{machine}"]


def requirements(python: str, *, powertools: bool) -> str:
    """The locked requirements of one variant, as pip reads them."""
    kept = []
    for requirement in (HERE / "requirements.txt").read_text(encoding="ascii").replace("\\\n", " ").splitlines():
        name = requirement.partition("==")[0]
        # psycopg needs it before 3.13, Powertools always. Not as a marker in the file: pip evaluates markers for its
        # own interpreter, not for --python-version.
        outdated = name == "typing-extensions" and version(python) >= (3, 13) and not powertools
        if name and not name.startswith("#") and not outdated and (powertools or name not in POWERTOOLS):
            kept.append(" ".join(requirement.split()))
    return "\n".join(kept) + "\n"


def version(python: str) -> tuple[int, int]:
    """(3, 13) for "3.13". Raises: BuildError."""
    major, _, minor = python.partition(".")
    if major != "3" or not minor.isdigit():
        raise BuildError(f"{python!r} is not a Python version: name one of {', '.join(PYTHONS)}")
    return 3, int(minor)


def build(arch: str, python: str, output: Path, *, powertools: bool = False) -> Path:
    """Build one layer.

    Parameters: `arch`, arm64 or x86_64; `python`, such as 3.13; `output`, a folder.
    Returns: the zip file.
    Raises: BuildError, also where it is over the budget; then nothing is left in `output`.
    """
    if arch not in ARCHITECTURES:
        raise BuildError(f"{arch!r} is not an architecture of Lambda: name one of {', '.join(ARCHITECTURES)}")
    version(python)
    variant = "-powertools" if powertools else ""
    target = output / f"tidegate-layer{variant}-py{python.replace('.', '')}-{arch}.zip"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "python"
        _install(root, arch, python, powertools=powertools)
        _add_tidegate(root)
        _write_versions(root)
        _prune(root)
        interpreter = _interpreter(python)
        if interpreter is not None:
            _compile(root, interpreter)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        bytecode = "with bytecode" if interpreter else f"without bytecode, as there is no python{python} on the path"
        _say(f"{target.name}: {size / 2**20:.2f} MB unzipped, {bytecode}")
        if size > BUDGET and not powertools:
            raise BuildError(f"{target.name} would have {size} bytes unzipped: the budget is {BUDGET}")
        output.mkdir(parents=True, exist_ok=True)
        _zip(root, target)
    return target


def _install(root: Path, arch: str, python: str, *, powertools: bool) -> None:
    locked = root.parent / "requirements.txt"
    locked.write_text(requirements(python, powertools=powertools), encoding="ascii")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-compile", "--require-hashes", "--only-binary=:all:", "--implementation", "cp"]
    command += itertools.chain.from_iterable(("--platform", platform) for platform in platforms(arch))
    command += ["--python-version", python, "--target", str(root), "--requirement", str(locked)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"pip could not install the layer's packages for {arch} and Python {python}:\n{done.stderr}")


def _add_tidegate(root: Path) -> None:
    shutil.copytree(HERE / "tidegate", root / "tidegate", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "LICENSE", root / "tidegate/LICENSE")


def _write_versions(root: Path) -> None:
    """Have psycopg know its version without `importlib.metadata`, which nothing else at a cold start needs."""
    for package in ("psycopg", "psycopg_binary"):
        [information] = root.glob(f"{package}-*.dist-info")
        found = information.name.removesuffix(".dist-info").partition("-")[2]
        source = root / package / "version.py"
        if f'metadata.version("{package.replace("_", "-")}")' not in source.read_text(encoding="utf-8"):
            raise BuildError(f"{package}/version.py does not look as expected: see whether its version must be written")
        source.write_text(
            f"# Changed when Tidegate's layer was built: the version was looked up here at each import.\n"
            f'__version__ = "{found}"\n',
            encoding="ascii",
        )


def _prune(root: Path) -> None:
    """Leave out what nothing needs at run time, and what differs from one installation to the next."""
    shutil.rmtree(root / "bin", ignore_errors=True)
    # psycopg's substitute for psycopg-binary, which is always there; its own errors if it is not are as clear.
    substitutes = (*root.glob("psycopg/pq/*pq_ctypes.py"), *root.glob("psycopg/_py_transformer.py"))
    for path in sorted((*root.rglob("*.pyi"), *substitutes)):
        path.unlink()
    for path in root.glob("*.dist-info/*"):
        # For whoever asks for a version; licences stay with what they are for.
        if path.name == "METADATA":
            header, _, _ = path.read_bytes().partition(b"\n\n")
            path.write_bytes(header + b"\n")
        elif path.name.lower().startswith("licen"):
            continue
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _interpreter(python: str) -> str | None:
    if version(python) == sys.version_info[:2]:
        return sys.executable
    found = shutil.which(f"python{python}")
    if found is None:
        return None
    # Version managers put commands on the path that only say that the version is not chosen.
    probe = [found, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(probe, capture_output=True, text=True)
    return found if done.returncode == 0 and done.stdout.strip() == python else None


def _compile(root: Path, interpreter: str) -> None:
    bytecode_only = [str(root / name) for name in BYTECODE_ONLY if (root / name).exists()]
    command = [interpreter, "-I", "-c", COMPILE, str(root), *bytecode_only]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{interpreter} could not compile the layer:\n{done.stdout}{done.stderr}")
    for pattern in WITHOUT_BYTECODE:
        folder, _, name = pattern.rpartition("/")
        for path in root.glob(f"{folder}/__pycache__/{name}.*.pyc"):
            path.unlink()


def _zip(root: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        files = {path.relative_to(root.parent).as_posix(): path for path in root.rglob("*") if path.is_file()}
        for name, path in sorted(files.items()):
            info = zipfile.ZipInfo(name, TIMESTAMP)
            info.create_system = 3  # Unix, so that the permissions count
            info.external_attr = (0o100755 if ".so" in path.suffixes else 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    partial.replace(target)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the Lambda layer.")
    parser.add_argument("--arch", default="arm64", help=f"{' or '.join(ARCHITECTURES)} (default: arm64)")
    parser.add_argument("--python", default="3.13", help="Python of the function's runtime (default: 3.13)")
    parser.add_argument("--all", action="store_true", help="every architecture, with every Python")
    parser.add_argument("--powertools", action="store_true", help="with AWS Lambda Powertools")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", help="folder (default: dist)")
    chosen = parser.parse_args()
    wanted = itertools.product(ARCHITECTURES, PYTHONS) if chosen.all else [(chosen.arch, chosen.python)]
    try:
        for arch, python in wanted:
            if not chosen.all and python not in PYTHONS and version(python) != sys.version_info[:2]:
                raise BuildError(
                    f"Lambda has no Python {python} that the layer is for: name one of {', '.join(PYTHONS)}"
                )
            build(arch, python, chosen.output, powertools=chosen.powertools)
    except BuildError as error:
        print(f"build_layer: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
