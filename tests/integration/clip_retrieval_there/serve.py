"""Runs where clip-retrieval is installed: its own back end, unchanged, over an index that lies in a folder.

Its encoder is a stand-in that knows the vectors of a few texts: the one it would download is not at hand.
Arguments: the folder, a port, and the site-packages of an environment that has torch.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np

folder, port, torch_site = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sys.path.append(torch_site)  # at the end: all that clip-retrieval pins stands before it
import torch  # noqa: E402

known = dict(zip((folder / "texts.txt").read_text().splitlines(), np.load(folder / "texts.npy"), strict=True))


class Tokens(list):
    def to(self, device):
        return self


class Model:
    def encode_text(self, tokens):
        return torch.from_numpy(np.stack([known[text] for text in tokens]))


all_clip = types.ModuleType("all_clip")
all_clip.load_clip = lambda *names, **options: (Model(), None, Tokens)
sys.modules["all_clip"] = all_clip

# the package without its __init__, which imports what only the embedding of millions of images needs
package = types.ModuleType("clip_retrieval")
package.__path__ = list(importlib.util.find_spec("clip_retrieval").submodule_search_locations)
sys.modules["clip_retrieval"] = package
from clip_retrieval.clip_back import clip_back  # noqa: E402

clip_back(
    indices_paths=str(folder / "indices.json"), port=port, enable_mclip_option=False, use_jit=False,
    provide_aesthetic_embeddings=False, clip_model="stand-in",
)  # fmt: skip
