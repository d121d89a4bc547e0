"""Replaying golden vectors: read a case, run our code on its inputs, compare with the recorded outputs.

A golden folder holds one ``<case>.json`` (manifest: ``case``, ``file``, ``module``, ``config``, ``tolerance``) and one
``<case>.npz`` (inputs and outputs by name, network weights under ``sd/<key>`` or ``sd_<part>/<key>``) a case. Other
sets (kiss3dgen) call the case ``name``, give tolerances as words for each kind of value ("rtol 1e-4, atol 1e-6",
"exact"), store ``in_<input>`` and ``out_<output>``, and may list all cases in one ``manifest.json``. A third form
(refany3d) has one ``manifest.json`` with ``files`` by name, of which those named ``weights_*`` and ``*_inputs`` serve
several cases; a replay finds them with ``shared_arrays``.

A *replay* is a function ``replay(manifest, arrays) -> list[Comparison]``. It builds the module from
``manifest["config"]`` alone, so that cases of other seeds, sizes and configurations work unchanged. Replays live in
``cupid_dense.py`` and ``cupid_sparse.py``, each of which exposes ``REPLAYS: dict[str, Replay]``. The key is the stem
of a case name: ``"ss_flow"`` serves ``ss_flow_a``, ``ss_flow_b`` and any later ``ss_flow_*``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHARED = re.compile(r"^weights_|_inputs\.npz$")
"""Files of a listed set that are no cases but serve them."""

Arrays = dict[str, np.ndarray]
Manifest = dict[str, Any]
Comparison = tuple[Any, ...]
"""(name of the output, what we computed, what the reference computed), and seldom a fourth: an array of absolute slack
for values whose float32 inputs are themselves only known to the last bit. Using it is said in the report."""
Replay = Callable[[Manifest, Arrays], list[Comparison]]


@dataclass(frozen=True)
class CaseResult:
    """Outcome of one case: ``error`` is the largest absolute difference, ``detail`` says what missed."""

    name: str
    error: float
    tolerance: str
    passed: bool
    detail: str = ""

    def line(self) -> str:
        """One printable line."""
        state = ("ok" if self.passed else "FAIL") + (f" {self.detail}" if self.detail else "")
        return f"{self.name:<28} max abs error {self.error:.3e}  tolerance {self.tolerance}  {state}"


def list_cases(folder: Path) -> list[Path]:
    """Files of a folder's cases, sorted by name: a manifest, or the arrays of a case that ``manifest.json`` lists. A
    ``.json`` that names no case is not one."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "file" in content and ("case" in content or "name" in content):
            found.append(path)
        elif isinstance(content, dict) and isinstance(content.get("cases"), list):
            found += [folder / entry["file"] for entry in content["cases"]]
        elif isinstance(content, dict) and isinstance(content.get("files"), dict):
            found += [folder / name for name in content["files"] if not SHARED.search(name)]
    return sorted(found)


