from __future__ import annotations

import base64
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.readers.records import Item
from rag_diffusion.serving import request_bodies
from rag_diffusion.serving.queries import KnnRequest, global_id
from rag_diffusion.serving.service import Service
from tests.unit.guarded_http.wild import png
from tests.unit.serving.served import Client, copy_of, items, make_encoder, open_base, served


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> KnowledgeBase:
    """60 drawings; do not change it."""
    root = tmp_path_factory.mktemp("project")
    base = open_base(root, request.config.rootpath, make_encoder(root))
    base.add("noto", items("noto"))
    return base


@pytest.fixture
def base(start: KnowledgeBase, tmp_path: Path) -> KnowledgeBase:
    return copy_of(start, tmp_path)


@pytest.fixture
def client(base: KnowledgeBase) -> Iterator[Client]:
    with served(base) as running:
        yield running


@pytest.fixture(scope="module")
def refusing(start: KnowledgeBase) -> Iterator[Client]:
    """For uploads that must change nothing."""
    with served(start) as running:
        yield running


def captions(client: Client, text: str) -> list[str]:
    return [entry["caption"] for entry in client.knn(text=text, num_images=3)]


def test_a_pair_from_a_form_is_found_by_the_next_query(client: Client) -> None:
    said = {"caption": "a  zorkmid\x00", "label": "coin", "licence": "CC0-1.0", "attribution": "me", "split": "val"}
    answer = client.post("/pairs", files={"image": ("photo.png", png("gold", 90), "image/png")}, data=said)
    found = client.knn(text="zorkmid", num_images=1)[0]

    assert answer.status_code == 201
    assert answer.json()["num_pairs"] == 1
    assert {name: answer.json()[name] for name in ("id", "pair_id", "url")} == {
        name: found[name] for name in ("id", "pair_id", "url")
    }
    told = ("source", "caption", "label", "licence", "attribution", "split")
    assert [found[name] for name in told] == ["uploaded", "a zorkmid", "coin", "CC0-1.0", "me", "validation"]
    assert client.get("/indices-list").json() == ["all", "noto", "uploaded"]


def test_a_pair_as_json_goes_into_the_data_set_and_under_the_name_that_it_says(client: Client) -> None:
    body = {"image": base64.b64encode(png()).decode(), "caption": "a zorkmid", "data_set": "coins", "name": "one.png"}
    answer = client.post("/pairs", json=body)

    assert (answer.status_code, answer.json()["pair_id"]) == (201, "coins/one.png")
    assert client.knn(text="zorkmid", indice_name="coins")[0]["id"] == global_id("coins/one.png")


def test_a_second_pair_leaves_the_first_and_the_same_one_again_is_told(client: Client) -> None:
    for caption in ("a zorkmid", "a florin"):
        assert client.post("/pairs", files={"image": png()}, data={"caption": caption}).status_code == 201
    again = client.post("/pairs", files={"image": png()}, data={"caption": "a florin"})

    assert again.status_code == 409
    assert "there is one of the id 'uploaded/" in again.json()["message"]
    assert captions(client, "zorkmid")[0] == "a zorkmid"
    assert captions(client, "florin")[0] == "a florin"
    assert client.get("/health").json()["num_pairs"] == 62


