"""What is particular to I-JEPA and to LeJEPA, by hand and against lightly; the contract is in test_algorithms.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from scaling.algorithms import closed_forms
from scaling.algorithms.ijepa import IJEPA
from scaling.algorithms.lejepa import LeJEPA, sigreg
from scaling.data.views import normalise
from scaling.errors import SpecError
from scaling.models.shape import Shape
from scaling.models.vit import use_fused_attention
from scaling.options import IJepaOptions, LeJepaOptions
from scaling.parallel import Draws, Part

TINY = Shape(width=32, depth=2, heads=2, image_size=16, patch_size=4, channels=1)
SMALL: dict[str, Any] = {"projector_hidden": 16, "projector_width": 8, "n_slices": 32, "n_local": 2, "drop_path": 0.0}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _plain_attention() -> Iterator[None]:
    use_fused_attention(False)
    yield
    use_fused_attention(True)


def generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int, part: Part | None = None) -> Draws:
    return Draws(generator(seed), part)


def randn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=generator(seed))


def images() -> Tensor:
    return torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=generator(1))


def square(grid: int) -> Shape:
    return Shape(width=32, depth=2, heads=2, image_size=4 * grid, patch_size=4, channels=1)


def ijepa(shape: Shape = TINY, **options: Any) -> IJEPA:
    torch.manual_seed(0)
    return IJEPA(shape, IJepaOptions(**options))


def lejepa(**options: Any) -> LeJEPA:
    torch.manual_seed(0)
    return LeJEPA(TINY, LeJepaOptions(**{**SMALL, **options}))


# --- I-JEPA: blocks and context ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "context", "block"), [(4, 4, 3), (7, 13, 9), (8, 20, 11), (14, 60, 34), (16, 76, 45)])
def test_counts_of_patches_are_those_of_the_run(grid: int, context: int, block: int) -> None:
    # Blocks of 0.175 of all patches, 0.15-0.2 at all of these sizes but the smallest; the context has what four leave.
    assert closed_forms.block_counts(square(grid), IJepaOptions()) == (context, block)


def test_with_one_block_the_contexts_square_is_the_limit() -> None:
    assert closed_forms.block_counts(square(8), IJepaOptions(n_targets=1)) == (53, 11)  # 0.85 of 64


@pytest.mark.parametrize(("grid", "options"), [(2, {}), (8, {"target_scale": 0.3}), (8, {"n_targets": 6})], ids=str)
def test_blocks_that_may_hide_all_of_an_image_are_refused(grid: int, options: dict[str, Any]) -> None:
    with pytest.raises(
        SpecError, match=r"algorithms\.ijepa: \d blocks of \d+ patches may hide all \d+ of an image; take"
    ):
        closed_forms.block_counts(square(grid), IJepaOptions(**options))


@pytest.mark.parametrize("grid", [3, 4, 7, 8, 14])
def test_context_and_blocks_have_their_counts_and_share_no_patch(grid: int) -> None:
    context, targets = ijepa(square(grid)).masks(200, draws(grid))
    n_context, n_block = closed_forms.block_counts(square(grid), IJepaOptions())
    assert context.shape == (200, n_context)
    assert targets.shape == (200, 4, n_block)
    for seen, hidden in zip(context.tolist(), targets.tolist(), strict=True):
        assert len(set(seen)) == n_context
        assert all(len(set(block)) == n_block for block in hidden)
        assert not set(seen) & {patch for block in hidden for patch in block}
    assert set(context.flatten().tolist()) <= set(range(grid**2))


@pytest.mark.parametrize("grid", [4, 7, 8, 14])
def test_blocks_are_rectangles_of_the_wanted_aspect_but_for_a_short_row(grid: int) -> None:
    _, targets = ijepa(square(grid)).masks(100, draws(0))
    n_block = targets.shape[2]
    shapes = set()
    for block in targets.flatten(0, 1).tolist():
        rows = [patch // grid for patch in block]
        columns = [patch % grid for patch in block]
        width, height = max(columns) - min(columns) + 1, max(rows) - min(rows) + 1
        full = [(r, c) for r in range(min(rows), max(rows) + 1) for c in range(min(columns), max(columns) + 1)]
        assert sorted(zip(rows, columns, strict=True)) in (full[:n_block], full[-n_block:])  # short below or above
        assert width * (height - 1) < n_block
        assert round(math.sqrt(n_block / 1.5)) <= width <= round(math.sqrt(n_block / 0.75))
        shapes.add((height, width))
    if grid == 14:
        assert shapes == {(7, 5), (6, 6), (5, 7)}  # of 34 patches


def test_blocks_lie_everywhere_with_the_last_row_and_column() -> None:
    # The reference's randint leaves the last row and column out (src/masks/multiblock.py).
    _, targets = ijepa(square(8)).masks(2000, draws(0))
    hidden = torch.zeros(64).index_add(0, targets.flatten(), torch.ones(targets.numel())).reshape(8, 8)
    assert (hidden[[0, 0, 7, 7], [0, 7, 0, 7]] > 0).all()
    # Turned by half a turn, blocks lie as before: opposite patches are hidden equally often, to the spread of counts.
    apart = hidden - hidden.flip(0, 1)
    assert (apart.abs() < 5 * (2 * hidden).sqrt()).all()


def test_the_context_comes_from_a_square_as_far_as_the_blocks_leave_enough_of_it() -> None:
    module = ijepa(square(8), n_targets=1, target_scale=0.05, context_scale=(0.25, 0.25))
    context, targets = module.masks(300, draws(0))
    assert context.shape == (300, 16)
    hidden = torch.zeros(300, 64).scatter(1, targets.flatten(1), 1).reshape(300, 8, 8)
    for seen, blocked in zip(context, hidden, strict=True):
        kept = torch.zeros(64).scatter(0, seen, 1).reshape(8, 8)
        # Some 4 x 4 square is full of context and block; what the block took of it was made up for elsewhere.
        corners = [(kept + blocked)[y : y + 4, x : x + 4] for y in range(5) for x in range(5)]
        assert any((corner > 0).all() for corner in corners)


def test_every_image_has_masks_of_its_own_and_a_part_those_of_the_whole() -> None:
    whole = ijepa(square(8)).masks(7, draws(3))
    assert len({tuple(row) for row in whole[0].tolist()}) == 7
    for i in range(3):
        part = Part.of(7, i, 3)
        mine = ijepa(square(8)).masks(part.stop - part.start, draws(3, part))
        assert all(torch.equal(some, all_[part.start : part.stop]) for some, all_ in zip(mine, whole, strict=True))


# --- I-JEPA: teacher, predictor, loss ---------------------------------------------------------------------------


def test_targets_are_the_teachers_patch_tokens_each_of_mean_0_and_deviation_1() -> None:
    module = ijepa().eval()
    pictures, chosen = normalise(images()), torch.tensor([[[0, 5, 15], [2, 2, 7]]]).expand(8, -1, -1)
    targets = module.targets(pictures, chosen)
    assert targets.shape == (8, 2, 3, 32)
    with torch.no_grad():
        tokens = module.teacher(pictures)[:, 1:].double()
    normed = (tokens - tokens.mean(dim=2, keepdim=True)) / (tokens.var(dim=2, keepdim=True, correction=0) + 1e-5).sqrt()
    for b in range(8):
        torch.testing.assert_close(targets[b].double(), normed[b, chosen[b]], rtol=1e-4, atol=1e-5)  # fp32


def test_the_loss_is_smooth_l1_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ijepa()
    expected, predicted = randn(8, 4, 3, 32), randn(8, 4, 3, 32, seed=1)
    monkeypatch.setattr(module, "targets", lambda *args: expected)
    monkeypatch.setattr(module.predictor, "forward", lambda *args: predicted)
    apart = (predicted - expected).abs().double().numpy()
    assert (apart < 1).any()
    assert (apart > 1).any()
    by_hand = np.where(apart < 1, apart**2 / 2, apart - 0.5).mean()
    assert module.loss(images(), progress=0.5, draws=draws(2))[0].item() == pytest.approx(by_hand, rel=1e-5)  # fp32


def test_ijepas_crops_are_not_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ijepa@52c1ae9:configs/in1k_vith14_ep300.yaml has it: use_horizontal_flip is false."""
    module, seen = ijepa(), list[Tensor]()
    targets = module.targets
    monkeypatch.setattr(module, "targets", lambda crops, at: seen.append(crops) or targets(crops, at))
    rising = torch.arange(0, 256, 16, dtype=torch.uint8).expand(100, 1, 16, 16)
    module.loss(rising, progress=0.5, draws=draws(2))
    (crops,) = seen
    assert (crops[..., 15] > crops[..., 0]).all()


