"""Messages: what goes out comes back, and nothing else gets in."""

import pytest

from backend.contract.errors import CODES, Failure, MaquetteError
from backend.contract.messages import Artifact, JobEvent, JobRequest, JobSummary, MessageError, from_json, to_json

JOB = "0123456789abcdef" * 2
BLOB = "ab" * 32


def request() -> JobRequest:
    return JobRequest(JOB, "cupid", "image_to_3d", {"image": BLOB}, {"seed": 3, "focal": None}, {"scene": "Scene"})


def test_round_trip_of_a_full_summary() -> None:
    summary = JobSummary(
        JOB,
        "failed",
        "cupid",
        "image_to_3d",
        fraction=0.5,
        artifacts=(Artifact("asset.glb", BLOB, 12, "model/gltf-binary"),),
        failure=Failure("bad_input", "The picture is empty.", "0 bytes", "choose_image"),
        request=request(),
    )
    assert from_json(JobSummary, to_json(summary)) == summary


def test_whole_numbers_are_welcome_as_fractions() -> None:
    event = from_json(JobEvent, {"sequence": 1, "job_id": JOB, "kind": "step", "time": 3, "fraction": 1})
    assert event.fraction == 1.0 and isinstance(event.time, float)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"extra": 1}, "extra"),
        ({"system": 3}, "system"),
        ({"inputs": {"image": "no hash"}}, "inputs.image"),
        ({"inputs": {"image": 3}}, "inputs.image"),
        ({"job_id": "../../etc"}, "job_id"),
        ({"parameters": []}, "parameters"),
    ],
)
def test_a_wrong_field_is_named(change: dict, names: str) -> None:
    with pytest.raises(MessageError, match=names):
        from_json(JobRequest, to_json(request()) | change)


def test_a_missing_field_is_named() -> None:
    data = to_json(request())
    del data["system"]
    with pytest.raises(MessageError, match="system"):
        from_json(JobRequest, data)


@pytest.mark.parametrize("name", ["../x.glb", "", "a/b.png", ".hidden", "noend"])
def test_artifact_names_are_plain_file_names(name: str) -> None:
    with pytest.raises(MessageError):
        Artifact(name, BLOB, 1, "image/png")


def test_booleans_are_not_numbers() -> None:
    with pytest.raises(MessageError, match="step"):
        from_json(JobEvent, {"sequence": 1, "job_id": JOB, "kind": "step", "time": 0.0, "step": True})


def test_failure_codes_are_a_closed_list() -> None:
    assert MaquetteError(CODES[0], "x").code == CODES[0]
    with pytest.raises(ValueError, match="unknown failure code"):
        MaquetteError("oops", "x")
