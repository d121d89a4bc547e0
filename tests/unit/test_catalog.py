"""The catalogue's facts, and installing a whole model: needs, licences, imports, the command line."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from backend.catalog import catalog, command, download
from backend.catalog.catalog import find_model, is_installed, load_catalog, missing_files
from backend.catalog.download import Watch
from backend.catalog.install import import_model, install_model, remove_model, require_licences
from backend.catalog.installs import Installs
from backend.contract.errors import Failure, MaquetteError
from tests.fakes.model_server import Behaviour, model_server
from tests.fakes.small_catalog import FILES, write_catalog

BOTH = ("MIT", "Apache-2.0")
# Published sizes and first digits (CUPID specification, section 1).
PUBLISHED = {
    "suv_flow_img_dit_L_16l8_fp16": (2_239_067_672, "e3d0b50ffbb7"),
    "slat_flow_img_dit_L_64l8p2_fp16": (2_401_799_952, "7240e382aeaa"),
    "uv_vae_conv3d_16l8_fp16_decoder": (294_698_604, "9ec4dd80a64e"),
    "uv_vae_conv3d_16l8_fp16_encoder": (237_206_376, "a24d59f1e934"),
    "ss_dec_conv3d_16l8_fp16": (147_591_972, "1c76d4a40519"),
    "ss_enc_conv3d_16l8_fp16": (119_068_016, "107874eeaa0f"),
    "slat_enc_swin8_B_64l8_fp16": (173_242_816, "21dceac6bee9"),
    "slat_dec_gs_swin8_B_64l8gs32_fp16": (171_450_952, "38c84bcef5ce"),
    "slat_dec_mesh_swin8_B_64l8m256c_fp16": (181_903_412, "3e87aba94b57"),
    "slat_dec_rf_swin8_B_64l8r16_fp16": (171_450_488, "737da6578d01"),
    "ss_flow_img_dit_L_16l8_fp16": (1_130_770_840, "96dc6bfd4136"),
}
PUBLISHED_BYTES = 7_268_259_545  # of all 25 files, the small texts included


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small catalogue; returns an empty models folder."""
    monkeypatch.setattr(catalog, "CATALOG_FILE", write_catalog(tmp_path / "small.toml"))
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    return tmp_path / "models"


def nobody(name: str, done: int, total: int) -> None:
    """Listens to nothing."""


def test_the_published_files_are_recorded_as_published() -> None:
    files = {Path(file.path).stem: file for file in load_catalog()["cupid"].files if file.path.endswith(".safetensors")}
    assert set(files) == set(PUBLISHED)
    for name, (size, digits) in PUBLISHED.items():
        assert files[name].bytes == size and files[name].sha256.startswith(digits)
    assert 0 < PUBLISHED_BYTES - sum(size for size, _ in PUBLISHED.values()) < 64 * 1024
    configurations = {Path(file.path).stem for file in load_catalog()["cupid"].files if file.path.endswith(".json")}
    assert configurations == {*PUBLISHED, "pipeline"}


def test_every_entry_is_pinned_licensed_and_well_formed() -> None:
    for model in load_catalog().values():
        assert model.licence and model.licence_url.startswith("https://") and model.purpose
        assert not model.files or model.revision
        assert set(model.needs) <= set(load_catalog())
        for file in model.files:
            assert re.fullmatch("([0-9a-f]{12}|[0-9a-f]{64})?", file.sha256) and not file.path.startswith(("/", ".."))
            assert file.bytes or file.small or file.about_bytes
    needed = {Path(file.path).stem for file in load_catalog()["cupid"].wanted() if file.bytes}
    assert needed == {name for name in PUBLISHED if not name.startswith(("ss_enc", "ss_flow", "slat_dec_rf"))}


