"""Some of the bad inputs of ``make fuzz``, of every kind: refused well, and nothing is lost."""

from itertools import islice

import pytest

from fuzz.trials import Trials
from fuzz.verdict import faults, run
from fuzz.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore")
INPUTS = 150


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return Workspace.at(tmp_path_factory.mktemp("space"))


def test_bad_input_is_refused_in_a_few_lines_that_name_it(space):
    faulty, kinds = {}, set()
    for trial in islice(Trials(space, seed=1), INPUTS):
        found = faults(trial, run(trial))
        kinds.add(trial.kind)
        if found:
            faulty[" ".join(trial.arguments)] = found
    assert len(kinds) >= 14
    assert faulty == {}