def test_the_student_never_sees_what_it_has_to_predict() -> None:
    module = ijepa()
    context, targets = module.masks(8, draws(2))
    pictures = normalise(images())
    hidden = torch.zeros(8, 16, dtype=torch.bool).scatter(1, targets.flatten(1), True)
    grid = hidden.reshape(8, 1, 4, 1, 4, 1).expand(-1, -1, -1, 4, -1, 4).reshape(8, 1, 16, 16)
    other = torch.where(grid, randn(*pictures.shape), pictures)
    with torch.no_grad():
        one, two = (module.predictor(module.encoder(p, kept_BK=context), context, targets) for p in (pictures, other))
    assert torch.equal(one, two)
    assert not torch.equal(module.targets(pictures, targets), module.targets(other, targets))


def test_the_predictor_fills_in_each_block_without_the_others_and_knows_patches_by_their_place() -> None:
    module = ijepa().eval()
    context, targets = module.masks(8, draws(2))
    tokens = randn(8, 1 + context.shape[1], 32)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        together = module.predictor(tokens, context, targets)
        alone = torch.cat([module.predictor(tokens, context, targets[:, [t]]) for t in range(4)], dim=1)
        shuffled = module.predictor(tokens[:, [0, *(order + 1).tolist()]], context[:, order], targets.flip(2))
    # Other block sizes and orders in the products: fp32 sums of some hundred terms.
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled.flip(2), together, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:, 0, 0], together[:, 0, 1], atol=1e-3)


