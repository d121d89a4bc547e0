"""backend.systems.parameters: what every system refuses in a job, and that it says which parameter it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from backend.contract.errors import MaquetteError
from backend.systems import parameters


@dataclass(frozen=True)
class Wishes:
    """Some system's parameters."""

    seed: int = 42
    steps: int | None = None


def test_what_says_nothing_is_left_out_and_what_is_unknown_is_refused() -> None:
    assert parameters.given_parameters("Some", Wishes, {"seed": None, "steps": 0}) == {}
    assert parameters.given_parameters("Some", Wishes, {"seed": 0, "steps": 3}) == {"seed": 0, "steps": 3}
    with pytest.raises(MaquetteError, match="Some has no parameter 'sede'; remove it"):
        parameters.given_parameters("Some", Wishes, {"seed": 1, "sede": 2})


@pytest.mark.parametrize(
    ("check", "good", "bad", "sentence"),
    [
        (lambda value: parameters.require_whole({"x": value}, "x", "y"), 3, True, "x must be a whole number"),
        (lambda value: parameters.require_whole({"x": value}, "x"), -2, 2.0, "x must be a whole number"),
        (lambda value: parameters.require_text({"x": value}, "x", "y"), "", 3, "x must be a text"),
        (lambda value: parameters.require_truth({"x": value}, "x", "y"), False, 0, "x must be true or false"),
        (lambda value: parameters.within("tall_tower", value, 1, 2000), 2000, 2001, "tall tower .* 1 and 2,000"),
        (lambda value: parameters.within("tower", value, 1, 2), None, 0, "tower"),
        (lambda value: parameters.one_of("pet", value, ("cat", "dog")), "dog", "cow", "pet must be one of cat, dog"),
        (lambda value: parameters.one_of("pet", value, ("cat",)), None, "", "pet"),
        (lambda value: parameters.check_sampling(value, None), 2**63 - 1, 2**63, "seed"),
        (lambda value: parameters.check_sampling(1, value), 200, 201, "steps must be between 1 and 200"),
        (lambda value: parameters.check_finish(value, 256, "cube"), None, 99, "triangles"),
        (lambda value: parameters.check_finish(100, value, "base"), 4096, 64, "texture size"),
        (lambda value: parameters.check_finish(100, 1024, value), "centre", "top", "pivot"),
    ],
)
def test_each_check_lets_the_good_pass_and_names_the_bad(
    check: Callable[[object], None], good: object, bad: object, sentence: str
) -> None:
    check(good)
    with pytest.raises(MaquetteError, match=sentence) as caught:
        check(bad)
    assert caught.value.code == "bad_input"


def test_numbers_are_finite_and_truth_is_no_number() -> None:
    assert parameters.is_number(1, 0, 1) and parameters.is_number(0.25, 0.0, 1.0)
    assert not any(parameters.is_number(value, 0, 1) for value in (float("nan"), float("inf"), True, "1", None, 1.5))
