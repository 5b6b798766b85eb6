"""In a process of its own, whose hub is the one of the environment: push a folder, read it again, print what came."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rag_diffusion.errors import RagDiffusionError
from rag_diffusion.publishing.upload import upload
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.records import Item

kind, folder, name = sys.argv[1:4]
try:
    where = upload(Path(folder), name, "dataset" if kind == "dataset" else "model")
except RagDiffusionError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
found: list[list[str]] = []
licence = ""
if kind == "dataset":
    reader = open_reader("auto", f"hf://datasets/{name}")
    licence = reader.licence("unspecified")
    found = [
        [one.name, one.caption, one.licence, one.split] if isinstance(one, Item) else [one.reason] for one in reader
    ]
else:
    from huggingface_hub import snapshot_download

    local = Path(snapshot_download(name))
    found = [[path.relative_to(local).as_posix()] for path in sorted(local.rglob("*")) if path.is_file()]
print(json.dumps({"where": where, "licence": licence, "found": found}))
