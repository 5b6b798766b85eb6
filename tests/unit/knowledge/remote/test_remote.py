from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rag_diffusion.errors import RemoteError
from rag_diffusion.knowledge.remote import remote_source as remote_module
from rag_diffusion.knowledge.remote.image_cache import ImageCache
from rag_diffusion.knowledge.remote.remote_source import RemoteResults, RemoteSource, find_everywhere
from rag_diffusion.store.manifest import REMOTE, Manifest
from tests.unit.guarded_http.wild import Behaviour, Wild, png, raw, redirects, says, says_json, wild


@pytest.fixture
def server() -> Iterator[Wild]:
    with wild() as running:
        yield running


def entry(key: int, url: str = "", **change: Any) -> dict[str, Any]:
    return {"id": key, "similarity": 1 / (key + 1), "caption": f"a thing {key}", "url": url} | change


def source(server: Wild, cache: ImageCache | None = None, **settings: Any) -> RemoteSource:
    settings = {"url": server.url, "allow_hosts": ("127.0.0.1",)} | settings
    return RemoteSource(Manifest(name="there", form=REMOTE, **settings), cache)


def find(server: Wild, *entries: dict[str, Any], top_k: int = 10, deadline: float = 5.0) -> RemoteResults:
    server.paths["/knn-service"] = says_json(list(entries))
    return source(server).find(["a thing"], top_k=top_k, deadline=deadline)


def test_hits_come_best_first_with_images_captions_and_words(server: Wild) -> None:
    server.paths |= {"/0.png": says(png("red")), "/1.png": says(png("blue"))}
    found = find(server, entry(1, f"{server.url}/1.png", licence="CC0"), entry(0, f"{server.url}/0.png"))

    assert found.trouble == ""
    assert [(hit.item.name, hit.item.image, hit.item.caption, hit.item.licence) for hit in found.items] == [
        ("0", png("red"), "a thing 0", ""),
        ("1", png("blue"), "a thing 1", "CC0"),
    ]
    assert [(hit.score, hit.queries) for hit in found.items] == [(1.0, (0,)), (0.5, (0,))]


def test_images_inside_the_answer_are_not_fetched(server: Wild) -> None:
    found = find(server, entry(0, "", image=base64.b64encode(png()).decode()))

    assert [hit.item.image for hit in found.items] == [png()]
    assert [path for _, path, _ in server.asked] == ["/knn-service"]


def test_what_is_asked_is_what_any_server_of_the_protocol_reads(server: Wild) -> None:
    find(server, top_k=7)
    asked = json.loads(server.asked[0][2])

    assert (asked["text"], asked["modality"], asked["num_images"], asked["num_result_ids"]) == (
        "a thing",
        "image",
        7,
        7,
    )
    assert {"indice_name", "deduplicate", "use_safety_model", "use_violence_detector", "aesthetic_score"} <= set(asked)


def test_several_queries_give_each_hit_once_with_its_best_score(server: Wild) -> None:
    def behave(handler: Any, body: bytes) -> None:
        second = json.loads(body)["text"] == "b"
        found = [entry(5, similarity=0.9 if second else 0.1), entry(6 + second)]
        says_json([one | {"image": base64.b64encode(png()).decode()} for one in found])(handler, body)

    server.paths["/knn-service"] = behave
    found = source(server).find(["a", "b"], top_k=3)

    assert {hit.item.name: (round(hit.score, 3), hit.queries) for hit in found.items} == {
        "5": (0.9, (0, 1)), "6": (0.143, (0,)), "7": (0.125, (1,)),
    }  # fmt: skip


def test_an_image_is_fetched_once_and_then_comes_from_the_cache(server: Wild, tmp_path: Path) -> None:
    server.paths |= {"/0.png": says(png()), "/knn-service": says_json([entry(0, f"{server.url}/0.png")])}
    for _ in range(2):
        found = source(server, ImageCache(tmp_path)).find(["a"], top_k=1)
        assert [hit.item.image for hit in found.items] == [png()]

    assert [path for _, path, _ in server.asked].count("/0.png") == 1