def test_installs_what_it_needs_first_and_nothing_twice(small: Path) -> None:
    behaviour, thing = Behaviour(FILES, cuts=[1000]), find_model("thing")
    seen: list[tuple[str, int, int]] = []
    with model_server(behaviour) as url:
        install_model(small, thing, url, Watch(), lambda *said: seen.append(said))
        assert is_installed(small, thing) and not missing_files(small, thing)
        asked = [path for path, _ in behaviour.requests]
        assert asked[0] == asked[1] == "people/encoder/resolve/r2/model.bin" and len(asked) == 4
        install_model(small, thing, url, Watch(), nobody)
        assert len(behaviour.requests) == 4, "nothing is fetched that is here"
        install_model(small, thing, url, Watch(), nobody, everything=True)
        assert behaviour.requests[-1][0].endswith("extra.bin")
    assert seen[-1][1] == seen[-1][2] and [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert (small / "thing" / "ckpts" / "flow.bin").read_bytes() == FILES["people/thing/resolve/r1/ckpts/flow.bin"]
    remove_model(small, thing)
    assert not (small / "thing").exists() and is_installed(small, find_model("encoder"))


def test_no_licence_no_install(small: Path) -> None:
    for accepted in ((), ("MIT",), ("Apache-2.0",)):
        with pytest.raises(MaquetteError, match="accept") as caught:
            require_licences(find_model("thing"), accepted)
        assert caught.value.code == "licence_required"
    require_licences(find_model("thing"), BOTH)


def test_what_is_installed_by_hand_says_so(small: Path) -> None:
    with pytest.raises(MaquetteError, match="own installation"):
        install_model(small, find_model("by_hand"), "http://127.0.0.1:1", Watch(), nobody)
    assert not is_installed(small, find_model("by_hand"))


def lay_out(folder: Path, flat: bool) -> Path:
    for path, data in FILES.items():
        if "thing" in path:
            place = folder / (Path(path).name if flat else path.partition("/r1/")[2])
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_imports_from_a_folder(small: Path, tmp_path: Path, flat: bool) -> None:
    folder, thing = lay_out(tmp_path / "from", flat), find_model("thing")
    assert import_model(small, thing, folder, Watch(), nobody) == ("encoder",)
    assert not missing_files(small, thing) and not is_installed(small, thing)
    neighbour = tmp_path / "encoder"
    neighbour.mkdir()
    (neighbour / "model.bin").write_bytes(FILES["people/encoder/resolve/r2/model.bin"])
    assert import_model(small, thing, folder, Watch(), nobody) == ()
    assert is_installed(small, thing)


def test_an_import_that_lacks_a_file_names_it_and_changes_nothing(small: Path, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "from", False)
    (folder / "ckpts" / "flow.bin").unlink()
    with pytest.raises(MaquetteError, match="ckpts/flow.bin"):
        import_model(small, find_model("thing"), folder, Watch(), nobody)
    assert not (small / "thing").exists()


def test_the_state_of_an_install_is_told_and_a_second_one_waits(small: Path) -> None:
    with model_server(Behaviour(FILES, slow=0.02)) as url:
        installs = Installs(small, url, lambda error: Failure("internal", str(error)))
        assert installs.install("thing", BOTH).state == "installing"
        assert installs.install("thing", BOTH).state == "installing", "asking again changes nothing"
        with pytest.raises(MaquetteError, match="being installed"):
            installs.install("encoder", BOTH)
        revision = -1
        while installs.info(find_model("thing")).state == "installing":
            revision = installs.wait(revision, 10.0)
    info = installs.info(find_model("thing"))
    assert info.state == "installed" and info.bytes == 0 and info.fraction == 1.0 and info.failure is None
    states = {item.id: item.state for item in installs.models()}
    assert states == {"thing": "installed", "encoder": "installed", "by_hand": "by_hand"}
    assert [item.package_ready for item in installs.models()] == [True, True, False]


def test_a_failed_and_a_cancelled_install_can_go_on(small: Path) -> None:
    with model_server(Behaviour(FILES, slow=0.05)) as url:
        installs = Installs(small, url, lambda error: Failure("internal", str(error)))
        installs.install("thing", BOTH)
        installs.wait(1, 10.0)
        installs.cancel("thing")
        wait_until(installs, "absent")
    installs = Installs(small, url, lambda error: Failure("internal", str(error)))
    installs.install("thing", BOTH)  # the server is gone
    wait_until(installs, "failed")
    failure = installs.info(find_model("thing")).failure
    assert failure is not None and failure.code == "offline"
    with model_server(Behaviour(FILES)) as url:
        installs.source = url
        installs.install("thing", BOTH)
        wait_until(installs, "installed")


def wait_until(installs: Installs, state: str) -> None:
    revision = -1
    for _ in range(600):
        if installs.info(find_model("thing")).state == state:
            return
        revision = installs.wait(revision, 0.1)
    pytest.fail(f"still {installs.info(find_model('thing'))}")


def test_the_command_speaks_json(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with model_server(Behaviour(FILES)) as url:
        base = ["--folder", str(small), "--json"]
        assert command.main(["list", *base]) == 0
        assert [info["state"] for info in last_line(capsys)["models"]] == ["absent", "absent", "by_hand"]
        assert command.main(["install", "thing", "--source", url, *base]) == 1
        assert last_line(capsys)["error"]["code"] == "licence_required"
        accepted = [word for licence in BOTH for word in ("--accept-licence", licence)]
        assert command.main(["install", "thing", "--source", url, *accepted, *base]) == 0
    assert [info["state"] for info in last_line(capsys)["models"]] == ["installed", "installed", "by_hand"]
    assert command.main(["remove", "thing", *base]) == 0
    assert last_line(capsys)["models"][0]["state"] == "absent"
    with pytest.raises(MaquetteError, match="does not exist"):
        command.main(["import", "thing", "--from", str(small / "no"), *accepted, "--folder", str(small)])


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_two_installs_into_one_folder_are_one_too_many(small: Path) -> None:
    started = threading.Event()

    def told(name: str, done: int, total: int) -> None:
        started.set()

    with model_server(Behaviour(FILES, slow=0.05)) as url:
        stop = threading.Event()
        watch = Watch(cancelled=stop.is_set)
        first = threading.Thread(target=lambda: pytest.raises(
            MaquetteError, install_model, small, find_model("thing"), url, watch, told))  # fmt: skip
        first.start()
        started.wait(30)
        with pytest.raises(MaquetteError, match="Another Blender"):
            install_model(small, find_model("thing"), url, Watch(), nobody)
        stop.set()
        first.join()
