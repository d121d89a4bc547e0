"""What is kept on disk: jobs, the claim on the data folder, and the environment that Set Up makes."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from .conftest import ROOT, contract, module

JOB = "a" * 32


def record(**changes):
    values = dict(
        job_id=JOB, title="mug", system="cube", task="image_to_3d", parameters={"seed": 1}, origin={},
        image_path="/nowhere/mug.png", created=5.0,
    )  # fmt: skip
    return module("runtime.job_store").JobRecord(**(values | changes))


def open_store(root: Path):
    store = module("runtime.job_store").JobStore(root)
    store.load()
    return store


def test_jobs_come_back_as_they_were(addon_enabled, tmp_path):
    errors, messages = contract("errors"), contract("messages")
    store = open_store(tmp_path)
    store.put(record())
    artifact = messages.Artifact("asset.mesh", "0" * 64, 10, "application/x")
    failure = errors.Failure("bad_input", "The picture is empty.", "", "choose_image")
    store.update(JOB, state="failed", artifacts=(artifact,), failure=failure)
    store.update(JOB, fraction=0.5)  # progress is not worth a write
    back = open_store(tmp_path).get(JOB)
    assert (back.state, back.artifacts, back.failure, back.fraction) == ("failed", (artifact,), failure, 0.0)


def test_changes_reach_the_disk_in_their_order(addon_enabled, tmp_path):
    disk = module("runtime.disk_thread").DiskThread()
    store = module("runtime.job_store").JobStore(tmp_path, disk)
    store.put(record())
    for seconds in range(50):
        store.update(JOB, created=float(seconds))
    store.put(record(job_id="b" * 32))
    store.remove("b" * 32)
    failing = disk.submit(lambda: 1 // 0)
    disk.close()
    assert open_store(tmp_path).get(JOB).created == 49.0
    assert not (tmp_path / ("b" * 32)).exists()
    with pytest.raises(ZeroDivisionError):  # kept for whoever asks, and the thread went on
        failing.result()


def test_a_damaged_job_is_left_alone_and_others_are_read(addon_enabled, tmp_path):
    store = open_store(tmp_path)
    store.put(record())
    store.put(record(job_id="b" * 32, created=6.0))
    (tmp_path / JOB / "job.json").write_text("{")
    (tmp_path / "notes").mkdir()
    again = open_store(tmp_path)
    assert [item.job_id for item in again.all()] == ["b" * 32]
    assert (tmp_path / JOB / "job.json").exists()


def test_two_blenders_get_a_folder_each(addon_enabled, tmp_path):
    claim = module("runtime.data_folder").claim_data_folder
    first, second = claim(tmp_path), claim(tmp_path)
    assert (first.path.name, second.path.name) == ("data", "data-2")
    first.release()
    assert claim(tmp_path).path.name == "data"


def test_a_folder_that_cannot_be_written_is_told(addon_enabled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(contract("errors").MaquetteError, match="Choose another data folder"):
        module("runtime.data_folder").claim_data_folder(tmp_path / "file")


def test_a_job_list_that_cannot_be_made_is_told_and_gives_the_folder_back(addon_enabled, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inbox").write_text("")
    disk = module("runtime.disk_thread").DiskThread()
    with pytest.raises(contract("errors").MaquetteError, match="Choose another data folder"):
        module("runtime.session")._open_folder(tmp_path, disk)
    claimed = module("runtime.data_folder").claim_data_folder(tmp_path)
    assert claimed.path.name == "data"
    claimed.release()


def test_a_full_disk_has_its_own_sentence(addon_enabled):
    failure = module("runtime.connection")._failure(OSError(errno.ENOSPC, "No space left on device"))  # names no file
    assert (failure.code, failure.next_step) == ("disk_full", "free_disk") and "Free some space" in failure.message


def test_a_job_that_ends_before_it_is_cancelled_is_not_said_to_be_cancelling(addon_enabled, tmp_path):
    reports, sent, store = module("runtime.job_reports"), [], open_store(tmp_path)
    store.put(record(state="running", message=reports.CANCELLING))
    current = reports.JobReports(store, module("runtime.thumbnails").Thumbnails(), sent.append)
    current.take_event(contract("messages").JobEvent(1, JOB, "done", 0.0))
    assert (store.get(JOB).state, store.get(JOB).message) == ("done", "")
    assert [type(command).__name__ for command in sent] == ["FetchJob"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_picture_sizes_are_read_from_the_head(addon_enabled, tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", (37, 21)).save(path)
    assert module("runtime.pictures").inspect_picture(path).size == (37, 21)


def test_a_turned_photo_is_measured_as_shown(addon_enabled, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    info = module("runtime.pictures").inspect_picture(tmp_path / "turned.jpg")
    assert (info.size, info.orientation) == ((20, 40), 6)
    assert module("runtime.pictures").normalised_focal(36.0, info.size) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\xff", b"BM", b"RIFF1234WEBP"]
)
def test_a_cut_head_does_not_raise_anything_else(addon_enabled, tmp_path, data):
    path = tmp_path / "cut"
    path.write_bytes(data)
    try:
        assert module("runtime.pictures").inspect_picture(path).size == (0, 0)
    except contract("errors").MaquetteError as error:
        assert error.code == "bad_input"


FAKE_UV = f"""#!{sys.executable}
import os, pathlib, sys
arguments = sys.argv[1:]
if arguments[0] == "venv":
    python = pathlib.Path(arguments[-1]) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\\nexit 0\\n")
    python.chmod(0o755)