def test_only_images_that_decode_are_cached(server: Wild, tmp_path: Path) -> None:
    server.paths |= {"/0.png": says(png()[:50]), "/knn-service": says_json([entry(0, f"{server.url}/0.png")])}
    found = source(server, ImageCache(tmp_path)).find(["a"], top_k=1)

    assert found.items == []
    assert list(tmp_path.iterdir()) == []


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD_IMAGES: dict[str, tuple[Behaviour, str]] = {
    "missing": (says(b"", "text/plain", 404), "image not fetched: .*expected status 200, got 404"),
    "html": (says(b"<html>", "text/html"), "image not fetched: .*got text/html"),
    "html called png": (says(b"<html>not found</html>"), "image"),
    "cut": (says(png("green", 400)[:-40]), "truncated|image"),
    "bomb": (says(bomb()), "image|bomb|large"),
    "announced size": (says(b"", Content_Length=str(2**40)), "expected at most .* bytes, got 1099511627776 announced"),
    "to a private address": (redirects("http://10.0.0.1/a.png"), "public addresses, got 10.0.0.1"),
    "to this machine": (redirects("http://[::1]/a.png"), "public addresses, got ::1"),
    "hangs": (raw(b"HTTP/1.1 200 OK\r\n", b"", pause=20), "whole answer within 1.5 s"),
    "drips": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", *[b"x"] * 99, pause=0.1),
        "whole answer within 1.5 s",
    ),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_counted_with_its_reason_and_the_good_ones_come(server: Wild, kind: str) -> None:
    behaviour, reason = BAD_IMAGES[kind]
    server.paths |= {"/good.png": says(png()), "/bad.png": behaviour}
    start = time.monotonic()
    deadline = 1.5 if kind in ("hangs", "drips") else 20.0
    found = find(server, entry(0, f"{server.url}/bad.png"), entry(1, f"{server.url}/good.png"), deadline=deadline)

    assert time.monotonic() - start < 10
    assert [hit.item.name for hit in found.items] == ["1"]
    assert [rejection.what for rejection in found.rejections] == [f"{server.url}/bad.png"]
    assert re.search(reason, found.rejections[0].reason)
    assert found.trouble.startswith("remote there: 1 of 2 results not taken: ")


def test_many_huge_pictures_end_at_the_deadline(server: Wild) -> None:
    buffer = io.BytesIO()
    Image.new("1", (6000, 6000)).save(buffer, "PNG")
    huge = base64.b64encode(buffer.getvalue()).decode()
    start = time.monotonic()
    found = find(server, *(entry(number, image=huge) for number in range(60)), top_k=60, deadline=0.5)

    assert time.monotonic() - start < 15
    assert len(found.items) + len(found.rejections) == 60
    assert "expected a checked image within 0.5 s, got none in time" in found.rejections[-1].reason


def test_what_a_remote_says_cannot_speak_to_a_terminal(server: Wild) -> None:
    server.paths["/knn-service"] = raw(b"HTTP/1.1 500 \x1b[31mred\r\n\r\n")
    assert source(server).find(["a"], top_k=1).trouble.isprintable()
    found = find(server, entry(0, "http://8.8.8.8/\x1b[31m\n"), entry(1, caption="\x1b[0m" * 10**5))

    assert len(found.rejections) == 2
    assert all(
        one.what.isprintable() and one.reason.isprintable() and len(one.reason) < 600 for one in found.rejections
    )
    assert found.trouble.isprintable()


def test_malformed_entries_are_counted_by_kind(server: Wild) -> None:
    image = {"image": base64.b64encode(png()).decode()}
    found = find(
        server, entry(0, **image), entry(1, caption=None, **image), entry(2, caption="", **image), entry(3, "ftp://x"),
        {"id": "x"}, entry(4, image="?"), entry(0, **image), entry(5, "http://10.0.0.1/x.png"),
    )  # fmt: skip

    assert [hit.item.name for hit in found.items] == ["0"]
    assert "7 of 8 results not taken" in found.trouble
    assert "malformed caption (2), malformed id (2), malformed url (1), not base64 (1)" in found.trouble
    assert "image not fetched (1)" in found.trouble


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (says(b"<html>", "text/html"), "expected a content type of application/json, got text/html"),
        (says(b"{", "application/json"), "expected JSON"),
        (says(b"[" * 10_000, "application/json"), "expected JSON"),
        (says_json({"message": "Internal Server Error"}), "expected a list of results, got dict Internal Server Error"),
        (says(b"{}", "application/json", 500), "expected status 200, got 500"),
        (says(b"", "application/json", Content_Length=str(2**40)), "expected at most"),
        (redirects("http://192.168.0.1/knn-service", 307), "public addresses, got 192.168.0.1"),
        (raw(b"", b"", pause=20), "whole answer within 0.5 s"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", *[b"["] * 99, pause=0.05), "within 0.5 s"),
        (raw(b"no http at all\r\n\r\n"), "expected an answer, got BadStatusLine"),
    ],
    ids=["html", "half", "deep", "message", "500", "size", "private", "hangs", "drips", "nonsense"],
)
def test_a_remote_that_fails_is_reported_and_raises_nothing(server: Wild, behaviour: Behaviour, said: str) -> None:
    server.paths["/knn-service"] = behaviour
    start = time.monotonic()
    found = source(server).find(["a"], top_k=3, deadline=0.5 if "within 0.5 s" in said else 20.0)

    assert time.monotonic() - start < 10
    assert found.items == []
    assert found.trouble.startswith("remote there: ")
    assert said in found.trouble


