"""A project of one's own: what `rag-diffusion init` writes, of files of this repository that the wheel carries."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rag_diffusion import __version__
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.files import atomic_dir, atomic_write
from rag_diffusion.layout import BASE, UPSAMPLER

PICTURES = "data/sources/mine"  # where a new project looks for its corpus
REQUIREMENTS = "requirements.txt"  # names the version of the code, on which every stage depends
CARRIED = (  # as they stand in the repository; .ci/project_files.py puts them into the wheel, and CHANGED
    ".dagster/dagster.yaml",
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "data/.gitignore",
    "data/ruler/ruler.json",
    "data/ruler/ruler.safetensors",
    "data/runs/.gitignore",
    "mlruns/.gitkeep",
    "orchestration/__init__.py",
    "orchestration/definitions.py",
)
CHANGED = ("dvc.yaml", "params.yaml", "pyproject.toml")
OWN_CORPUS = (
    ("corpus", "source", "folder"),
    ("corpus", "folder:\n    path", PICTURES),
    ("sample", "num_inference_steps", "20"),
    ("sample", "thresholding", "static"),
)
NAMED_BASE = (("finetune", "objective", "epsilon"), ("finetune", "neighbor_skips", "[6, 8]"))
_BASE_FILE = "generator.json"  # every generator of ours has one
_GIT_URL = re.compile(r"^(https?|ssh|git|file)://|^[\w.-]+@[\w.-]+:|\.git/?$")
_HEADER = """\
# The stages of this project, as rag-diffusion {version} has them: `dvc repro` and Dagster run these commands. They
# depend on the version of the code in requirements.txt: after an update of the package, write the new one there.
"""


@dataclass(frozen=True, kw_only=True)
class NewProject:
    """What `make_project` did.

    Attributes:
        written: files that are new, relative to the project.
        kept: files that were there before and stay as they were.
        base: the base generator: `data/base`, the name of a published one, or empty where there is none yet.
    """

    written: tuple[str, ...]
    kept: tuple[str, ...]
    base: str


def make_project(root: Path, base: str = "") -> NewProject:
    """Write a project that DVC and Dagster know into a folder, put it into git, and bring its base generator.

    Args:
        root: the folder; files that lie there stay as they are.
        base: a folder with a generator of ours, a clone of rag-diffusion or its git URL, from which data/base is
            fetched, and data/upsampler where it is there; or a published pipeline by folder or hub name, which
            params.yaml names then. Empty is the base that the running code brings, which a checkout does and a wheel
            does not.

    Raises:
        ConfigError: git is not installed, or `base` cannot be fetched.
    """
    if shutil.which("git") is None:
        raise ConfigError("init: expected git on PATH, by which DVC finds a project; install it")
    root.mkdir(parents=True, exist_ok=True)
    carried = _carried()
    source = base or (str(carried) if (carried / BASE / _BASE_FILE).is_file() else "")
    fetched = _fetch(source, root / BASE) if source else False
    named = source if source and not fetched else ""
    enlarges = (root / UPSAMPLER).is_dir()
    contents = {**{name: (carried / name).read_bytes() for name in CARRIED}, **_changed(carried, named, enlarges)}
    written = [name for name in contents if not (root / name).exists()]
    for name in written:
        atomic_write(root / name, contents[name])
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    if subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True, check=False).returncode:
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    kept = tuple(name for name in contents if name not in written)
    has_base = (root / BASE / _BASE_FILE).is_file()
    return NewProject(written=tuple(written), kept=kept, base=named or (BASE if has_base else ""))


def own_params(text: str, base: str = "") -> str:
    """The repository's params.yaml for a folder of one's own, comments and all.

    Args:
        text: of the file.
        base: a published pipeline to fine-tune; empty is data/base.
    """
    for section, key, value in OWN_CORPUS + ((("finetune", "base", base), *NAMED_BASE) if base else ()):
        pattern = rf"(?m)^({section}:.*\n(?: .*\n)*?  {key}: )(?:\[.*?\]|\{{.*?\}}|\S+)"
        text, found = re.subn(pattern, rf"\g<1>{value}", text, count=1)
        assert found == 1, f"params.yaml has no {section}, {key}"
    return text


def own_stages(text: str, base: str = "", *, enlarges: bool = True) -> str:
    """The repository's dvc.yaml where the code is an installed package and the corpus one's own.

    Args:
        text: of the file.
        base: a published pipeline to fine-tune, which is no file; empty is data/base.
        enlarges: whether data/upsampler is there.

    Returns:
        It without files of code and the prompts of the default corpus, which one's own replaces, and without the sweep,
        which the ruler of the default corpus judges. Stages are run by the command, which is on PATH wherever the
        package is, also where its Python is not (pipx).
    """
    gone = {"data/prompts"} | ({BASE} if base else set()) | (set() if enlarges else {UPSAMPLER})

    def deps(match: re.Match[str]) -> str:
        paths = [path for path in match[1].split(", ") if path not in gone and path.split("/")[0] != "rag_diffusion"]
        return f"deps: [{', '.join([REQUIREMENTS, *paths])}]"

    stages = text[text.index("stages:\n") :].replace("python -m rag_diffusion run", "rag-diffusion run")
    stages = re.sub(r"(?m)^(?:  #.*\n)*  sweep:\n(?:    .*\n|\n)*", "", stages)
    return _HEADER.format(version=__version__) + re.sub(r"deps: \[(.*)\]", deps, stages).rstrip() + "\n"


def _changed(carried: Path, base: str, enlarges: bool) -> Mapping[str, bytes]:
    """Files that are written in a form of their own."""
    dvc, params, settings = ((carried / name).read_text(encoding="utf-8") for name in CHANGED)
    texts = {
        "dvc.yaml": own_stages(dvc, base, enlarges=enlarges),
        "params.yaml": own_params(params, base),
        "pyproject.toml": settings[settings.index("[tool.dagster]") :],
        REQUIREMENTS: f"rag-diffusion[pipeline]=={__version__}\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def _carried() -> Path:
    """The folder with the repository's files: in the wheel beside this module, in a checkout the checkout itself."""
    here = Path(__file__).parent
    return here / "project_files" if (here / "project_files").is_dir() else here.parent


