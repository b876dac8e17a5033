"""Owns whether the Hugging Face hub can be reached, which is asked once in a process. Knows no model and no rows."""

import os
from functools import cache

PATIENCE_S = 10.0


@cache
def trouble() -> str:
    """Why the hub cannot be asked, in words; "" where it answers.

    Where it does not, its libraries work offline from here on, and so do engines that are started: each would try again for a
    minute before it says so. To be called before datasets is imported, which reads then whether it may ask.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "and $HF_HUB_OFFLINE forbids to ask the hub"
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_S)
    except Exception:  # of one HTTP library or another, by the version; a certificate that is not trusted, too
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"
        return f"and the hub ({constants.ENDPOINT}) cannot be reached"
    return ""
