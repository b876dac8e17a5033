"""Owns the demo bench as a task of inspect_ai. Runs in inspect's own environment and knows nothing of the project.

Example: inspect eval tools/harnesses/inspect_demo.py -T data=/tmp/demo-inspect.jsonl --model openai-api/local/specreason
"""

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate


@task
def demo(data: str) -> Task:
    """Rows of {"input", "target"}; the answer is what stands in the box."""
    return Task(dataset=json_dataset(data), solver=generate(), scorer=pattern(r"boxed\{(\d+)\}"))