def _fetch(source: str, place: Path) -> bool:
    """Copy a generator of ours to `place`, unless one lies there, and the super-resolution stage beside it.

    False where `source` names a published one.
    """
    if _GIT_URL.search(source) and not Path(source).is_dir():
        with tempfile.TemporaryDirectory() as folder:
            _clone(source, Path(folder) / "clone")
            return _fetch(str(Path(folder) / "clone"), place)
    found = next((path for path in (Path(source), Path(source) / BASE) if (path / _BASE_FILE).is_file()), None)
    if found is None:
        if Path(source).is_dir() and not (Path(source) / "model_index.json").is_file():
            raise DataError(
                f"--base {source}: expected a generator of ours ({_BASE_FILE}), a clone of rag-diffusion or a pipeline "
                "of diffusers (model_index.json), found none of them"
            )
        return False
    if not place.exists():
        with atomic_dir(place) as new:
            shutil.copytree(found, new, dirs_exist_ok=True)
    beside, there = found.parent / Path(UPSAMPLER).name, place.parent / Path(UPSAMPLER).name
    if beside.is_dir() and not there.exists():
        with atomic_dir(there) as new:
            shutil.copytree(beside, new, dirs_exist_ok=True)
    return True


def _clone(url: str, folder: Path) -> None:
    """Fetch no more of a repository than its generators, where its server can leave out the rest."""
    for command in (
        ["clone", "--quiet", "--depth", "1", "--filter", "blob:none", "--sparse", "--", url, str(folder)],
        ["-C", str(folder), "sparse-checkout", "set", BASE, UPSAMPLER],
    ):
        done = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"--base {url}: expected git to fetch it, got {done.stderr.strip()}")
    if not (folder / BASE / _BASE_FILE).is_file():
        raise DataError(f"--base {url}: expected {BASE}/{_BASE_FILE} in that repository, found none")
