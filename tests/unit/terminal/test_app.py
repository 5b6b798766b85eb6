from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.terminal.show import summary, table

SCORES = {
    "none": {
        "joint": {"mean": 0.05, "low": 0.01, "high": 0.1},
        "kid": 0.25,
        "images": 120,
        "entity": 0.125,
    },
    "retrieved": {
        "joint": {"mean": 0.5, "low": 0.4, "high": 0.6},
        "kid": 0.125,
        "entity": 0.75,
        "note": "x",
    },
}


def cli(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rag_diffusion", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_help_names_the_commands(tmp_path: Path) -> None:
    done = cli(tmp_path, "--help")

    assert done.returncode == 0
    assert all(word in done.stdout for word in ("run", "show", "base", "ruler"))


def test_an_expected_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    done = cli(tmp_path, "run", "ingest")

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "params.yaml: expected a parameter file, found none" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unexpected_error_shows_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    done = cli(tmp_path, "run", "ingest")

    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "IsADirectoryError" in done.stderr


def test_a_full_disk_is_one_message(tmp_path: Path) -> None:
    code = (
        "import errno\nfrom rag_diffusion.terminal.app import clean_errors\n"
        "with clean_errors():\n    open('/dev/full', 'w', buffering=1).write('x\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "error: the disk is full" in done.stderr
    assert "OSError" not in done.stderr.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_is_asked_to_stop_cleans_up_and_says_how_to_go_on(
    tmp_path: Path, project_root: Path, stop: signal.Signals
) -> None:
    shutil.copy(project_root / "params.yaml", tmp_path)
    code = (
        "import sys, time, types\nfrom rag_diffusion.files import atomic_dir\n"
        "def run(context):\n"
        "    with atomic_dir(context.root / 'data' / 'index') as new:\n"
        "        print('inside', flush=True)\n"
        "        time.sleep(60)\n"
        "stage = types.ModuleType('index'); stage.run = run\n"
        "sys.modules['rag_diffusion.stages.index'] = stage\n"
        "sys.argv = ['rag-diffusion', 'run', 'index']\n"
        "from rag_diffusion.terminal.app import main\nmain()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as stage:
        assert stage.stdout is not None
        assert stage.stdout.readline() == "inside\n"
        stage.send_signal(stop)
        _, shown = stage.communicate(timeout=60)

    assert stage.returncode == 130
    assert "interrupted; run it again to go on" in shown
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".scratch"], "the lock's folder alone"


def test_promoting_what_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    done = cli(tmp_path, "ruler", "promote")

    assert done.returncode == 1
    assert "ruler.json: expected a finished result with its card, found none" in done.stderr
    assert "make it with `make ruler`" in done.stderr


def test_the_full_protocol_needs_a_clone_and_says_so(tmp_path: Path) -> None:
    done = cli(tmp_path, "evaluate")

    assert done.returncode == 1
    assert done.stderr.startswith("error: evaluate: expected a clone of rag-diffusion, found no pipelines/evaluate in ")


def test_the_table_has_a_row_for_each_variant_and_a_column_for_each_number() -> None:
    assert table(SCORES).splitlines() == [
        "variant    joint                 entity  kid    images",
        "---------  --------------------  ------  -----  ------",
        "none       0.050 [0.010, 0.100]  0.125   0.250  120",
        "retrieved  0.500 [0.400, 0.600]  0.750   0.125",
    ]


def test_show_prints_table_and_paths(tmp_path: Path) -> None:
    sheets = tmp_path / "reports" / "sheets"
    sheets.mkdir(parents=True)
    (sheets / "retrieved.png").touch()
    (tmp_path / "reports" / "metrics.json").write_text(json.dumps({"variants": SCORES}))
    done = cli(tmp_path, "show")

    assert done.returncode == 0
    assert "retrieved  0.500 [0.400, 0.600]" in done.stdout
    assert str(sheets / "retrieved.png") in done.stdout
    assert str(tmp_path / "reports" / "metrics.json") in done.stdout


def test_show_falls_back_to_the_baselines_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "baselines.json").write_text(json.dumps({"variants": SCORES}))

    assert "Only the baselines are there so far" in summary(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected scores, found none; make them with `make demo`"),
        ("{", "expected JSON, got text that does not parse"),
        ("[]", 'expected {"variants"'),
        ('{"variants": {"none": 3}}', 'expected {"variants"'),
    ],
)
def test_show_without_usable_scores_says_what_to_do(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "reports").mkdir()
    if content is not None:
        (tmp_path / "reports" / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=message):
        summary(tmp_path)
