"""``python -m verifier.bounds.lirpa_install``: install auto_LiRPA 0.3, for ``bounds="alpha-crown"``.

It is the newest release on PyPI, and it names requirements that cannot be met (torch < 1.13) or that it does not need at
run time (pylint, pytest), so no installer accepts it beside a current torch. It is installed without them, and its
metadata is made to say what it needs under `verifier.bounds.lirpa_compat`, so that ``pip check`` finds all in order.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

RELEASE = "auto_LiRPA==0.3"
NEEDS = ("torch", "numpy", "packaging>=23", "appdirs>=1.4.4", "pyyaml>=6", "tqdm>=4.66", "setuptools>=77.0.3")


def main() -> int:
    """Install it; pip's exit status."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    status = subprocess.call([*pip, "--no-deps", RELEASE])
    if status != 0:
        return status
    name, _, version = RELEASE.partition("==")
    distribution = metadata.distribution(name)
    if distribution.version == version:  # before pip sees it again, which would complain of what it asks for
        correct(Path(str(distribution.locate_file(f"{name}-{version}.dist-info"))))
    return subprocess.call([*pip, *NEEDS])


def correct(folder: Path) -> None:
    """Make a distribution's metadata, in its ``.dist-info`` folder, name `NEEDS` as its requirements."""
    file, record = folder / "METADATA", folder / "RECORD"
    head, blank, description = file.read_text(encoding="utf-8").partition("\n\n")
    lines = [line for line in head.split("\n") if not line.startswith("Requires-Dist:")]
    lines += [f"Requires-Dist: {need}" for need in NEEDS]
    data = ("\n".join(lines) + blank + description).encode()
    file.write_bytes(data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    name = re.escape(f"{folder.name}/METADATA")
    line = f"{folder.name}/METADATA,sha256={digest},{len(data)}"
    record.write_text(re.sub(f"^{name},.*$", line, record.read_text(encoding="utf-8"), flags=re.MULTILINE), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
