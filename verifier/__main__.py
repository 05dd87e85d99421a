"""``python -m verifier``: the command line."""

from __future__ import annotations

import sys

from verifier.cli import main

sys.exit(main())
