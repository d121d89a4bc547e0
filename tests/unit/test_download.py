"""Downloads against a real local server: cut and resumed, wrong, cancelled, on a full disk; and imports."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from backend.catalog import download
from backend.catalog.catalog import CatalogFile
from backend.catalog.download import Watch, check_space, download_file, import_file
from backend.contract.errors import Cancelled, MaquetteError
from tests.fakes.model_server import Behaviour, model_server, sha256

DATA = bytes(range(256)) * 2000  # 512,000 bytes
FILE = CatalogFile("ckpts/flow.bin", len(DATA), sha256(DATA))


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)


def test_goes_on_where_it_was_cut(tmp_path: Path, session: requests.Session) -> None:
    behaviour = Behaviour({"a": DATA}, cuts=[100_000, 200_000])
    seen: list[int] = []
    with model_server(behaviour) as url:
        download_file(f"{url}/a", tmp_path / "x" / "flow.bin", FILE, Watch(seen.append), session)
    assert (tmp_path / "x" / "flow.bin").read_bytes() == DATA
    assert [name for name, _ in behaviour.requests] == ["a", "a", "a"]
    starts = [int(wanted[6:-1] or 0) if wanted else 0 for _, wanted in behaviour.requests]
    assert 0 == starts[0] < starts[1] <= 100_000 < starts[2] <= 300_000
    assert seen == sorted(seen) and seen[-1] == len(DATA)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["flow.bin"]


def test_goes_on_after_a_restart_and_when_nothing_is_left_to_fetch(tmp_path: Path, session: requests.Session) -> None:
    target = tmp_path / "flow.bin"
    for there in (300_000, len(DATA)):
        target.unlink(missing_ok=True)
        target.with_name("flow.bin.part").write_bytes(DATA[:there])
        behaviour = Behaviour({"a": DATA})
        with model_server(behaviour) as url:
            download_file(f"{url}/a", target, FILE, Watch(), session)
        assert target.read_bytes() == DATA
        assert behaviour.requests == ([("a", "bytes=300000-")] if there < len(DATA) else [])


def test_a_server_without_ranges_sends_everything_again(tmp_path: Path, session: requests.Session) -> None:
    (tmp_path / "flow.bin.part").write_bytes(b"x" * 1000)
    with model_server(Behaviour({"a": DATA}, ranges=False)) as url:
        download_file(f"{url}/a", tmp_path / "flow.bin", FILE, Watch(), session)
    assert (tmp_path / "flow.bin").read_bytes() == DATA


def test_a_wrong_checksum_is_refused_and_removed(tmp_path: Path, session: requests.Session) -> None:
    wrong = DATA[:-1] + b"?"
    with model_server(Behaviour({"a": wrong})) as url, pytest.raises(MaquetteError, match="damaged.*removed") as caught:
        download_file(f"{url}/a", tmp_path / "flow.bin", FILE, Watch(), session)
    assert caught.value.code == "bad_input" and list(tmp_path.iterdir()) == []


def test_the_first_digits_are_enough_to_refuse(tmp_path: Path, session: requests.Session) -> None:
    prefix = CatalogFile("flow.bin", len(DATA), sha256(DATA)[:12])
    with model_server(Behaviour({"a": DATA, "b": DATA[::-1]})) as url:
        download_file(f"{url}/a", tmp_path / "a", prefix, Watch(), session)
        with pytest.raises(MaquetteError, match=sha256(DATA)[:12]):
            download_file(f"{url}/b", tmp_path / "b", prefix, Watch(), session)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_servers_own_checksum_counts_where_none_is_recorded(tmp_path: Path, session: requests.Session) -> None:
    file = CatalogFile("encoder.bin", about_bytes=500_000)
    with model_server(Behaviour({"a": DATA}, named=sha256(DATA))) as url:
        download_file(f"{url}/a", tmp_path / "good", file, Watch(), session)
    with model_server(Behaviour({"a": DATA}, named=sha256(b"other"))) as url, pytest.raises(MaquetteError):
        download_file(f"{url}/a", tmp_path / "bad", file, Watch(), session)
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_another_size_is_refused_before_it_is_fetched(tmp_path: Path, session: requests.Session) -> None:
    with model_server(Behaviour({"a": DATA + b"more"})) as url, pytest.raises(MaquetteError, match="512004.*512000"):
        download_file(f"{url}/a", tmp_path / "flow.bin", FILE, Watch(), session)
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_a_description_is_refused(tmp_path: Path, session: requests.Session) -> None:
    small = CatalogFile("pipeline.json")
    with model_server(Behaviour({"a": b"<html>sign in</html>", "b": b'{"name": "x"}'})) as url:
        download_file(f"{url}/b", tmp_path / "b.json", small, Watch(), session)
        with pytest.raises(MaquetteError, match="not the description"):
            download_file(f"{url}/a", tmp_path / "a.json", small, Watch(), session)
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_weights_that_are_cut_off_are_refused(tmp_path: Path, session: requests.Session) -> None:
    header = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    whole = len(header).to_bytes(8, "little") + header + bytes(16)
    file = CatalogFile("model.safetensors", about_bytes=80)
    with model_server(Behaviour({"a": whole, "b": whole[:-3]})) as url:
        download_file(f"{url}/a", tmp_path / "a", file, Watch(), session)
        with pytest.raises(MaquetteError, match="cut off"):
            download_file(f"{url}/b", tmp_path / "b", file, Watch(), session)


def test_a_cancel_is_quick_and_keeps_what_arrived(tmp_path: Path, session: requests.Session) -> None:
    cancelled = threading.Event()
    watch = Watch(lambda done: cancelled.set(), cancelled.is_set)
    with model_server(Behaviour({"a": DATA}, slow=0.02)) as url, pytest.raises(Cancelled):
        download_file(f"{url}/a", tmp_path / "flow.bin", FILE, watch, session)
    assert [path.name for path in tmp_path.iterdir()] == ["flow.bin.part"]


def test_no_server_and_no_such_file_say_what_to_do(tmp_path: Path, session: requests.Session) -> None:
    with model_server(Behaviour()) as url, pytest.raises(MaquetteError, match="does not give out.*import") as caught:
        download_file(f"{url}/a", tmp_path / "flow.bin", FILE, Watch(), session)
    assert caught.value.code == "offline"
    with pytest.raises(MaquetteError, match="Check the connection") as caught:  # the server is gone now
        download_file(f"{url}/a", tmp_path / "flow.bin", FILE, Watch(), session)
    assert caught.value.code == "offline" and caught.value.failure.next_step == "install_model"


def test_a_full_disk_is_said_in_a_sentence(
    tmp_path: Path, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the write border is replaced: it fails as the kernel would."""

    class FullDisk:
        def __init__(self, stream: object) -> None:
            self._stream = stream

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name: str) -> object:
            return getattr(self._stream, name)

    copy = download._copy
    monkeypatch.setattr(download, "_copy", lambda response, stream, *rest: copy(response, FullDisk(stream), *rest))
    with model_server(Behaviour({"a": DATA})) as url, pytest.raises(MaquetteError, match="disk is full") as caught:
        download_file(f"{url}/a", tmp_path / "flow.bin", FILE, Watch(), session)
    assert caught.value.code == "disk_full" and caught.value.failure.next_step == "free_disk"


