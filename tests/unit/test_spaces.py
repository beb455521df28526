"""Gymnasium action spaces as heads, parameters and relevance, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from hypothesis import given
from hypothesis import strategies as st

from equipoise.envs.action_table import ActionTable
from equipoise.trainer.data import Actions
from equipoise.trainer.spaces import HybridSpace, UnsupportedSpaceError

UNIT = spaces.Box(-1, 1, (1,))


def relevant(space: HybridSpace, *choices: int) -> list[int]:
    """The parameters that matter under one action's choices."""
    return space.relevant(torch.tensor([choices], dtype=torch.int64))[0].nonzero()[:, 0].tolist()


def native(space: HybridSpace, choices: list[int], parameters: list[float]) -> Any:
    return space.to_native(Actions(torch.tensor([choices], dtype=torch.int64), torch.tensor([parameters])))


# --- what is accepted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "choices", "num_continuous"),
    [
        (spaces.Discrete(5), (5,), 0),
        (spaces.Discrete(3, start=-1), (3,), 0),
        (spaces.MultiDiscrete([2, 4]), (2, 4), 0),
        (spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])), (2, 3, 4, 5), 0),
        (spaces.Box(-2, 2, (3,)), (), 3),
        (spaces.Box(0, 1, ()), (), 1),
        (spaces.Box(0, 1, (2, 3)), (), 6),
        (spaces.MultiBinary(3), (2, 2, 2), 0),
        (spaces.MultiBinary((2, 2)), (2, 2, 2, 2), 0),
        (spaces.Box(-1, 2, (2,), np.int16), (4, 4), 0),  # as many values as choices
        (spaces.Box(np.array([1, 0]), np.array([1, 63]), dtype=np.int64), (1, 64), 0),
        (spaces.Box(0, 64, (2,), np.uint8), (), 2),  # one value too many for heads
        (spaces.Tuple((spaces.Discrete(2), spaces.Tuple(()))), (2,), 0),
        (spaces.Tuple((spaces.Box(-1, 1, (0,)), spaces.MultiDiscrete(np.zeros(0, int)), UNIT)), (), 1),
        (spaces.Dict({"a": spaces.Discrete(2), "b": UNIT}), (2,), 1),
        (spaces.Tuple((spaces.Discrete(2), spaces.Tuple((UNIT, UNIT)))), (2,), 2),
        (spaces.Tuple((spaces.Discrete(3), UNIT, spaces.Box(0, 1, (2,)), UNIT)), (3,), 4),
        (
            spaces.Tuple((spaces.Dict({"x": spaces.Tuple((UNIT, spaces.MultiDiscrete([2, 3])))}), UNIT)),
            (2, 3),
            2,
        ),
    ],
)
def test_accepted_forms(space: Space[Any], choices: tuple[int, ...], num_continuous: int) -> None:
    hybrid = HybridSpace(space)
    assert hybrid.choice_counts == choices
    assert (hybrid.num_heads, hybrid.num_continuous) == (len(choices), num_continuous)
    assert hybrid.valid_choices.sum(-1).tolist() == list(choices)
    assert hybrid.max_choices == max(choices, default=0)


LEAVES = st.one_of(
    st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
    st.builds(
        lambda nvec, shift: spaces.MultiDiscrete(nvec, start=np.full_like(nvec, shift)),
        st.sampled_from([np.array([2, 3]), np.array([[1, 4], [2, 2]])]),
        st.integers(-2, 2),
    ),
    st.builds(spaces.MultiBinary, st.sampled_from([2, (2, 3)])),
    st.builds(
        lambda low, width, shape, dtype: spaces.Box(low, low + width, shape, dtype),
        st.integers(-100, 27),
        st.sampled_from([0, 1, 63, 64, 100]),
        st.sampled_from([(), (2,)]),
        st.sampled_from([np.int8, np.int64]),
    ),
    st.just(spaces.Tuple(())),
    st.builds(
        lambda low, width, shape: spaces.Box(low, low + width, shape),
        st.floats(-100, 100, width=32),
        st.one_of(st.just(0.0), st.floats(0.125, 100, width=32)),
        st.sampled_from([(), (1,), (3,), (2, 2)]),
    ),
)


def few_combinations(space: Space[Any]) -> bool:
    try:
        ActionTable(space)
    except UnsupportedSpaceError as error:
        return "no action at all" in str(error)
    return True


