"""What is particular to SimCLR, to MoCo v3 and to their projectors; the contract is tested for every algorithm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from scaling.algorithms import closed_forms, mocov3, simclr
from scaling.algorithms.mocov3 import MoCoV3
from scaling.algorithms.projector import BatchNorm, Projector
from scaling.algorithms.simclr import SimCLR
from scaling.data.views import normalise
from scaling.models.shape import Shape
from scaling.optim import adamw
from scaling.options import MocoV3Options, SimClrOptions
from scaling.parallel import Draws, Part

TINY = Shape(width=32, depth=2, heads=2, image_size=16, patch_size=4, channels=3)


pytestmark = pytest.mark.usefixtures("one_thread")


def build_simclr(**options: Any) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(TINY, SimClrOptions(projector_hidden=24, projector_width=8, **options))


def build_mocov3(**options: Any) -> MoCoV3:
    torch.manual_seed(0)
    return MoCoV3(TINY, MocoV3Options(head_hidden=24, head_width=8, **options))


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def images_of(n: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=Generator().manual_seed(1))


def draws(part: Part | None = None) -> Draws:
    return Draws(Generator().manual_seed(2), part)


def parts_of(images: Tensor, count: int) -> Iterator[tuple[Tensor, Draws]]:
    for part in (Part.of(len(images), i, count) for i in range(count)):
        yield images[part.start : part.stop], draws(part)


# --- projectors -------------------------------------------------------------------------------------------------


def test_the_batch_norm_is_torchs_in_training() -> None:
    rows, torchs, ours = randn(0, 6, 5) * 3 + 1, nn.BatchNorm1d(5), BatchNorm(5)
    with torch.no_grad():
        for theirs, mine in zip(torchs.parameters(), ours.parameters(), strict=True):
            theirs.copy_(randn(1, 5))
            mine.copy_(theirs)
    torch.testing.assert_close(ours(rows), torchs(rows))
    assert list(ours.buffers()) == []  # nothing that a part of the batch could leave behind


@pytest.mark.parametrize(
    ("last", "names"),
    [
        ("norm", ["0.weight", "1.weight", "1.bias", "3.weight"]),
        ("scale", ["0.weight", "1.weight", "1.bias", "3.weight", "4.weight"]),
        ("linear", ["0.weight", "1.weight", "1.bias", "3.weight", "3.bias"]),
    ],
)
def test_a_projector_ends_as_its_reference_does(last: closed_forms.Last, names: list[str]) -> None:
    projector = Projector([5, 7, 3], last)
    assert [name for name, _ in projector.named_parameters()] == names
    assert closed_forms.projector_params([5, 7, 3], last) == sum(p.numel() for p in projector.parameters())
    assert projector(randn(0, 6, 5)).shape == (6, 3)


def test_mocov3_has_the_heads_of_the_references_vit_small() -> None:
    # moco/builder.py: 384-4096-4096-256 and 256-4096-256 without biases, two values for each hidden unit's batch norm
    shape = Shape(width=384, depth=12, heads=6, image_size=224, patch_size=16, channels=3)
    parts = closed_forms.mocov3(shape, MocoV3Options()).n_params
    assert parts["projector"] == 384 * 4096 + 4096 * 4096 + 4096 * 256 + 2 * 2 * 4096
    assert parts["predictor"] == 256 * 4096 + 4096 * 256 + 2 * 4096


# --- losses -----------------------------------------------------------------------------------------------------


def test_nt_xent_asks_each_view_for_its_partner_among_all_others() -> None:
    views, temperature = randn(3, 2, 3, 4), 0.5
    rows = views.flatten(0, 1).double()
    unit = rows / rows.norm(dim=1, keepdim=True)
    terms = []
    for i in range(6):
        scores = {j: math.exp(float(unit[i] @ unit[j]) / temperature) for j in range(6) if j != i}
        terms.append(-math.log(scores[(i + 3) % 6] / sum(scores.values())))
    assert simclr.nt_xent(views, temperature).item() == pytest.approx(sum(terms) / 6, rel=1e-5)  # fp32


def test_info_nce_asks_each_query_for_its_key_among_all_keys() -> None:
    queries, keys, temperature = randn(4, 3, 4), randn(5, 3, 4), 0.2
    q, k = (rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (queries, keys))
    terms = []
    for i in range(3):
        scores = [math.exp(float(q[i] @ k[j]) / temperature) for j in range(3)]
        terms.append(-math.log(scores[i] / sum(scores)))
    measured = mocov3.info_nce(queries, keys, temperature).item()
    assert measured == pytest.approx(2 * temperature * sum(terms) / 3, rel=1e-5)  # fp32


def test_simclr_norms_both_views_together_and_mocov3_one_by_one() -> None:
    tokens = randn(6, 8, 2, 32)
    together = build_simclr()
    rows = together.projector(torch.cat([tokens[:, 0], tokens[:, 1]]))
    torch.testing.assert_close(together.loss_of_all(tokens)[0], simclr.nt_xent(torch.stack(rows.split(8)), 0.1))
    apart = build_mocov3()
    keys = randn(7, 2, 8, 8)
    one, other = (apart.predictor(apart.projector(tokens[:, i])) for i in (0, 1))
    expected = mocov3.info_nce(one, keys[1], 0.2) + mocov3.info_nce(other, keys[0], 0.2)
    torch.testing.assert_close(apart.loss_of_all(tokens, keys)[0], expected)


# --- views ------------------------------------------------------------------------------------------------------


def recorded(monkeypatch: pytest.MonkeyPatch, module: Any, names: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Calls of a module's views, which then leave the images as they are."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def stand_in(name: str) -> Any:
        def view(images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            calls.append((name, kwargs))
            return images

        return view

    for name in names:
        monkeypatch.setattr(module, name, stand_in(name))
    return calls


def test_simclrs_colours_change_by_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch, simclr, ["random_crop", "jitter", "blur"])
    build_simclr(colour_strength=0.5).views(normalise(images_of()), draws())
    assert calls == [
        ("random_crop", {}),
        ("jitter", {"light": 0.4, "saturation": 0.4, "hue": 0.1}),
        ("blur", {"probability": 0.5}),
    ]


def test_mocov3_blurs_one_view_and_solarises_some_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch, mocov3, ["random_crop", "jitter", "blur", "solarise"])
    build_mocov3().views(normalise(images_of()), draws())
    chances = [(name, kwargs["probability"]) for name, kwargs in calls if kwargs]
    assert chances == [("blur", 1.0), ("solarise", 0.0), ("blur", 0.1), ("solarise", 0.2)]


@pytest.mark.parametrize("build", [build_simclr, build_mocov3])
def test_the_two_views_of_an_image_differ(build: Any) -> None:
    first, second = build().views(normalise(images_of()), draws()).chunk(2)
    assert first.shape == second.shape == (8, 3, 16, 16)
    assert (first != second).flatten(1).any(dim=1).all()


# --- MoCo v3's encoder of keys ----------------------------------------------------------------------------------


def test_the_encoder_of_keys_starts_as_the_student_without_its_predictor_and_gets_no_gradient() -> None:
    module = build_mocov3()
    assert list(module.teacher) == ["encoder", "projector"]
    for name, teacher in module.teacher.items():
        for mine, theirs in zip(teacher.parameters(), module.get_submodule(name).parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.data_ptr() != theirs.data_ptr()
    module.loss(images_of(), progress=0.5, draws=draws())[0].backward()
    assert all(p.grad is None for p in module.teacher.parameters())


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0)])
def test_the_encoder_of_keys_follows_with_a_momentum_that_rises_by_a_cosine(progress: float, momentum: float) -> None:
    module = build_mocov3()
    before = {name: p.clone() for name, p in module.teacher.named_parameters()}
    with torch.no_grad():
        for p in (*module.encoder.parameters(), *module.projector.parameters()):
            p.add_(1.0)
    module.after_step(progress)
    for name, p in module.teacher.named_parameters():
        torch.testing.assert_close(p, before[name] + (1 - momentum), rtol=0, atol=1e-6)


def test_the_patch_projection_stays_at_its_start() -> None:
    module = build_mocov3()
    before = {name: p.clone() for name, p in module.encoder.named_parameters()}
    optimizer = adamw(module, module.options, lr=1e-2, device=torch.device("cpu"))
    module.loss(images_of(), progress=0.5, draws=draws())[0].backward()
    optimizer.step()
    still = {name for name, p in module.encoder.named_parameters() if torch.equal(p, before[name])}
    assert still == {"vit.pos_embed", "vit.patch_embed.proj.weight", "vit.patch_embed.proj.bias"}


@pytest.mark.parametrize("freeze", [True, False])
def test_what_is_frozen_is_left_out_of_the_stated_parameters_but_not_of_the_encoder(freeze: bool) -> None:
    module = build_mocov3(freeze_patches=freeze)
    cost = closed_forms.mocov3(TINY, module.options)
    counted = sum(p.numel() for p in module.parameters() if p.requires_grad)
    everything = sum(p.numel() for name, p in module.named_parameters() if not name.endswith("pos_embed"))
    assert sum(cost.n_params.values()) == counted
    assert sum(cost.n_params.values()) + cost.n_params_held == everything
    assert cost.n_params.get("frozen", 0) == (-(48 + 1) * 32 if freeze else 0)


# --- in parts ---------------------------------------------------------------------------------------------------


def test_looking_ahead_encodes_once_more_without_activations_and_the_keys_only_once() -> None:
    module = build_mocov3()
    passes: list[tuple[str, bool]] = []
    for name, encoder in (("student", module.encoder), ("teacher", module.teacher["encoder"])):
        encoder.register_forward_hook(
            lambda layer, inputs, output, name=name: passes.append((name, output.requires_grad))
        )
    images = images_of()
    module.look_ahead(parts_of(images, 2), progress=0.5)
    assert passes == [("student", False), ("teacher", False)] * 2
    passes.clear()
    for some, its in parts_of(images, 2):
        module.loss(some, progress=0.5, draws=its)
    assert passes == [("student", True)] * 2
    module.after_step(0.5)
    assert module.ahead is None


@pytest.mark.parametrize("build", [build_simclr, build_mocov3])
def test_a_part_alone_would_have_another_loss(build: Any) -> None:
    module, images = build(), images_of()
    whole, _ = module.loss(images, progress=0.5, draws=draws())
    some, its = next(parts_of(images, 2))
    alone, _ = module.loss(some, progress=0.5, draws=its)
    assert abs(alone - whole) > 0.1  # fewer candidates and other statistics
    module.look_ahead(parts_of(images, 2), progress=0.5)
    torch.testing.assert_close(module.loss(some, progress=0.5, draws=its)[0], whole)
