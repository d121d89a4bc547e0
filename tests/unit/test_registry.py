"""Systems are found by name, lazily, and tests may add their own."""

import subprocess
import sys

import pytest

from backend.contract.errors import MaquetteError
from backend.contract.messages import SystemInfo
from backend.systems import registry


class Echo:
    name = "echo"
    title = "Echo"
    tasks = ("echo",)
    stages = ("only",)

    def info(self) -> SystemInfo:
        return SystemInfo("echo", "Echo", self.tasks, self.stages, True)


def test_unknown_system_is_explained():
    with pytest.raises(MaquetteError, match="no engine called 'nope'; choose one of: cupid"):
        registry.get_system("nope")


def test_extra_systems(monkeypatch):
    monkeypatch.setenv(registry.EXTRA_VARIABLE, f"{__name__}:Echo")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Echo.__module__])
    assert registry.system_names() == ("cupid", "kiss3dgen", "refany3d", "echo")
    assert registry.get_system("echo") is registry.get_system("echo")
    assert registry.get_system("echo").info().title == "Echo"


def test_names_and_help_need_no_torch():
    code = (
        "import sys\nfrom backend.systems import registry\nregistry.system_names()\nfrom backend import __main__\n"
        "try:\n    __main__.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