@pytest.mark.parametrize(
    ("image", "said", "reason"),
    [
        (b"", {"caption": "a"}, "empty image|empty file"),
        (b"<html></html>", {"caption": "a"}, "not an image"),
        (png("red", 200)[:-30], {"caption": "a"}, "truncated image"),
        (png(), {"caption": " \n\x00"}, "empty caption"),
        (png(), {"caption": "a" * 10_001}, "caption"),
        (png(), {}, "caption: Field required"),
        (png(), {"caption": "a", "colour": "red"}, "colour"),
        (png(), {"caption": "a", "split": "some"}, "unknown split"),
        (png(), {"caption": "a", "data_set": "../etc"}, "expected a name of at most"),
        (png(), {"caption": "a", "data_set": "corpus"}, "what `dvc repro` makes is called so"),
        (png(), {"caption": "a", "data_set": "noto"}, "expected a data set of uploaded pairs"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_reason_and_changes_nothing(
    refusing: Client, image: bytes, said: dict[str, str], reason: str
) -> None:
    form = refusing.post("/pairs", files={"image": ("a.png", image)}, data=said)
    same = refusing.post("/pairs", json={"image": base64.b64encode(image).decode()} | said)

    for answer in (form, same):
        assert answer.status_code == 422
        assert any(word in answer.json()["message"] for word in reason.split("|"))
    assert refusing.get("/indices-list").json() == ["all", "noto"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"json": {"caption": "a"}}, 422),
        ({"json": {"caption": "a", "image": 5}}, 422),
        ({"json": {"caption": "a", "image": "%%"}}, 422),
        ({"data": {"caption": "a"}}, 400),
        ({"files": {"picture": png()}, "data": {"caption": "a"}}, 400),
        ({"files": {"image": png(), "image2": png()}, "data": {"caption": "a"}}, 400),
        ({"data": b"--x\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
    ],
)
def test_a_body_that_holds_no_image_is_refused(refusing: Client, body: dict[str, Any], status: int) -> None:
    answer = refusing.post("/pairs", **body)

    assert answer.status_code == status
    assert answer.json()["message"]


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


MEMBERS = {
    "one.png": png("red"), "one.txt": b"a zorkmid", "two.png": png("blue"), "two.txt": b"a florin",
    "cut.png": png("green", 300)[:-40], "cut.txt": b"a ducat", "../out.png": png(), "alone.txt": b"no image",
}  # fmt: skip


@pytest.mark.parametrize("packed", [zipped, tarred])
def test_an_archive_is_found_by_the_next_query_and_what_was_not_taken_is_counted(client: Client, packed: Any) -> None:
    answer = client.post("/archives?data_set=coins&licence=CC0-1.0", data=packed(MEMBERS))
    told = answer.json()

    assert answer.status_code == 201, told
    assert (told["num_pairs"], told["num_new"], told["num_rejected"]) == (2, 2, 3)
    assert told["rejected_by_reason"]["truncated image"] == 1
    assert len(told["rejected"]) == 3
    assert captions(client, "zorkmid")[0] == "a zorkmid"
    assert client.knn(text="florin", indice_name="coins")[0]["licence"] == "CC0-1.0"

    more = client.post("/archives?data_set=coins", data=packed({"x.png": png("pink"), "x.txt": b"a thaler"})).json()
    assert (more["num_pairs"], more["num_new"], more["num_rejected"]) == (3, 1, 0)


@pytest.mark.parametrize(
    "body",
    [b"", b"no archive", zipped({}), zipped(MEMBERS)[:-60], zipped({"a.txt": b"words alone"}), tarred(MEMBERS)[:90]],
    ids=["nothing", "text", "no members", "cut zip", "no image", "cut tar"],  # gzip's header has the time in it
)
def test_what_is_no_archive_is_refused_as_a_whole(refusing: Client, body: bytes) -> None:
    answer = refusing.post("/archives", data=body)

    assert answer.status_code == 422
    assert answer.json()["message"]
    assert refusing.get("/indices-list").json() == ["all", "noto"]


@pytest.mark.parametrize(("body", "status"), [(b"no archive", 422), (zipped({"a.txt": b"words"}), 422)])
def test_an_archive_of_nothing_new_is_refused_also_where_the_data_set_exists(
    client: Client, body: bytes, status: int
) -> None:
    whole = zipped({"a.png": png(), "a.txt": b"a zorkmid"})
    assert client.post("/archives?data_set=coins", data=whole).status_code == 201
    answer = client.post("/archives?data_set=coins", data=body)
    again = client.post("/archives?data_set=coins", data=whole)

    assert (answer.status_code, again.status_code) == (status, 409)
    assert "expected new pairs of images and captions, got 1 rejections alone" in answer.json()["message"]
    assert "name taken" in again.json()["message"]
    assert client.get("/health").json()["num_pairs"] == 61
    kept = next(one for one in client.get("/data-sets").json() if one["name"] == "coins")
    assert kept["num_rejected"] == 0, "what is refused does not make the data set grow"


def test_a_name_leads_nowhere_and_turns_nothing_around(client: Client) -> None:
    said = {"caption": "a zorkmid", "name": "../../up\u202egnp.exe"}
    told = client.post("/pairs", files={"image": png()}, data=said).json()

    assert told["pair_id"] == "uploaded/%2E%2E/%2E%2E/up%E2%80%AEgnp.exe"
    assert client.knn(text="zorkmid", num_images=1)[0]["pair_id"] == told["pair_id"]


def test_no_data_set_takes_the_name_of_all_of_them(refusing: Client) -> None:
    answer = refusing.post("/pairs", files={"image": png()}, data={"caption": "a", "data_set": "all"})

    assert answer.status_code == 422
    assert "all data sets together are called so" in answer.json()["message"]


def test_an_archive_in_a_form_is_told_how_to_come(refusing: Client) -> None:
    answer = refusing.post("/archives", files={"archive": zipped(MEMBERS)})

    assert answer.status_code == 415
    assert "as the body itself" in answer.json()["message"]


def test_a_server_for_reading_and_a_page_of_another_site_take_nothing(base: KnowledgeBase, client: Client) -> None:
    pair = {"files": {"image": png()}, "data": {"caption": "a zorkmid"}}
    foreign = client.post("/pairs", headers={"Origin": "http://evil.example"}, **pair)
    with served(base, read_only=True) as reading:
        refused = [reading.post("/pairs", **pair), reading.post("/archives", data=zipped(MEMBERS))]

    assert [answer.status_code for answer in (foreign, *refused)] == [403] * 3
    assert client.get("/indices-list").json() == ["all", "noto"]
    assert client.post("/pairs", headers={"Origin": client.url}, **pair).status_code == 201


def test_searches_go_on_while_an_upload_is_taken(base: KnowledgeBase) -> None:
    service = Service(base)
    reached, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[Item]:
        yield Item(name="1", image=png(), caption="a zorkmid")
        reached.set()
        assert go_on.wait(20)
        yield Item(name="2", image=png("blue"), caption="a florin")

    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(lambda: service.insert("uploaded", slow()))
        assert reached.wait(20)
        meanwhile = service.knn(KnnRequest(text="zorkmid", num_images=3), str)
        assert not upload.done()
        go_on.set()
        manifest, rejected = upload.result(20)

    assert (manifest.num_pairs, rejected) == (2, [])
    assert [entry["source"] for entry in meanwhile] == ["noto"] * 3
    found = service.knn(KnnRequest(text="zorkmid", num_images=1), str)
    assert [entry["caption"] for entry in found] == ["a zorkmid"]


@pytest.mark.slow
def test_uploads_that_wait_for_another_writer_do_not_hold_up_searches(client: Client, base: KnowledgeBase) -> None:
    def upload(number: int) -> int:
        said = {"caption": f"coin number {number}", "data_set": "coins"}
        return client.post("/pairs", files={"image": png()}, data=said).status_code

    with ThreadPoolExecutor(45) as pool:
        with base.catalogue.folders.writing("coins", wait=0):
            uploads = [pool.submit(upload, number) for number in range(45)]
            time.sleep(0.5)
            assert client.knn(text="red circle", num_images=3)
            assert not any(one.done() for one in uploads)
        assert {one.result() for one in uploads} == {201}

    assert client.get("/health").json()["num_pairs"] == 105


def test_a_body_that_drips_is_cut_off(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "GRACE", 0.3)

    def drip() -> Iterator[bytes]:
        for _ in range(12):
            yield b" "
            time.sleep(0.05)

    answer = client.post("/archives", data=drip())

    assert answer.status_code == 408
    assert "bytes of body a second after the first 0.3 s" in answer.json()["message"]


def test_many_uploads_at_once_are_all_taken(client: Client) -> None:
    def upload(number: int) -> int:
        said = {"caption": f"coin number {number}", "name": f"{number}.png"}
        status = client.post("/pairs", files={"image": png("red", 8 + number)}, data=said).status_code
        assert client.knn(text=f"number {number}", num_images=1, deduplicate=False)
        return status

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(upload, range(6))) == [201] * 6

    assert client.get("/health").json() == {"status": "ok", "num_pairs": 66, "data_sets": ["noto", "uploaded"]}


def test_what_another_process_adds_replaces_and_removes_is_seen(
    client: Client, base: KnowledgeBase, project_root: Path
) -> None:
    other = open_base(base.root, project_root, base.encoder)
    other.add("coins", [Item(name="1", image=png(), caption="a zorkmid")])
    assert captions(client, "zorkmid")[0] == "a zorkmid"
    other.add("coins", [Item(name="1", image=png(), caption="a florin")], replace=True)
    found = client.knn(text="florin", num_images=1, with_images=True)[0]
    assert (found["caption"], bool(found["image"])) == ("a florin", True)
    other.remove("coins")
    assert client.get(f"/images/{found['id']}").status_code == 404
    assert "a florin" not in captions(client, "florin")
    assert client.get("/indices-list").json() == ["all", "noto"]


def test_data_sets_tell_of_themselves_and_of_their_trouble(client: Client, base: KnowledgeBase) -> None:
    client.post("/pairs", files={"image": png()}, data={"caption": "a zorkmid"})
    told = {one["name"]: one for one in client.get("/data-sets").json()}

    assert {name: (one["form"], one["num_pairs"], one["trouble"]) for name, one in told.items()} == {
        "noto": ("items", 60, ""), "uploaded": ("uploaded", 1, ""),
    }  # fmt: skip
    assert told["noto"]["counts"]["licence"] == {"CC0-1.0": 54, "MIT": 6}
    assert not {"files", "shards", "origin", "url", "allow_hosts", "index"} & set(told["noto"])


def test_nothing_that_the_server_tells_names_a_place_on_its_disk_or_another_machine(
    client: Client, base: KnowledgeBase, tmp_path: Path
) -> None:
    base.writer.add_remote("there", "http://10.1.2.3:99", allow_hosts=["10.1.2.3"])
    base.add("photos", items("noto")[:2], origin=str(tmp_path / "secret"))
    manifest = base.catalogue.folders.manifest("photos")
    manifest.write_text(manifest.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    told = client.get("/data-sets")
    broken = client.post("/knn-service", json={"text": "a"})

    assert told.status_code == 200
    assert next(one["trouble"] for one in told.json() if one["name"] == "photos")
    for answer in (told, broken):
        assert not any(place in answer.text for place in ("10.1.2.3", str(tmp_path), "secret"))