def test_ijepas_teacher_starts_as_the_student_gets_no_gradient_and_is_what_the_probes_read() -> None:
    module = ijepa()
    assert module.probed is module.teacher
    for mine, theirs in zip(module.teacher.parameters(), module.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    module.loss(images(), progress=0.5, draws=draws(2))[0].backward()
    assert all(p.grad is None and not p.requires_grad for p in module.teacher.parameters())


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.996), (0.25, 0.997), (1.0, 1.0)])
def test_ijepas_teacher_follows_by_a_momentum_that_rises_in_a_straight_line(progress: float, momentum: float) -> None:
    module = ijepa()
    before = [p.clone() for p in module.teacher.parameters()]
    with torch.no_grad():
        for p in module.encoder.parameters():
            p.add_(randn(*p.shape, seed=5))
    module.after_step(progress)
    for was, now, student in zip(before, module.teacher.parameters(), module.encoder.parameters(), strict=True):
        torch.testing.assert_close(now, momentum * was + (1 - momentum) * student)


@pytest.mark.parametrize(
    ("predictor", "depth", "size"),
    [("paper", 12, (384, 6, 2)), ("paper", 24, (384, 12, 2)), ("light", 12, (16, 6, 2)), ("light", 1, (16, 1, 2))],
)
def test_the_predictor_is_the_papers_or_half_the_encoder(predictor: Any, depth: int, size: tuple[int, ...]) -> None:
    shape = Shape(width=32, depth=depth, heads=2, image_size=16, patch_size=4, channels=1)
    assert closed_forms.predictor_size(shape, IJepaOptions(predictor=predictor)) == size


def test_the_papers_predictor_has_its_stated_parameters() -> None:
    options = IJepaOptions(predictor="paper")
    stated = closed_forms.ijepa(TINY, options).n_params["predictor"]
    assert stated == sum(p.numel() for p in IJEPA(TINY, options).predictor.parameters())


