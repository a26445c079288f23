"""A saved tiny checkpoint, and images for it."""

import pytest

from support import checkpoint, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images")
    for index, (height, width) in enumerate([(42, 42), (60, 84), (100, 40)]):
        tiny.random_image(height, width, index).save(directory / f"{index}.png")
    return directory
