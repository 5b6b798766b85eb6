"""A training as one folder, for a machine that has a GPU and torch, and neither a network nor this project.

`pack` writes it here, `unpack` reads it there, `run` trains. The folder:

    run.py                  python run.py [--out OUT] [--minutes M] [--set KEY=VALUE ...]
    params.yaml             the settings, as here
    code/                   this package
    wheels/                 what the other machine may lack, by choice
    text_encoder/           the sentence encoder in float16, without the rows of words that no text of the pack holds
    pairs.parquet           every pair with its drawing as SVG, to be rendered there
    validation.json         validation pairs and their retrieved neighbors
    prompts.json            validation prompts and their neighbors, drawn at the end
    pack.json               how many of what, and hashes
"""
