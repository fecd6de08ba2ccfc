"""AdamW's groups and the schedules, against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaling.catalog import ALGORITHMS
from scaling.models.shape import Shape
from scaling.optim import adamw, clip, learning_rate, set_schedules, weight_decay
from scaling.options import DinoV2Options, LearningRate, MaeOptions, Recipe

CPU = torch.device("cpu")
SHAPE = Shape(width=32, depth=2, heads=2, image_size=16, patch_size=4, channels=1)

SMALL = DinoV2Options(prototypes=16, head_hidden=16, head_bottleneck=8)


def recipe(**changed: object) -> Recipe:
    return Recipe(**{"lr": LearningRate(base=1.0), **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [MaeOptions(), SMALL])
def test_weight_matrices_decay_and_biases_norms_and_tokens_do_not(options: Recipe) -> None:
    name = "mae" if isinstance(options, MaeOptions) else "dinov2"
    module = ALGORITHMS[name].load()(SHAPE, options)
    names = {id(p): n for n, p in module.named_parameters()}
    decays, rest = (
        [names[id(p)] for p in group["params"]] for group in adamw(module, options, lr=1e-3, device=CPU).param_groups
    )
    assert all(n.endswith(("weight", "prototypes")) for n in decays)
    assert not [n for n in decays if "norm" in n]
    assert {"cls_token", "mask_token"} <= {n.split(".")[-1] for n in rest}
    assert all(n.endswith(("bias", "token")) or "norm" in n for n in rest)
    assert sorted(decays + rest) == sorted(n for n, p in module.named_parameters() if p.requires_grad)


def test_without_factors_there_are_the_two_groups_that_old_checkpoints_have() -> None:
    module = ALGORITHMS["dinov2"].load()(SHAPE, SMALL)
    optimizer = adamw(module, SMALL, lr=1e-3, device=CPU)
    old = optimizer.state_dict()
    for group in old["param_groups"]:
        del group["lr_factor"]  # as a checkpoint has it from before there were factors
    optimizer.load_state_dict(old)
    set_schedules(optimizer, SMALL, SMALL.warmup, 2.0)
    assert [(group["decays"], group["lr"]) for group in optimizer.param_groups] == [(True, 2.0), (False, 2.0)]


def test_each_layer_learns_at_its_share_of_the_peak() -> None:
    """Of two blocks, decay 0.5: the last 1/2, the first 1/4, tokens 1/8, patches 1/8 x 0.2, norm and head 1."""
    options = SMALL.model_copy(update={"layer_decay": 0.5, "patch_lr": 0.2, "layer_scale": 1e-5})
    module = ALGORITHMS["dinov2"].load()(SHAPE, options)
    optimizer = adamw(module, options, lr=1e-3, device=CPU)
    set_schedules(optimizer, options, options.warmup, 8.0)
    names = {id(p): n for n, p in module.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["encoder.vit.blocks.1.attn.qkv.weight"] == pytest.approx(4.0)
    assert rates["encoder.vit.blocks.0.mlp.fc1.bias"] == rates["encoder.vit.blocks.0.ls1.gamma"] == pytest.approx(2.0)
    assert rates["encoder.vit.cls_token"] == rates["mask_token"] == pytest.approx(1.0)
    assert rates["encoder.vit.patch_embed.proj.weight"] == pytest.approx(0.2)
    assert rates["encoder.vit.norm.weight"] == rates["head.prototypes"] == pytest.approx(8.0)
    assert len(rates) == sum(p.requires_grad for p in module.parameters())


def test_scales_of_layers_do_not_decay() -> None:
    options = SMALL.model_copy(update={"layer_scale": 1e-5})
    module = ALGORITHMS["dinov2"].load()(SHAPE, options)
    _, rest = adamw(module, options, lr=1e-3, device=CPU).param_groups
    assert {id(block.ls2.gamma) for block in module.encoder.vit.blocks} <= {id(p) for p in rest["params"]}


def test_the_groups_have_the_recipes_decay_and_none() -> None:
    optimizer = adamw(nn.Linear(3, 2), recipe(weight_decay=0.3, betas=(0.8, 0.9)), lr=0.1, device=CPU)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]] == [(2, 3), (2,)]
    assert all(group["betas"] == (0.8, 0.9) and group["lr"] == 0.1 for group in optimizer.param_groups)


def test_the_first_step_is_adamws() -> None:
    """Bias correction makes the first step lr x the gradient's sign, after the matrix shrank by lr x decay."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, -2.0], [0.0, 4.0]])
    layer.bias.data = torch.tensor([0.5, -0.5])
    optimizer = adamw(layer, recipe(weight_decay=0.5), lr=0.1, device=CPU)
    layer.weight.grad, layer.bias.grad = torch.full((2, 2), -4.0), torch.full((2,), 3.0)
    optimizer.step()
    torch.testing.assert_close(layer.weight.data, torch.tensor([[1.05, -1.8], [0.1, 3.9]]))
    torch.testing.assert_close(layer.bias.data, torch.tensor([0.4, -0.6]))


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.05, 1.0), (0.1, 2.0), (0.325, 2 * (2 + 2**0.5) / 4), (0.55, 1.0), (1.0, 0.0)],
)
def test_the_learning_rate_rises_linearly_then_falls_by_a_cosine(progress: float, expected: float) -> None:
    assert learning_rate(recipe(warmup=0.1), progress, 2.0) == pytest.approx(expected, abs=1e-12)


def test_the_learning_rate_ends_at_its_stated_share() -> None:
    assert learning_rate(recipe(final_lr=0.1), 1.0, 2.0) == pytest.approx(0.2)
    assert learning_rate(recipe(final_lr=0.1, warmup=0.0), 0.5, 2.0) == pytest.approx(1.1)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_run_without_warm_up_or_with_nothing_else_has_finite_rates(warmup: float) -> None:
    rates = [learning_rate(recipe(warmup=warmup), step / 10, 1.0) for step in range(1, 11)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates) == pytest.approx(1.0 if warmup else 0.975528, abs=1e-6)  # (1 + cos 18 degrees) / 2


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.04), (0.5, 0.22), (1.0, 0.4)])
def test_weight_decay_goes_from_its_first_value_to_its_last_by_a_cosine(progress: float, expected: float) -> None:
    assert weight_decay(recipe(weight_decay=0.04, weight_decay_end=0.4), progress) == pytest.approx(expected)
    assert weight_decay(recipe(weight_decay=0.04), progress) == 0.04


def test_schedules_leave_the_group_without_decay_without_decay() -> None:
    rule = recipe(weight_decay=0.04, weight_decay_end=0.4, warmup=0.1)
    optimizer = adamw(nn.Linear(3, 2), rule, lr=2.0, device=CPU)
    assert set_schedules(optimizer, rule, 0.55, 2.0) == pytest.approx(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 1.0])
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(weight_decay(rule, 0.55))
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize(("rule", "expected"), [("linear", 0.25), ("sqrt", 0.5), ("constant", 1.0)])
def test_the_peak_follows_the_batch_size_as_stated(rule: str, expected: float) -> None:
    rate = LearningRate(base=1.0, rule=rule, ref_batch=256)  # type: ignore[arg-type]
    assert rate.resolve(64) == pytest.approx(expected)


@pytest.mark.parametrize(("largest", "expected"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0]), (None, [3.0, 4.0])])
def test_gradients_above_the_largest_norm_are_scaled_to_it(largest: float | None, expected: list[float]) -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    clip([first, second], largest)
    # torch divides by the norm + 1e-6
    assert [first.grad.item(), second.grad.item()] == pytest.approx(expected, rel=1e-5)
