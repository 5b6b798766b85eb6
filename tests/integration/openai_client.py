"""What a program of somebody else's does: the official client of the OpenAI API against a server, and nothing of ours.

    python openai_client.py URL KEY PICTURE     beside PICTURE lies mask.png

Prints a line of JSON.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import openai


def main(url: str, key: str, picture: Path) -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=200)
    found: dict[str, Any] = {"modules": [name for name in sys.modules if name.startswith("rag_diffusion")]}
    model = client.models.list().data[0].id
    found["models"] = [model, client.models.retrieve(model).owned_by]
    more = {"seed": 7, "num_inference_steps": 2, "num_neighbors": 2}
    prompt = "a red square in noto style"

    drawn = client.images.generate(model=model, prompt=prompt, n=2, size="auto", extra_body=more)
    found["generated"] = [one.b64_json for one in drawn.data or []]
    found["usage"] = drawn.usage and drawn.usage.model_dump()
    found["size"] = drawn.size
    named = client.images.generate(
        model=model, prompt=prompt, response_format="url", extra_body=more | {"where": {"source": ["noto"]}}
    )
    link = (named.data or [])[0].url
    with urllib.request.urlopen(str(link)) as answer:
        found["by_url"] = base64.b64encode(answer.read()).decode()
    streamed = client.images.generate(
        model=model, prompt=prompt, stream=True, partial_images=2, extra_body=more | {"num_inference_steps": 4}
    )
    found["events"] = [[event.type, getattr(event, "partial_image_index", None), event.b64_json] for event in streamed]
    with picture.open("rb") as first, picture.open("rb") as second:
        edited = client.images.edit(model=model, image=[first, second], prompt=prompt, n=1, extra_body=more)
    found["edited"] = (edited.data or [])[0].b64_json
    where = {"where": {"source": ["noto"], "licence": ["CC0-1.0"]}}
    with picture.open("rb") as image, picture.with_name("mask.png").open("rb") as mask:
        masked = client.images.edit(model=model, image=image, mask=mask, prompt=prompt, extra_body=more | where)
    found["masked"] = (masked.data or [])[0].b64_json
    with picture.open("rb") as image:
        events = client.images.edit(model=model, image=image, prompt=prompt, stream=True, extra_body=more)
        found["edit_events"] = [event.type for event in events]
    with picture.open("rb") as image:
        varied = client.images.create_variation(model=model, image=image, n=1, extra_body=more | {"strength": 0.5})
    found["varied"] = (varied.data or [])[0].b64_json

    found["errors"] = []
    for call in (
        lambda: client.images.generate(model="gpt-image-1", prompt=prompt),
        lambda: client.images.generate(model=model, prompt=prompt, size="1024x1024"),
        lambda: client.images.generate(model=model, prompt=""),
        lambda: client.images.generate(model=model, prompt=prompt, n=10, extra_body=more),
        lambda: client.with_options(api_key="wrong").models.list(),
        lambda: list(
            client.images.generate(
                model=model, prompt=prompt, stream=True, extra_body=more | {"num_style_neighbors": 1, "style": "noto"}
            )
        ),
    ):
        try:
            call()
            found["errors"].append("none")
        except openai.APIError as error:
            found["errors"].append([type(error).__name__, error.param, error.code, error.message])
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
