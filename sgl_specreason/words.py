"""Owns numbers with their nouns, as they are said in messages and tables. Knows nothing of what is counted."""


def counted(count: int, noun: str, several: str = "") -> str:
    """ "1 trajectory", "1,200 problems"; `several` where the plural is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"
