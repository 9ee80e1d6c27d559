import pytest
import torch
from torch import Tensor, nn

from tests.harness.observations import Seen
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.adapter import Pass, Site
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.taps import recording


@pytest.fixture
def layer() -> nn.Linear:
    return nn.Linear(3, 2)


def test_an_observation_has_the_place_of_the_pass_that_was_begun(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer)}, seen) as recorder:
        recorder.begin(4, Pass("denoise", 2, 0.25))
        y = layer(x)
    assert seen.keys == [Key(4, "denoise", 2, "latent", 0)]
    assert seen.observations[0].sigma == 0.25
    assert seen.observations[0].tensor.equal(y)


def test_repeats_are_counted_within_a_pass(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer)}, seen) as recorder:
        recorder.begin(0, Pass("denoise", 0))
        layer(layer(x).repeat(1, 2)[:, :3])
        recorder.begin(0, Pass("denoise", 1))
        layer(x)
    assert [(key.step, key.call) for key in seen.keys] == [(0, 0), (0, 1), (1, 0)]


def test_a_pass_ends_when_the_next_begins(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer)}, seen) as recorder:
        for step in range(3):
            recorder.begin(0, Pass("denoise", step))
            layer(x)
    assert seen.ends == [0, 1, 2]


def test_a_layout_turns_what_is_seen_and_leaves_what_is_computed(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer, layout=lambda output: output.flip(-1))}, seen):
        y = layer(x)
    assert seen.observations[0].tensor.equal(y.flip(-1))
    assert y.equal(layer(x))


def test_a_layout_may_pick_a_tensor_out_of_any_output() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, -x

    seen, pair, x = Seen(), Pair(), torch.randn(2)
    with recording({"latent": Site(pair, layout=lambda output: output[1])}, seen):
        pair(x)
    assert seen.observations[0].tensor.equal(-x)


def test_one_module_can_be_two_sites(layer: nn.Linear) -> None:
    seen = Seen()
    with recording({"latent": Site(layer), "velocity": Site(layer)}, seen):
        layer(torch.randn(1, 3))
    assert [key.site for key in seen.keys] == ["latent", "velocity"]


def test_nothing_is_watched_before_and_after(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    recorder = recording({"latent": Site(layer)}, seen)
    layer(x)
    with recorder:
        pass
    layer(x)
    assert not seen.observations
    assert not layer._forward_hooks


def test_the_hooks_are_gone_after_an_error(layer: nn.Linear) -> None:
    with pytest.raises(RuntimeError), recording({"latent": Site(layer)}, Seen()):
        layer(torch.randn(1, 4))
    assert not layer._forward_hooks


def test_no_hook_is_set_where_nothing_is_wanted(layer: nn.Linear) -> None:
    other = nn.Linear(3, 2)
    selection = Selection(sites=("latent",))
    with recording({"latent": Site(layer), "velocity": Site(other)}, Seen(), selection):
        assert layer._forward_hooks
        assert not other._forward_hooks


def test_what_is_not_selected_is_not_even_laid_out(layer: nn.Linear) -> None:
    laid_out: list[Tensor] = []

    def layout(output: Tensor) -> Tensor:
        laid_out.append(output)
        return output

    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer, layout)}, seen, Selection(frames=(1,), steps=(2,))) as recorder:
        for frame in range(3):
            for step in range(3):
                recorder.begin(frame, Pass("denoise", step))
                layer(x)
    assert seen.keys == [Key(1, "denoise", 2, "latent")]
    assert len(laid_out) == 1