def holds_actions(space: Space[Any]) -> bool:
    try:
        return bool(ActionTable(space).leaves)
    except UnsupportedSpaceError:
        return False


SPACES = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        st.lists(part, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("cab"), part, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(part, min_size=1, max_size=3).map(spaces.OneOf).filter(few_combinations),
    ),
    max_leaves=6,
).filter(holds_actions)


def row(space: HybridSpace, batch: Any, index: int) -> Any:
    return space.table.action_of([part.numpy() for part in space.table.take_apart(batch)], index)


def typed(action: Any, space: Space[Any]) -> Any:
    """With the dtypes of the space, which the adapter sees to."""
    if isinstance(space, spaces.Dict):
        return {key: typed(action[key], part) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(typed(part, of) for part, of in zip(action, space, strict=True))
    if isinstance(space, spaces.OneOf):
        return action[0], typed(action[1], space[action[0]])
    return action.astype(space.dtype)


def structure(action: Any) -> Any:
    if isinstance(action, dict):
        return {key: structure(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple(structure(part) for part in action)
    return np.shape(action)


@given(SPACES, st.integers(0, 2**20))
def test_native_actions_are_members_of_the_space(space: Space[Any], seed: int) -> None:
    hybrid, draw = HybridSpace(space), torch.Generator().manual_seed(seed)
    choices = [torch.randint(n, (20,), generator=draw) for n in hybrid.choice_counts]
    actions = Actions(
        torch.stack(choices, -1) if choices else torch.zeros(20, 0, dtype=torch.int64),
        2.0 * torch.randn(20, hybrid.num_continuous, generator=draw),  # some beyond [-1, 1], to be clamped
    )
    batch = hybrid.to_native(actions)
    for index in range(20):
        action = row(hybrid, batch, index)
        assert space.contains(typed(action, space))
        if "OneOf" not in str(space):
            assert structure(action) == structure(space.sample())


def test_rounding_never_leaves_the_bounds() -> None:
    draw = np.random.default_rng(0)
    low, high = -3 * draw.random(500, dtype=np.float32), 3 * draw.random(500, dtype=np.float32) + 0.01
    space = HybridSpace(spaces.Box(low, high))
    # The naive low + 1·(high − low) lies above a fifth of these upper bounds.
    for parameter in (-1.0, -1.0 + 2**-24, 0.3, 1.0 - 2**-24, 1.0):
        assert space.native.contains(native(space, [], [parameter] * 500)[0].numpy())
    assert native(space, [], [-1.0] * 500)[0].tolist() == low.tolist()
    assert native(space, [], [1.0] * 500)[0].tolist() == high.tolist()


# --- the native mapping by hand -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "expected"), [(-1.0, 2.0), (0.0, 7.0), (1.0, 12.0), (0.5, 9.5), (3.0, 12.0), (-7.0, 2.0)]
)
def test_parameters_are_scaled_and_clamped_to_the_bounds(parameter: float, expected: float) -> None:
    assert native(HybridSpace(spaces.Box(2, 12, (1,))), [], [parameter]).tolist() == [[expected]]


def test_every_part_goes_where_it_belongs() -> None:
    space = spaces.Dict(
        {
            "go": spaces.Discrete(3, start=10),
            "grid": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
            "push": spaces.Tuple((spaces.Box(np.array([0, -4]), np.array([2, 4])), spaces.Box(0, 100, ()))),
        }
    )
    action = native(HybridSpace(space), [2, 1, 2, 3, 4], [0.5, -0.5, 0.0])
    assert isinstance(action, dict)
    assert action["go"].tolist() == [12]
    assert action["grid"].tolist() == [[[1, 3], [5, 7]]]
    assert isinstance(action["push"], tuple)
    assert action["push"][0].tolist() == [[1.5, -2.0]]
    assert action["push"][1].tolist() == [50.0]


def test_raw_parameters_are_left_alone() -> None:
    actions = Actions(torch.zeros(1, 0, dtype=torch.int64), torch.tensor([[5.0]]))
    HybridSpace(UNIT).to_native(actions)
    assert actions.continuous.tolist() == [[5.0]]


def test_whole_numbers_have_equal_shares_of_the_range() -> None:
    space = HybridSpace(spaces.Box(-50, 49, (1,), np.int32))
    evenly = torch.linspace(-1, 1, 10_001).unsqueeze(1)
    action = space.to_native(Actions(torch.zeros(10_001, 0, dtype=torch.int64), evenly))
    assert isinstance(action, torch.Tensor)
    assert action.dtype == torch.int64
    values, counts = action.unique(return_counts=True)
    assert values.tolist() == list(range(-50, 50))
    assert counts.min() >= 99
    assert counts.max() <= 101


def test_a_constant_is_always_sent_and_never_matters() -> None:
    low, high = np.array([-1, 0.5, -1], np.float32), np.array([1, 0.5, 1], np.float32)
    space = HybridSpace(spaces.Tuple((spaces.Discrete(2), spaces.Box(low, high))))
    action = native(space, [0], [1.0, 1.0, -1.0])
    assert action[1].tolist() == [[1.0, 0.5, -1.0]]
    assert relevant(space, 1) == [0, 2]
    assert "constant: parameters 1\n" in space.describe()
    assert relevant(HybridSpace(spaces.Box(low, high))) == [0, 2]  # without any choice, too


def test_bounds_of_float64_hold_in_float32_too() -> None:
    box = spaces.Box(-0.1, 0.1, (1,), np.float64)  # float32(0.1) lies above
    for parameter in (-1.0, 1.0):
        value = native(HybridSpace(box), [], [parameter])[0].double().numpy()
        assert box.contains(value)
        assert abs(value[0]) > 0.0999999


# --- relevance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [True, False])
def test_as_many_boxes_as_choices_belong_to_one_choice_each(nested: bool) -> None:
    boxes = (UNIT, spaces.Box(0, 1, (2,)), UNIT)
    parts = (spaces.Discrete(3), spaces.Tuple(boxes)) if nested else (spaces.Discrete(3), *boxes)
    for table in (None, []):
        space = HybridSpace(spaces.Tuple(parts), table)
        assert [relevant(space, choice) for choice in range(3)] == [[0], [1, 2], [3]]
        assert space.num_decisions == 1


@pytest.mark.parametrize(
    ("space", "choices"),
    [
        (spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,)))), (1,)),  # one Box, three choices
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2), UNIT, UNIT)), (0, 1)),  # two heads
        (spaces.Box(-1, 1, (2,)), ()),  # no head
        (spaces.Dict(gear=spaces.Discrete(2), left=UNIT, right=UNIT), (0,)),  # a Dict names parts, no more
        (spaces.Tuple((UNIT, UNIT, spaces.Discrete(2))), (1,)),  # the choice is not the first part
        (spaces.Tuple((spaces.MultiDiscrete([2]), UNIT, UNIT)), (0,)),
    ],
)
def test_else_everything_is_always_relevant(space: Space[Any], choices: tuple[int, ...]) -> None:
    hybrid = HybridSpace(space)
    assert relevant(hybrid, *choices) == [0, 1]
    assert hybrid.num_decisions == hybrid.num_heads + 1