def test_the_disk_is_looked_at_first(tmp_path: Path) -> None:
    check_space(tmp_path / "new", 1000)
    with pytest.raises(MaquetteError, match=r"needs .* GB and only .* free") as caught:
        check_space(tmp_path, 10**18)
    assert caught.value.code == "disk_full"


def test_an_import_is_checked_and_leaves_its_source_alone(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(DATA)
    import_file(source, tmp_path / "models" / "flow.bin", FILE, Watch())
    assert (tmp_path / "models" / "flow.bin").read_bytes() == DATA == source.read_bytes()
    source.unlink()
    assert (tmp_path / "models" / "flow.bin").read_bytes() == DATA
    damaged = tmp_path / "damaged.bin"
    damaged.write_bytes(DATA[::-1])
    with pytest.raises(MaquetteError, match="damaged"):
        import_file(damaged, tmp_path / "models" / "again.bin", FILE, Watch())
    assert damaged.exists() and not (tmp_path / "models" / "again.bin").exists()


def test_an_import_from_another_disk_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", no_links)
    source = tmp_path / "source.bin"
    source.write_bytes(DATA)
    seen: list[int] = []
    import_file(source, tmp_path / "flow.bin", FILE, Watch(seen.append))
    assert (tmp_path / "flow.bin").read_bytes() == DATA and seen[-1] == len(DATA)
    assert (tmp_path / "flow.bin").stat().st_ino != source.stat().st_ino
