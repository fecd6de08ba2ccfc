"""The losses are those of the field's library (lightly): values and gradients on fixed tensors, in fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from scaling.algorithms import dinov2, mocov3, simclr
from scaling.algorithms.dinov2 import Centring
from scaling.algorithms.mae import MAE
from scaling.models.shape import Shape
from scaling.options import MaeOptions
from scaling.parallel import Draws

loss = pytest.importorskip("lightly.loss", reason="lightly is not installed; `pip install -e .[dev]` brings it")

B, D, P = 6, 8, 12
"""Images, width, prototypes."""
TEACHER_TEMP = 0.0625
"""Of a size that fp32, in which lightly keeps it, has exactly."""


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor, precision: float = 1e-10) -> None:
    """Both functions have the same value and the same gradients at the inputs.

    fp64 sums of some hundred terms in another order: 1e-16 each, so 1e-14; without room for another definition.
    """
    results = []
    for function in (ours, theirs):
        leaves = [each.clone().requires_grad_() for each in inputs]
        value = function(*leaves)
        value.backward()
        gradients = [leaf.grad for leaf in leaves]
        assert all(gradient is not None and gradient.any() for gradient in gradients)
        results.append((value.detach().double(), gradients))
    torch.testing.assert_close(*results, rtol=precision, atol=precision)


# --- contrastive ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclrs_loss_is_lightlys_nt_xent(temperature: float) -> None:
    theirs = loss.NTXentLoss(temperature=temperature)
    # Ours works in fp32 whatever it is given.
    same(
        lambda a, b: simclr.nt_xent(torch.stack([a, b]), temperature),
        theirs,
        randn(0, B, D).float(),
        randn(1, B, D).float(),
        precision=1e-5,
    )


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_mocos_loss_is_lightlys_nt_xent_with_the_other_keys_in_its_memory_bank(temperature: float) -> None:
    # lightly has no loss named after MoCo v3. Its NT-Xent with a bank is MoCo's InfoNCE of one positive and the bank;
    # v3 takes the batch's other keys for the bank, each query its own, and multiplies by 2 tau (moco/builder.py).
    keys = randn(3, B, D).float()

    def theirs(queries: Tensor) -> Tensor:
        terms = []
        for i in range(B):
            one = loss.NTXentLoss(temperature=temperature, memory_bank_size=(B - 1, D))
            one.memory_bank.bank = F.normalize(torch.cat([keys[:i], keys[i + 1 :]]), dim=1)
            terms.append(one(queries[i : i + 1], keys[i : i + 1]))
        return 2 * temperature * torch.stack(terms).mean()

    same(
        lambda queries: mocov3.info_nce(queries, keys, temperature),
        theirs,
        randn(2, B, D).float(),
        precision=1e-5,
    )


# --- DINOv2 -----------------------------------------------------------------------------------------------------


def centred(teacher: Tensor, centre: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Targets of a mean centring that starts at `centre`, and where it is after the step."""
    centring = Centring(P, "mean").double()
    centring.mean.copy_(centre)
    targets: Tensor = centring(teacher, temperature, len(teacher))
    centring.after_step()
    return targets, centring.mean


@pytest.mark.parametrize("n_local", [0, 3])
def test_dinos_loss_and_its_centre_are_lightlys(n_local: int) -> None:
    teacher, centre = randn(4, 2 * B, P), randn(5, 1, P) * 0.1
    theirs = loss.DINOLoss(output_dim=P, teacher_temp=TEACHER_TEMP, student_temp=0.1, center_momentum=0.9)
    theirs.center.data = centre[None].clone()
    targets, moved = centred(teacher, centre, TEACHER_TEMP)

    def ours(views: Tensor) -> Tensor:
        return dinov2.dino_loss(views[: 2 * B], views[2 * B :] if n_local else None, targets, 0.1)

    # Both are means over the pairs of a teacher's and another view, and over images. The centre moves after its use.
    start = theirs.center.clone()

    def lightlys(views: Tensor) -> Tensor:
        theirs.center.data = start
        value: Tensor = theirs(list(teacher.chunk(2)), list(views.split(B)))
        return value

    same(ours, lightlys, randn(6, (2 + n_local) * B, P))
    torch.testing.assert_close(moved, theirs.center[0], rtol=1e-10, atol=1e-12)


def test_ibots_loss_and_its_centre_are_lightlys() -> None:
    counts = torch.tensor([3, 0, 1, 4])  # a crop without masked patches counts among the crops
    mask = torch.arange(9).reshape(1, 3, 3) < counts[:, None, None]
    weights = (1 / counts.clamp(min=1))[:, None].expand(4, 9)[mask.flatten(1)]
    n_masked = int(counts.sum())
    teacher, centre = randn(7, n_masked, P), randn(8, 1, P) * 0.1
    theirs = loss.IBOTPatchLoss(output_dim=P, teacher_temp=TEACHER_TEMP, student_temp=0.1)
    targets, moved = centred(teacher, centre, TEACHER_TEMP)

    def lightlys(student: Tensor) -> Tensor:
        theirs.center.center = centre.clone()
        value: Tensor = theirs(teacher, student, mask)
        return value

    same(
        lambda student: (dinov2.cross_entropy(student, targets, 0.1) * weights).sum() / len(counts),
        lightlys,
        randn(9, n_masked, P),
    )
    torch.testing.assert_close(moved, theirs.center.value, rtol=1e-10, atol=1e-12)


def test_koleo_is_lightlys() -> None:
    same(dinov2.koleo, loss.KoLeoLoss(), randn(10, B, D))


# --- MAE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_maes_loss_is_lightlys_mean_squared_error_of_its_patches(
    norm_pixels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lightly has no MAE loss: its examples take MSELoss on its own patches, normalised or not. Values of a patch are
    # there in the order row, column, channel, here as in the projection's weight: channel, row, column.
    utils = pytest.importorskip("lightly.models.utils")
    monkeypatch.setattr("scaling.algorithms.mae.random_crop", lambda images, size, scale, draws: images)
    shape = Shape(width=16, depth=1, heads=2, image_size=16, patch_size=4, channels=3)
    module = MAE(shape, MaeOptions(norm_pixels=norm_pixels))
    images = torch.randint(0, 256, (B, 3, 16, 16), dtype=torch.uint8, generator=Generator().manual_seed(11))
    asked: list[tuple[Tensor, Tensor]] = []
    module.decoder.register_forward_hook(lambda layer, inputs, output: asked.append((inputs[2], output)))
    ours, _ = module.loss(images, progress=0.5, draws=Draws(Generator().manual_seed(12)))
    ((masked, predicted),) = asked
    predicted.retain_grad()
    target = utils.get_at_index(utils.patchify((images / 255 - 0.5) / 0.25, 4), masked)
    if norm_pixels:
        target = utils.normalize_mean_var(target)
    leaf = predicted.detach().requires_grad_()
    in_their_order = leaf.unflatten(-1, (3, 4, 4)).movedim(-3, -1).flatten(-3)
    theirs = torch.nn.MSELoss()(in_their_order, target)
    # fp32, some ten thousand values
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(ours, predicted)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, leaf)[0], rtol=1e-4, atol=1e-8)