def test_all_parameters_can_be_said_to_matter_always() -> None:
    space = HybridSpace(spaces.Tuple((spaces.Discrete(2), UNIT, UNIT)), "all")
    assert [relevant(space, choice) for choice in range(2)] == [[0, 1], [0, 1]]
    with pytest.raises(UnsupportedSpaceError, match="'some'; allowed are a table and 'all'"):
        HybridSpace(UNIT, "some")  # type: ignore[arg-type]


def test_every_parameterised_part_has_its_own_parameters() -> None:
    # Tuple(Discrete(k), Tuple(k parts)) twice; an option may be empty, or hold several boxes.
    first = spaces.Tuple((spaces.Discrete(2), spaces.Tuple((UNIT, spaces.Dict(x=UNIT, y=UNIT)))))
    second = spaces.Tuple((spaces.Discrete(3), spaces.Tuple((UNIT, spaces.Tuple(()), UNIT))))
    space = HybridSpace(spaces.Dict(arm=first, speed=UNIT, tool=second))
    assert relevant(space, 0, 0) == [0, 3, 4]
    assert relevant(space, 1, 1) == [1, 2, 3]
    assert relevant(space, 1, 2) == [1, 2, 3, 5]
    assert space.head_of.tolist() == [0, 0, 0, 2, 1, 1]


