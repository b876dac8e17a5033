"""The measuring of our client runs, on stub engines: it had stopped to, when tokenizers that change a text were refused."""

import client_cost
from client_cost import STEP_TOKENS, measured, stub_engines, texts_of, words_and_letters
from stub_engine import steps


def test_the_client_is_measured_on_stub_engines() -> None:
    with stub_engines(2) as engines:
        cost = measured(engines, texts_of(100), 2, 3, 2)
    assert cost.steps_per_s > 0
    assert cost.cpu_s > 0


def test_the_stub_engines_words_have_the_ids_that_it_says() -> None:
    tokenizer = words_and_letters()
    for text, ids in steps(client_cost.VOCABULARY, STEP_TOKENS)[:50]:
        assert tokenizer.encode(text).ids == ids
        assert tokenizer.decode(ids) == text
