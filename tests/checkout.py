"""Where the checkout is that the tests test."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
SHARED_GRADING = ROOT.parent / "shared" / "grading"