def test_the_environment_may_say_what_is_relevant() -> None:
    # gym-hybrid: accelerate uses parameter 0, turn parameter 1, brake none; a third belongs to none.
    space = HybridSpace(
        spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2), spaces.Box(-1, 1, (4,)))),
        [[[0], [1], []], [[], [3]]],
    )
    assert relevant(space, 0, 0) == [0, 2]
    assert relevant(space, 1, 1) == [1, 2, 3]
    assert relevant(space, 2, 0) == [2]
    assert space.head_of.tolist() == [0, 0, 2, 1]
    assert space.num_decisions == 3
    values = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    assert space.sum_by_decision(values).tolist() == [[11.0, 1000.0, 100.0]]


def test_a_parameter_may_matter_under_several_choices_of_its_head() -> None:
    space = HybridSpace(spaces.Tuple((spaces.Discrete(3), UNIT)), [[[0], [], [0]]])
    assert [relevant(space, choice) for choice in range(3)] == [[0], [], [0]]
    assert space.num_decisions == 1


def test_the_table_for_people() -> None:
    space = HybridSpace(
        spaces.Dict({"do": spaces.Discrete(3), "how": spaces.Box(-1, 1, (5,))}), [[[0, 1, 2], [3], []]]
    )
    assert space.describe().splitlines() == [
        "actions: action['do'] = head 0; action['how'] = parameters 0-4",
        "always relevant: parameters 4",
        "relevant by choice of head 0: 0 -> 0-2; 1 -> 3; 2 -> none",
    ]


def test_the_table_stays_short_where_there_are_many_heads_or_choices() -> None:
    nodes = spaces.Tuple((spaces.MultiDiscrete([3] * 16), spaces.Box(-1, 1, (64,))))
    table = HybridSpace(nodes, [[[], list(range(4 * i, 4 * i + 4)), []] for i in range(16)]).describe()
    assert table.splitlines()[1:] == [
        "relevant by choice of head 0: 0 -> none; 1 -> 0-3; 2 -> none",
        "relevant by choice of head 1: 0 -> none; 1 -> 4-7; 2 -> none",
        "and so on for heads 2-15, each with its own",
    ]
    many = HybridSpace(spaces.Tuple((spaces.Discrete(100), *[UNIT] * 100))).describe()
    assert all(len(line) < 300 for line in many.splitlines())
    assert many.endswith("6 -> 6; 7 -> 7; ... (100 in all)")
    only_the_last = HybridSpace(spaces.Tuple((spaces.Discrete(100), UNIT)), [[[]] * 99 + [[0]]]).describe()
    assert "relevant by choice of head 0: 99 -> 0; 0 -> none; 1 -> none; " in only_the_last


# --- exactly one of several ------------------------------------------------------------------------------


def taken(space: HybridSpace, choice: int, parameters: list[float]) -> Any:
    return row(space, native(space, [choice], parameters), 0)


def test_one_of_is_a_choice_with_the_parameters_of_each_option() -> None:
    pair = spaces.Box(np.array([0.0, 10.0]), np.array([2.0, 20.0]))
    space = HybridSpace(spaces.OneOf((UNIT, pair, spaces.Discrete(3, start=7), spaces.Tuple(()))))
    assert space.choice_counts == (1 + 1 + 3 + 1,)
    assert [relevant(space, choice) for choice in range(6)] == [[0], [1, 2], [], [], [], []]
    assert space.num_decisions == 1
    given = [0.5, -1.0, 1.0]
    assert taken(space, 0, given) == (0, [0.5])
    option, held = taken(space, 1, given)
    assert (option, held.tolist()) == (1, [0.0, 20.0])
    assert [taken(space, choice, given) for choice in (2, 3, 4)] == [(2, 7), (2, 8), (2, 9)]
    assert taken(space, 5, given) == (3, ())
    assert space.describe().splitlines() == [
        "actions: action = head 0; action[option 0] = parameter 0; action[option 1] = parameters 1-2",
        "relevant by choice of head 0: 0 -> 0; 1 -> 1-2; 2 -> none; 3 -> none; 4 -> none; 5 -> none",
    ]


