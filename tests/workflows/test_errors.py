from __future__ import annotations

import pytest

from scripts.errors import CheckpointError, DivergenceError, InputError, OutputError, PretrainedWeightsError, root_cause


@pytest.mark.parametrize("kind", [InputError, OutputError, CheckpointError, DivergenceError, PretrainedWeightsError])
def test_an_error_of_the_bundle_is_found_under_those_that_wrap_it_and_above_its_own_cause(kind: type[Exception]):
    own, wrapper = kind("what was found"), RuntimeError("applying a transform")
    own.__cause__, wrapper.__cause__ = KeyError("of a library"), own
    assert root_cause(wrapper) is own
    assert str(own) == "what was found"


def test_without_one_the_first_of_the_chain_is_the_cause():
    first, last = KeyError("first"), RuntimeError("last")
    last.__context__ = first
    assert root_cause(last) is first
