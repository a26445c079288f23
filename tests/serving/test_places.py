"""Positions of pruned prompts, by an oracle that makes those of the unpruned prompt and gathers."""

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from vflowopt_vllm.places import BASE, LIMIT, PlacedImage, Places, corrected, prompt_positions


@dataclass(frozen=True)
class Image:
    """Offsets [N, 3] of all tokens, of which some are kept."""

    offsets: np.ndarray
    kept: list[int]


@st.composite
def images(draw):
    """In one row, as LLaVA's are, or in a grid, as Qwen's."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    row, column = np.divmod(np.arange(rows * columns), columns)
    axes = (0 * row, row, column) if draw(st.booleans()) else 3 * (np.arange(rows * columns),)
    kept = draw(st.sets(st.sampled_from(range(rows * columns)), min_size=1))
    return Image(np.stack(axes, axis=1), sorted(kept))


prompts = st.lists(st.one_of(st.integers(1, 4), images()), min_size=1, max_size=6)


def unpruned_then_gathered(prompt):
    """Positions [3, length] of what is left of a prompt, which of it are images' tokens, and what follows it."""
    positions, visual, following = [], [], 0
    for part in prompt:
        if isinstance(part, Image):
            positions += [following + part.offsets[token] for token in part.kept]
            visual += [True] * len(part.kept)
            following += int(part.offsets.max()) + 1
        else:
            positions += [np.full(3, following + word) for word in range(part)]
            visual += [False] * part
            following += part
    return np.stack(positions, axis=1), np.array(visual), following


def placed(prompt):
    """The images of a prompt, and the columns of all of their tokens as a tower in bfloat16 makes them."""
    start, found, columns = 0, [], [torch.zeros(0, 8, dtype=torch.bfloat16)]
    for part in prompt:
        if isinstance(part, Image):
            found.append(PlacedImage(start, len(part.kept), int(part.offsets.max()) + 1))
            made = Places.of_image(torch.from_numpy(part.offsets)).as_columns().bfloat16()
            columns.append(made[torch.tensor(part.kept)])
            start += len(part.kept)
        else:
            start += part
    return found, torch.cat(columns)


def step(positions, visual, columns, start, end):
    """What vLLM does before it computes rows ``start`` to ``end``: all embeddings that belong there come along."""
    before = int(visual[:start].sum())
    here = Places.from_columns(columns[before : before + int(visual[start:end].sum())])
    return corrected(positions, torch.from_numpy(visual), start, here)


@given(prompts, st.data())
def test_any_prompt_in_any_chunks(prompt, data):
    expected, visual, following = unpruned_then_gathered(prompt)
    length = len(visual)
    found, columns = placed(prompt)
    positions, delta = prompt_positions(length, data.draw(st.permutations(found)))
    assert delta == following - length
    assert (positions[:, :length][:, visual] < 0).all()
    np.testing.assert_array_equal(positions[:, :length][:, ~visual], expected[:, ~visual])

    # A request may be preempted at any time, and is then computed again; a first part may come from a prefix cache.
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, length - 1))
        cuts = sorted(data.draw(st.sets(st.integers(first, length), max_size=4)) - {first, length})
        for start, end in zip([first, *cuts], [*cuts, length], strict=True):
            positions, delta = step(positions, visual, columns, start, end)
            np.testing.assert_array_equal(positions[:, start:end], expected[:, start:end])
        assert delta == following - length

    # One of vLLM's runners hands back no more than the prompt's positions.
    positions, delta = step(prompt_positions(length, found)[0][:, :length], visual, columns, 0, length)
    np.testing.assert_array_equal(positions, expected)
    assert delta == following - length


@given(prompts)
def test_positions_of_generated_tokens(prompt):
    """Another asks in each step that generates a token, and hands no embeddings in."""
    expected, visual, following = unpruned_then_gathered(prompt)
    length = len(visual)
    found, columns = placed(prompt)
    positions, _ = step(prompt_positions(length, found)[0], visual, columns, 0, length)
    for generated in range(2):
        positions, delta = step(positions, visual, columns, length + generated, length + generated)
        assert delta == following - length
        np.testing.assert_array_equal(positions[:, :length], expected)


@given(st.lists(st.integers(0, LIMIT - 1), min_size=3, max_size=30), st.sampled_from([torch.bfloat16, torch.float16]))
def test_columns_hold_every_place(numbers, dtype):
    offsets = torch.tensor(numbers[: len(numbers) // 3 * 3]).reshape(-1, 3)
    places = Places.of_image(offsets)
    read = Places.from_columns(places.as_columns().to(dtype))
    assert torch.equal(read.offsets, offsets)
    assert (read.extent == offsets.max() + 1).all()


@pytest.mark.parametrize("place", [0, BASE - 1, BASE, LIMIT - 1])
def test_columns_at_their_ends(place):
    places = Places.of_image(torch.full((1, 3), place))
    columns = places.as_columns().bfloat16()
    assert columns.shape == (1, 8)
    assert Places.from_columns(columns).offsets.tolist() == [[place] * 3]
    assert Places.from_columns(columns).extent.tolist() == [[place + 1]]


def test_text_alone():
    positions, delta = prompt_positions(4, [])
    assert positions[:, :4].tolist() == [[0, 1, 2, 3]] * 3
    assert delta == 0
    none = Places.from_columns(torch.zeros(0, 8))
    again, delta = corrected(positions, torch.zeros(4, dtype=torch.bool), 0, none)
    assert torch.equal(again, positions)
    assert delta == 0
