"""Owns the virtual environments of other people's clients, beside the project's: their pins clash with it and each other.

Knows no server. An environment is made once, and again when what it must hold changes.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from accounts import Say

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = {
    "sgl": ("sgl-eval==0.1.3", "openai>=2.8,<3"),
    "lm": ("lm-eval[api]==0.4.13",),
    "inspect": ("inspect-ai==0.3.285", "openai>=3.4,<4", "litellm==1.110.2"),
}
"""What each holds; .venv-NAME is its folder. None has torch."""


class Missing(Exception):
    """An environment that could not be made, and why."""


def environment(name: str, say: Say) -> Path:
    """The programs' folder of an environment, which is made where it is not there. Raises Missing."""
    folder, wanted = ROOT / f".venv-{name}", "\n".join(ENVIRONMENTS[name])
    mark = folder / ".ready"
    if not mark.exists() or mark.read_text() != wanted:
        say(f"making {folder.name}: {', '.join(ENVIRONMENTS[name])} (half a minute)")
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, *ENVIRONMENTS[name]]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode:
                shutil.rmtree(folder, ignore_errors=True)
                lines = [line for line in done.stdout.splitlines() if "ERROR" in line] or done.stdout.splitlines()
                raise Missing(f"{folder.name} could not be made: {lines[-1] if lines else done.returncode}")
        mark.write_text(wanted)
    return folder / "bin"