def test_ijepas_predictor_is_lightlys() -> None:
    pytest.importorskip("lightly", reason="the field's library is not installed")
    from lightly.models.modules.ijepa_timm import IJEPAPredictorTIMM

    mine = ijepa().predictor
    theirs = IJEPAPredictorTIMM(num_patches=16, depth=1, mlp_dim=32, predictor_embed_dim=16, num_heads=2)
    renamed = {"embed": "predictor_embed", "predict": "predictor_proj", "mask_token": "decoder.mask_token"}
    renamed |= {"blocks": "decoder.blocks", "norm": "decoder.norm"}
    state = {".".join([renamed[(at := name.split("."))[0]], *at[1:]]): p for name, p in mine.state_dict().items()}
    theirs.load_state_dict({**state, "decoder.pos_embed": mine.positions[:, 1:]})
    for block in theirs.decoder.blocks:
        block.norm1.eps = block.norm2.eps = 1e-5  # timm's default; theirs 1e-6
    context, targets = ijepa().masks(1, draws(2))
    tokens = randn(1, context.shape[1], 32)
    with torch.no_grad():
        expected = theirs(tokens, context, list(targets.unbind(1)))
        # Theirs has no class token: one that no other token attends to differs from none at all by its own row alone.
        without = without_class_token(mine, tokens, context, targets)
    torch.testing.assert_close(without[0], expected, rtol=1e-4, atol=1e-5)


def without_class_token(predictor: torch.nn.Module, tokens: Tensor, context: Tensor, targets: Tensor) -> Tensor:
    """The predictor's answer with the class token taken out in front of its blocks."""
    handle = predictor.blocks.register_forward_pre_hook(lambda layer, inputs: (inputs[0][:, 1:],))  # type: ignore[union-attr, operator]
    first = torch.zeros(len(tokens), 1, tokens.shape[2])
    answer: Tensor = predictor(torch.cat([first, tokens], dim=1), context, targets)
    handle.remove()
    return answer


# --- LeJEPA: SIGReg ---------------------------------------------------------------------------------------------


def unit(d: int, s: int, seed: int = 9) -> Tensor:
    return F.normalize(randn(d, s, seed=seed), dim=0)


def test_sigreg_has_the_value_and_the_gradient_of_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss.lejepa_loss", reason="the field's library is not installed")
    rows, slices = randn(3, 40, 6) * 1.3 + 0.2, unit(6, 20)
    theirs = loss.SIGReg(num_vectors=20)
    theirs._generate_unit_vectors = lambda *args: slices
    one, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    value, expected = sigreg(one, slices), theirs(other)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)  # fp32 sums of some hundred terms
    assert other.grad is not None
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * other.grad.abs().max().item())


def test_lejepas_loss_is_lightlys() -> None:
    lightly = pytest.importorskip("lightly.loss.lejepa_loss", reason="the field's library is not installed")
    module = lejepa(sigreg_weight=0.2)
    module.projector = torch.nn.Identity()  # type: ignore[assignment]
    rows, slices = randn(4, 12, 8), unit(8, 32)  # two global views, two local ones
    theirs = lightly.LeJEPALoss(lambda_param=0.2, sigreg_num_vectors=32)
    theirs.sigreg._generate_unit_vectors = lambda *args: slices
    loss, terms = module.loss_of_all(rows.transpose(0, 1), slices)
    torch.testing.assert_close(loss, theirs(global_proj=rows[:2], local_proj=rows[2:]), rtol=1e-5, atol=0)  # fp32
    torch.testing.assert_close(loss, 0.2 * terms["sigreg"] + 0.8 * terms["prediction"])


def test_sigreg_is_the_integral_over_frequencies_both_ways() -> None:
    rows, slices = randn(1, 30, 5, seed=3), unit(5, 1)
    projected = (rows[0].double() @ slices.double())[:, 0].numpy()
    t = np.linspace(-3, 3, 33)
    empirical = np.exp(1j * t[:, None] * projected).mean(axis=1)
    normal = np.exp(-(t**2) / 2)
    by_hand = 30 * np.trapezoid(np.abs(empirical - normal) ** 2 * normal, t)
    assert sigreg(rows, slices).item() == pytest.approx(by_hand, rel=1e-5)  # fp32 against fp64


def null_value(n_knots: int = 17) -> float:
    """Mean of SIGReg over normal images: B |phi_B - phi|^2 has the mean 1 - phi^2 at any B, here with its weights."""
    t = np.linspace(-3, 3, 2 * n_knots - 1)
    normal = np.exp(-(t**2) / 2)
    return float(np.trapezoid((1 - normal**2) * normal, t))


