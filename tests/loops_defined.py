"""What a loop is, by its definition and without any care for what it costs; `method/loops.py` finds the same at less."""

from sgl_specreason.method import loops
from sgl_specreason.text.steps import pieces


def paragraphs(text: str) -> list[str]:
    """What loops are made of: the paragraphs that are not blank, without regard to white space."""
    return [" ".join(piece.split()) for piece in pieces(text) if piece.strip()]


def goes_round(said: list[str]) -> bool:
    """The definition, without any care for what it costs."""
    for length in range(1, loops.LONGEST_CYCLE + 1):
        again = 0
        while again + length < len(said) and said[-1 - again] == said[-1 - again - length]:
            again += 1
        characters = sum(map(len, said[len(said) - again :]))
        enough = characters >= loops.LEAST_CHARACTERS or again >= loops.LEAST_PIECES
        if again >= (loops.LEAST_ROUNDS - 1) * length and enough:
            return True
    return False
