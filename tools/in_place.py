"""Owns that a tool runs from its checkout where nothing was installed: to import this is enough. Knows nothing of the tool.

The checkout comes before an installed copy, for what the tool starts, too.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(1, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
