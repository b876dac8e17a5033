"""SpecReason (arXiv 2504.07891) as SGLang structured programs.

A room knows those above it in this list and none below. Its docstring says what it owns; your question, where to begin:

    text      where does a step end, what exactly do the models read?            steps.py, context.py
    demo      what are the bundled models good at?                               problems.py
    engines   what is sent to an engine, and how is one started and kept?        endpoint.py, servers.py
    method    what does the paper do, and what decides about a draft?            program.py, policy.py
    plan      what becomes of a bench, a pair and these cards before a start?    plan.py, resolve.py
    results   what is in a run folder, and how are answers graded and compared?  records.py, summary.py
    run       in which order does a run happen, and what if it is interrupted?   evaluate.py, session.py
    replays   what would a pair cost here, whatever it writes?                   trace.py, trajectory.py
    server    what becomes of a question over HTTP, or of one from Python?      call.py, talk.py

The commands stand above them: eval, report, replay, plot and serve, with what they share in command and options. One has
them all: `specreason`, or `python -m sgl_specreason`.
"""

import sys

if (
    sys.argv[:1] == ["-m"]
    and any(word == __name__ or word.startswith(f"{__name__}.") for word in sys.orig_argv)
    and not sys.flags.safe_path
):
    # `python -m sgl_specreason` and its like put the working directory first, and a json.py that lies there would be run
    del sys.path[0]


def __getattr__(name: str) -> object:
    if name == "SpecReason":  # the package is imported by every command: nothing heavy before it is asked for
        from sgl_specreason.server.call import SpecReason

        return SpecReason
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
