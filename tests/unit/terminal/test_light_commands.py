"""Commands that only look answer at once: nothing that embeds, searches or reads tables is imported for them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from rag_diffusion.knowledge.folders import DataSetFolders
from rag_diffusion.orchestration.ui import free_port
from rag_diffusion.store.manifest import Manifest

HEAVY = ("torch", "torchvision", "transformers", "faiss", "pyarrow", "pandas", "numpy", "PIL")
SCRIPT = """
import json, sys, time
from typer.testing import CliRunner
from rag_diffusion.terminal.app import app
told = []
for words in json.loads(sys.argv[1]):
    start = time.process_time()
    result = CliRunner().invoke(app, words)
    told.append([result.exit_code, result.output + result.stderr, time.process_time() - start])
print(json.dumps([told, sorted(set(json.loads(sys.argv[2])) & set(sys.modules))]))
"""


def test_list_info_and_refused_names_load_nothing_heavy(tmp_path: Path, project_root: Path) -> None:
    (tmp_path / "params.yaml").write_text((project_root / "params.yaml").read_text())
    (tmp_path / "data/encoder").mkdir(parents=True)
    folders = DataSetFolders(tmp_path)
    folders.generation("mine", 1).mkdir(parents=True)
    told = {"what": "a.png", "reason": "empty file: 0 bytes"}
    (folders.generation("mine", 1) / "rejected.jsonl").write_text(json.dumps(told) + "\n")
    manifest = Manifest(name="mine", form="photos", num_pairs=3, num_rejected=1, generation=1)
    manifest.write(folders.manifest("mine"))
    root = ["--root", str(tmp_path)]
    asked = {
        "list": ["kb", "list", *root],
        "info": ["kb", "info", "mine", "--rejected", *root],
        "none": ["kb", "info", "nobody", *root],
        "name": ["kb", "add", "Bad/Name", str(tmp_path), *root],
        "path": ["kb", "add", "good", str(tmp_path / "nowhere"), *root],
        "gone": ["kb", "remove", "nobody", *root],
        "again": ["kb", "rebuild", "nobody", *root],
        "version": ["--version"],
        "help": ["--help"],
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(asked.values())), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=project_root)
    answers, heavy = json.loads(done.stdout.splitlines()[-1])
    found = {name: (code, output) for name, (code, output, _) in zip(asked, answers, strict=True)}
    assert heavy == []
    assert {name: code for name, (code, _) in found.items()} == {
        "list": 0, "info": 0, "none": 1, "name": 1, "path": 1, "gone": 1, "again": 1, "version": 0, "help": 0,
    }  # fmt: skip
    assert "mine" in found["list"][1]
    assert "mine: 3 pairs, 1 rejected" in found["info"][1]
    assert "rag-diffusion kb info mine --rejected" in found["info"][1]
    assert "a.png: empty file: 0 bytes" in found["info"][1]
    assert "expected a data set 'nobody', found none" in found["none"][1]
    assert "expected a name of at most 63 small letters" in found["name"][1]
    assert "nowhere: expected a file or a folder, got none" in found["path"][1]
    assert "expected one of mine, got 'nobody'; see `rag-diffusion kb list`" in found["gone"][1]
    assert found["version"][1].startswith("rag-diffusion 0.")
    assert "Draw pictures from words" in found["help"][1]
    assert "install-completion" in found["help"][1].replace("\n", "")
    assert max(seconds for _, _, seconds in answers) < 1.0


def test_what_cluster_serve_lacks_is_told_before_anything_heavy_is_there(tmp_path: Path, project_root: Path) -> None:
    (tmp_path / "params.yaml").write_text((project_root / "params.yaml").read_text())
    (tmp_path / "model").mkdir()
    (tmp_path / "data/kb/mine").mkdir(parents=True)
    (tmp_path / "data/kb/mine/manifest.json").write_text("{}")
    serve = ["cluster", "serve", "--project", str(tmp_path), "--port"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        asked = {
            f"--port that are free, got 127.0.0.1:{taken}": [*serve, str(taken)],
            "expected a file of API keys": [*serve, str(free := free_port(50_000)), "--keys", str(tmp_path / "keys")],
            "expected a generator in data/model": [*serve, str(free)],
            "expected the manifest of a data set": [*serve, str(free), "--model", str(tmp_path / "model")],
        }
        command = [
            sys.executable,
            "-c",
            SCRIPT,
            json.dumps(list(asked.values())),
            json.dumps(("torch", "ray", "faiss")),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=project_root, env=environment)
    answers, heavy = json.loads(done.stdout.splitlines()[-1])
    for expected, (code, output, _) in zip(asked, answers, strict=True):
        assert code == 1
        assert expected in " ".join(output.split())
    assert heavy == []
