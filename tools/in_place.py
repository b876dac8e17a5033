"""Owns that a tool runs from its checkout where the package is not installed: importing this is enough. Knows no tool.

What the tool starts finds the package, too. Where it is installed nothing is changed.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if find_spec("sgl_specreason") is None:
    sys.path.append(str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