@pytest.mark.parametrize("n", [32, 512])
def test_sigreg_of_normal_embeddings_is_its_null_value_whatever_the_batch(n: int) -> None:
    values = [sigreg(randn(4, n, 16, seed=s), unit(16, 64, seed=s)).item() for s in range(30)]
    # Slices of one sample are correlated: the spread is taken from the 30 samples, 4 standard errors allowed.
    assert np.mean(values) == pytest.approx(null_value(), abs=4 * np.std(values) / math.sqrt(30))
    assert np.std(values) < 0.2 * null_value()


ELSE = {
    "collapsed to a point": lambda x: 0 * x,
    "half as large": lambda x: x / 2,
    "twice as large": lambda x: 2 * x,
    "off centre": lambda x: x + 0.5,
    "collapsed to a plane": lambda x: torch.cat([x[..., :2], 0 * x[..., 2:]], dim=-1),
    "of unequal axes": lambda x: x * torch.linspace(0.2, 2, 16),
    "on a sphere of few points": lambda x: 4 * F.one_hot(x.argmax(dim=-1), 16).float(),
    "in two clusters": lambda x: x + torch.where(torch.arange(x.shape[1]) % 2 == 0, 1.0, -1.0)[:, None],
}


@pytest.mark.parametrize("kind", ELSE)
def test_sigreg_of_anything_else_is_larger(kind: str) -> None:
    values = [sigreg(ELSE[kind](randn(2, 512, 16, seed=s)), unit(16, 64, seed=s)).item() for s in range(3)]
    assert min(values) > 1.5 * null_value()


def test_gradient_descent_on_sigreg_makes_a_collapsed_cloud_normal() -> None:
    rows = (0.1 * randn(1, 256, 4) + 1).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        sigreg(rows, unit(4, 32, seed=step)).backward()
        optimizer.step()
    cloud = rows.detach()[0]
    assert cloud.mean(dim=0).abs().max() < 0.1
    torch.testing.assert_close(cloud.T.cov(), torch.eye(4), rtol=0, atol=0.15)


# --- LeJEPA: views, slices, look-ahead --------------------------------------------------------------------------


def test_views_are_two_global_and_six_local_ones_of_half_the_size() -> None:
    large, small = lejepa(n_local=6).views(normalise(images()), draws(0))
    assert large.shape == (16, 1, 16, 16)
    assert small.shape == (48, 1, 8, 8)


def test_lejepa_without_local_views_compares_the_global_ones() -> None:
    loss, terms = lejepa(n_local=0).loss(images(), progress=0.5, draws=draws(2))
    assert torch.isfinite(loss)
    assert terms["prediction"] > 0


def test_tokens_hold_the_views_of_an_image_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    module = lejepa().eval()
    pictures = normalise(images())
    monkeypatch.setattr(module, "views", lambda *args: [torch.cat([pictures, -pictures])])
    with torch.no_grad():
        tokens = module.tokens(images(), draws(0))
        expected = torch.stack([module.encoder(pictures)[:, 0], module.encoder(-pictures)[:, 0]], dim=1)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)  # fp32, other block sizes


def test_slices_are_unit_vectors_the_same_for_every_part_of_a_step() -> None:
    module = lejepa(n_slices=500)
    slices = module.slices(draws(4))
    torch.testing.assert_close(slices.norm(dim=0), torch.ones(500))
    assert torch.equal(module.slices(draws(4, Part.of(7, 1, 3))), slices)
    assert not torch.equal(module.slices(draws(5)), slices)
    # Isotropic: 500 unit vectors of 8 values have the second moment 1 / 8, with errors of about 0.16 / sqrt(500).
    torch.testing.assert_close(slices @ slices.T / 500, torch.eye(8) / 8, rtol=0, atol=0.03)


def test_looking_ahead_keeps_no_activations_and_is_forgotten_after_the_step() -> None:
    module = lejepa()
    passes: list[bool] = []
    module.encoder.register_forward_hook(lambda layer, inputs, output: passes.append(output.requires_grad))
    parts = [Part.of(8, i, 2) for i in range(2)]
    module.look_ahead(((images()[p.start : p.stop], draws(2, p)) for p in parts), progress=0.5)
    assert passes == [False] * 4  # global and local views of two parts
    assert module.ahead is not None
    assert module.ahead.by_token_BVD.shape == (8, 4, 32)
    module.after_step(0.5)
    assert module.ahead is None