def test_a_parameterised_option_keeps_its_own_relevance() -> None:
    # Under option 1 the inner choice says which of two boxes counts, and the third always does.
    inner = spaces.Tuple((spaces.Discrete(2), spaces.Tuple((UNIT, UNIT))))
    space = HybridSpace(
        spaces.Dict(
            go=spaces.OneOf((UNIT, spaces.Dict(a=inner, b=UNIT))), speed=UNIT, stop=spaces.Discrete(2)
        )
    )
    assert space.choice_counts == (3, 2)
    assert [relevant(space, choice, 0) for choice in range(3)] == [[0, 4], [1, 3, 4], [2, 3, 4]]


def test_one_of_in_one_of() -> None:
    space = HybridSpace(spaces.OneOf((spaces.OneOf((UNIT, spaces.MultiBinary(2))), spaces.Discrete(2))))
    assert space.choice_counts == (1 + 4 + 2,)
    got = [taken(space, choice, [0.5]) for choice in range(7)]
    assert [option for option, _ in got] == [0] * 5 + [1] * 2
    assert got[0][1] == (0, [0.5])
    assert [held[1].tolist() for _, held in got[1:5]] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert [held for _, held in got[5:]] == [0, 1]


def test_too_many_combinations_are_refused() -> None:
    with pytest.raises(UnsupportedSpaceError, match=r"have 4097 combinations; allowed are 4096\. A Tuple of"):
        HybridSpace(spaces.OneOf((UNIT, spaces.MultiBinary(12))))


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (spaces.Box(-np.inf, 1, (2,)), "unbounded"),
        (spaces.Box(0, np.inf, (2,)), "unbounded"),
        (spaces.Box(0, np.inf, (2,)), "env.action_bounds=[-1,1]"),
        (
            spaces.Box(-(2**31), 2**31 - 1, (2,), dtype=np.int64),
            "more whole numbers than float32 can tell apart; say between which numbers to act",
        ),
        (spaces.Text(5), "holds no numbers"),
        (spaces.Graph(UNIT, None), "gymnasium.wrappers.TransformAction"),
        (spaces.Sequence(spaces.Discrete(2)), "holds no numbers"),
        (spaces.Box(1.0, 1.0 + 1e-9, (2,), np.float64), "rescale (gymnasium.wrappers.RescaleAction)"),
        (spaces.Box(-3e38, 3e38, (2,)), "unbounded"),  # their difference, not the bounds
        (spaces.Box(-1e300, 1e300, (2,), np.float64), "unbounded"),
        (spaces.Box(1e299, 1e300, (2,), np.float64), "unbounded"),
    ],
)
def test_a_leaf_that_does_not_fit_is_named(leaf: Space[Any], reason: str) -> None:
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple((UNIT, leaf))})
    with pytest.raises(UnsupportedSpaceError) as error:
        HybridSpace(space)
    assert str(error.value).startswith("action['b'][1]: ")
    assert reason in str(error.value)
    assert "accepted are Discrete, MultiDiscrete, MultiBinary and bounded Box" in str(error.value)


def test_the_widest_box_is_accepted() -> None:
    space = HybridSpace(spaces.Box(-1.7e38, 1.7e38, (1,)))
    assert native(space, [], [1.0]).tolist() == [[float(np.float32(1.7e38))]]


@pytest.mark.parametrize(
    "space", [spaces.Tuple(()), spaces.Box(-1, 1, (0,)), spaces.Dict(a=spaces.Tuple(()))]
)
def test_an_empty_space_is_refused(space: Space[Any]) -> None:
    with pytest.raises(UnsupportedSpaceError, match="no action at all"):
        HybridSpace(space)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ([[[0], []]], "lists 1 heads, the action space has 2"),
        ([[[0], []], [[], []]], r"relevance\[1\]: lists 2 choices, the head has 3"),
        ([[[0], [np.int64(2)]], [[], [], []]], r"relevance\[0\]\[1\]: parameter 2 is not one of 0 … 1"),
        ([[[-1], []], [[], [], []]], r"relevance\[0\]\[0\]: parameter -1 is not one of 0 … 1"),
        ([[[0], [1.0]], [[], [], []]], r"relevance\[0\]\[1\]: parameter 1.0 is not one of 0 … 1"),
        ([[[0], []], [[], [], [0]]], "parameter 0 is listed under head 0 and under head 1"),
    ],
)
def test_a_relevance_that_does_not_fit_is_refused(relevance: Any, message: str) -> None:
    space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3), spaces.Box(-1, 1, (2,))))
    with pytest.raises(UnsupportedSpaceError, match=message):
        HybridSpace(space, relevance)