def load_case(path: Path) -> tuple[Manifest, Arrays]:
    """Manifest and arrays of one case. Raises OSError or ValueError when a file is missing or damaged."""
    if path.suffix == ".npz":
        listed = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))
        if "cases" in listed:
            manifest = next(entry for entry in listed["cases"] if entry["file"] == path.name)
        else:
            own = listed["files"][path.name]
            manifest = {"name": path.stem, "file": path.name, "config": listed["config"], **own, "folder": path.parent}
    else:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest = {"case": manifest.get("name"), **manifest}
    with np.load(path.parent / manifest["file"], allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return manifest, arrays


def shared_arrays(manifest: Manifest, name: str) -> Arrays:
    """The arrays of a file that serves several cases, beside the case's own. Raises OSError when it is not there."""
    with np.load(Path(manifest["folder"]) / name, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def tolerance_of(manifest: Manifest, output: str, expected: Any) -> tuple[float, float]:
    """rtol and atol of an output: numbers for the whole case, or words for this output or its kind of value.

    Raises KeyError or ValueError where neither is there.
    """
    stated = manifest["tolerance"]
    if "atol" in stated:
        return float(stated["rtol"]), float(stated["atol"])
    kind = "float" if np.issubdtype(as_array(expected).dtype, np.floating) else "int"
    words = stated[output if output in stated else kind]
    if words == "exact":
        return 0.0, 0.0
    values = {name: float(value) for name, value in (part.split() for part in words.split(","))}
    return values.get("rtol", 0.0), values.get("atol", 0.0)


def state_dict(arrays: Mapping[str, np.ndarray], prefix: str = "sd") -> dict[str, Any]:
    """Network weights stored under ``prefix/``, as float32 torch tensors (integers keep their type)."""
    import torch

    weights = {}
    for name, value in arrays.items():
        if name.startswith(prefix + "/"):
            tensor = torch.from_numpy(np.array(value))
            weights[name[len(prefix) + 1 :]] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


def as_array(value: Any) -> np.ndarray:
    """A numpy array of a tensor, array, number or list."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def difference(actual: Any, expected: Any, rtol: float, atol: float, slack: Any = 0.0) -> tuple[float, str]:
    """Largest absolute error and what is wrong ("" when within ``atol + rtol * |expected| + slack``)."""
    got, want = as_array(actual), as_array(expected)
    if got.shape != want.shape:
        return float("inf"), f"shape {got.shape} instead of {want.shape}"
    if got.size == 0:
        return 0.0, ""
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not np.isfinite(got).all():
        return float("inf"), "not finite"
    distance = np.abs(got - want)
    missed = int((distance > atol + rtol * np.abs(want) + slack).sum())
    return float(distance.max()), f"{missed} of {got.size} values out of tolerance" if missed else ""


def find_replay(manifest: Manifest, replays: Mapping[str, Replay]) -> Replay | None:
    """The replay of a case: the longest key its name starts with, else the longest key inside its name."""
    case = str(manifest["case"])
    for matches in (case.startswith, case.__contains__):
        keys = sorted((key for key in replays if matches(key)), key=len)
        if keys:
            return replays[keys[-1]]
    return None


def replay_case(path: Path, replays: Mapping[str, Replay]) -> CaseResult:
    """Run one case. An unknown case, a missing output, a miss or an exception of the replay is a failed result."""
    try:
        manifest, arrays = load_case(path)
        stated = manifest["tolerance"]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as failure:
        return CaseResult(path.stem, float("inf"), "unknown", False, f"cannot be read: {failure!r}")
    name, tolerance = str(manifest["case"]), " ".join(f"{kind} {value}" for kind, value in stated.items())
    replay = find_replay(manifest, replays)
    if replay is None:
        return CaseResult(name, float("inf"), tolerance, False, f"unknown case; known: {', '.join(sorted(replays))}")
    try:
        comparisons = replay(manifest, arrays)
        limits = [tolerance_of(manifest, comparison[0], comparison[2]) for comparison in comparisons]
    except Exception as failure:  # a border: whatever a replay raises is the result of this case
        return CaseResult(name, float("inf"), tolerance, False, f"{type(failure).__name__}: {failure}")
    if not comparisons:
        return CaseResult(name, float("inf"), tolerance, False, "the replay compared nothing")
    worst, missed, rounded = 0.0, [], []
    for (output, actual, expected, *slack), (rtol, atol) in zip(comparisons, limits, strict=True):
        error, wrong = difference(actual, expected, rtol, atol)
        worst = max(worst, error)
        if wrong and slack and not difference(actual, expected, rtol, atol, slack[0])[1]:
            rounded.append(f"{output}: {wrong}, but within float32 rounding of its inputs")
        elif wrong:
            missed.append(f"{output}: {wrong}")
    return CaseResult(name, worst, tolerance, not missed, "; ".join(missed or rounded))
