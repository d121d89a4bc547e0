"""A catalogue of a few kilobytes, and `python -m tests.fakes.small_catalog`: the backend's command line over it.

Only the list is replaced: SMALL_CATALOG names a TOML file that `write_catalog` made. `serve` may be left out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from backend.catalog import catalog
from tests.fakes.model_server import sha256

VARIABLE = "SMALL_CATALOG"
WEIGHTS = bytes(range(256)) * 1200  # 307,200 bytes
ENCODER = bytes(range(255, -1, -1)) * 300
FILES = {
    "people/thing/resolve/r1/pipeline.json": b'{"name": "Thing", "args": {"models": {}}}',
    "people/thing/resolve/r1/ckpts/flow.bin": WEIGHTS,
    "people/thing/resolve/r1/ckpts/extra.bin": b"extra" * 100,
    "people/encoder/resolve/r2/model.bin": ENCODER,
}


def write_catalog(path: Path) -> Path:
    """A model "thing" (MIT) that needs "encoder" (Apache-2.0), and "by_hand" without files."""
    path.write_text(
        f"""
[[model]]
id = "thing"
title = "Thing"
purpose = "Makes things"
licence = "MIT"
licence_url = "https://example.org/thing"
repository = "people/thing"
revision = "r1"
origin = "People"
needs = ["encoder"]
memory_gib = {{ full = 1.0 }}
[[model.file]]
path = "pipeline.json"
[[model.file]]
path = "ckpts/flow.bin"
bytes = {len(WEIGHTS)}
sha256 = "{sha256(WEIGHTS)}"
[[model.file]]
path = "ckpts/extra.bin"
bytes = 500
sha256 = "{sha256(b"extra" * 100)[:12]}"
needed = false
[[model]]
id = "encoder"
title = "Encoder"
purpose = "Sees"
licence = "Apache-2.0"
licence_url = "https://example.org/encoder"
repository = "people/encoder"
revision = "r2"
origin = "People"
[[model.file]]
path = "model.bin"
bytes = {len(ENCODER)}
sha256 = "{sha256(ENCODER)}"
[[model]]
id = "by_hand"
title = "Tool"
purpose = "Helps"
licence = "MIT"
licence_url = "https://example.org/tool"
repository = "people/tool"
revision = ""
origin = "People"
optional = true
package = "no_such_package_here"
""",
        encoding="utf-8",
    )
    return path


if __name__ == "__main__":
    catalog.CATALOG_FILE = Path(os.environ[VARIABLE])
    from backend.__main__ import main

    arguments = sys.argv[1:]
    sys.exit(main(arguments if "models" in arguments else ["serve", *arguments]))