elif os.path.exists(os.path.join(os.path.dirname(os.path.dirname(__file__)), "break")):
    print("no matching distribution", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def plan(addon_enabled, tmp_path):
    """An install plan whose wheel folder holds a script in uv's place."""
    code = tmp_path / "extension"
    (code / "wheels").mkdir(parents=True)
    (code / "backend").symlink_to(ROOT / "backend", target_is_directory=True)
    machine = os.uname().machine
    with zipfile.ZipFile(code / "wheels" / f"uv-1.0-py3-none-manylinux_2_17_{machine}.whl", "w") as wheel:
        wheel.writestr("uv-1.0.data/scripts/uv", FAKE_UV)
    (tmp_path / "packages").mkdir()
    return module("runtime.installer").InstallPlan(code, tmp_path / "user", tmp_path / "packages", online=False)


def test_an_install_ends_with_its_marker(plan):
    installer = module("runtime.installer")
    assert installer.find_python("", "", plan) is None
    seen = []
    python = installer.install(plan, lambda message, fraction: seen.append(fraction))
    assert seen == sorted(seen) and len(seen) >= 4
    assert installer.find_python("", "", plan) == str(python)
    assert (plan.root / "bin" / "uv").stat().st_mode & stat.S_IXUSR
    marker = json.loads((installer.runtime_folder(plan) / installer.MARKER).read_text())
    assert marker["python"] == "3.11"


def test_a_failed_install_leaves_only_its_log(plan):
    installer = module("runtime.installer")
    plan.root.mkdir()
    (plan.root / "break").write_text("")
    with pytest.raises(contract("errors").MaquetteError, match="Open the log"):
        installer.install(plan, lambda message, fraction: None)
    assert not installer.runtime_folder(plan).exists()
    assert "no matching distribution" in (plan.root / "install.log").read_text()
    (plan.root / "break").unlink()
    installer.runtime_folder(plan).mkdir(parents=True)  # as after a power cut: a folder without a marker
    assert installer.install(plan, lambda message, fraction: None).exists()


def test_only_our_own_environments_can_be_removed(plan):
    with pytest.raises(ValueError, match="not one of"):
        module("runtime.installer").remove_runtime(plan.root, plan)


def test_offline_without_packages_is_told_before_anything_is_written(plan, tmp_path):
    installer = module("runtime.installer")
    offline = installer.InstallPlan(plan.code_folder, tmp_path / "other", None, online=False)
    with pytest.raises(contract("errors").MaquetteError) as caught:
        installer.check_plan(offline)
    assert caught.value.code == "offline" and not (tmp_path / "other").exists()


def test_a_developers_python_comes_first(plan):
    find = module("runtime.installer").find_python
    assert find(sys.executable, "", plan) == sys.executable
    assert find("", sys.executable, plan) == sys.executable
    assert find("/no/such/python", "", plan) is None