def test_a_dead_remote_is_reported() -> None:
    with wild() as gone:
        pass
    found = source(gone).find(["a", "b"], top_k=3)

    assert found.items == []
    assert "2 of 2 queries failed, e.g. " in found.trouble
    assert "ConnectionRefusedError" in found.trouble


def test_a_remote_at_a_private_address_that_nobody_allowed_is_not_asked(server: Wild) -> None:
    found = source(server, allow_hosts=()).find(["a"], top_k=3)

    assert "--allow-host 127.0.0.1" in found.trouble
    assert server.asked == []


def test_several_remotes_are_asked_at_once_and_each_tells_its_own_trouble(server: Wild) -> None:
    server.paths["/knn-service"] = says_json([entry(0, image=base64.b64encode(png()).decode())])
    hanging = raw(b"", b"", pause=20)
    with wild() as gone:
        pass
    with wild({"/knn-service": hanging}) as slow, wild({"/knn-service": hanging}) as slower:
        allowed = ("127.0.0.1",)
        sources = [
            RemoteSource(Manifest(name=name, form=REMOTE, url=one.url, allow_hosts=allowed))
            for name, one in (("good", server), ("gone", gone), ("slow", slow), ("slower", slower))
        ]
        start = time.monotonic()
        found = find_everywhere(sources, ["a"], top_k=1, deadline=1.5)
        took = time.monotonic() - start

    assert took < 10
    assert {name: len(answer.items) for name, answer in found.items()} == {"good": 1, "gone": 0, "slow": 0, "slower": 0}
    assert [bool(answer.trouble) for answer in found.values()] == [False, True, True, True]
    assert find_everywhere([], ["a"], top_k=1) == {}


def test_many_slow_images_share_one_deadline(server: Wild) -> None:
    server.paths["/slow.png"] = raw(b"", b"", pause=20, stop=server.stop)
    server.paths["/good.png"] = says(png())
    slow = [entry(number, f"{server.url}/slow.png") for number in range(40)]
    start = time.monotonic()
    found = find(server, entry(50, f"{server.url}/good.png"), *slow, top_k=50, deadline=1.5)

    assert time.monotonic() - start < 10
    assert [hit.item.name for hit in found.items] == ["50"]
    assert "40 of 41 results not taken: image not fetched (40)" in found.trouble


def test_the_images_of_a_query_have_a_bound_together(server: Wild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "MAX_QUERY_BYTES", 3 * len(png()))
    server.paths["/a.png"] = says(png())
    found = find(server, *(entry(number, f"{server.url}/a.png") for number in range(5)))

    assert len(found.items) == 3
    assert [rejection.kind for rejection in found.rejections] == ["too large"] * 2


def test_the_indexes_of_a_server_are_listed_and_an_unknown_one_is_named(server: Wild) -> None:
    server.paths["/indices-list"] = says_json(["all", "cats"])

    assert source(server, url=f"{server.url}/knn-service").indices() == ["all", "cats"]
    with pytest.raises(RemoteError, match="expected an index 'dogs', got all, cats"):
        source(server, index="dogs").indices()


def test_what_is_no_server_of_the_protocol_says_so(server: Wild) -> None:
    server.paths["/indices-list"] = says_json({"detail": "Not Found"})
    with pytest.raises(RemoteError, match="is this a server of clip-retrieval's protocol"):
        source(server).indices()
