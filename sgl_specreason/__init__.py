"""SpecReason (arXiv 2504.07891) as SGLang structured programs."""

import sys

if (
    sys.argv[:1] == ["-m"]
    and any(word.startswith(f"{__name__}.") for word in sys.orig_argv)
    and not sys.flags.safe_path
):
    # `python -m sgl_specreason...` puts the working directory first, and a json.py that lies there would be run
    del sys.path[0]
