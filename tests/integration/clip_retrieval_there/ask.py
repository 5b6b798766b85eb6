"""Runs where clip-retrieval is installed: its own ClipClient asks a server what standard input says.

Standard input: JSON, a list of [settings of ClipClient, words of its query]. Standard output: the answers.
"""

import importlib.util
import json
import sys
from pathlib import Path

# the client's file itself, unchanged: importing it as a part of its package would import torch, wandb, img2dataset, ...
package = importlib.util.find_spec("clip_retrieval")
path = Path(package.origin).with_name("clip_client.py")
spec = importlib.util.spec_from_file_location("clip_client", path)
clip_client = importlib.util.module_from_spec(spec)
sys.modules["clip_client"] = clip_client
spec.loader.exec_module(clip_client)

answers = []
for settings, words in json.load(sys.stdin):
    if "modality" in settings:
        settings["modality"] = clip_client.Modality(settings["modality"])
    answers.append(clip_client.ClipClient(**settings).query(**words))
json.dump(answers, sys.stdout)
