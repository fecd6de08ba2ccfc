"""Named recipes: `algorithms: {dinov2: {recipe: short, prototypes: 1024}}` takes a published one, with a change.

Row 2. What the YAML gives beside the name stands, the recipe's values stand for all else it names, and the class's
defaults for the rest. Values may follow from the run they are for: the size of its model, its images, its batch, its
steps. They are part of a run's identity and the name is not, so a recipe written out by hand is the same run. Warm-ups
are shares of the run; where a source fixes steps, what these are of this run, up to the source's largest share.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from scaling.errors import Problem, SpecError
from scaling.options import IbotHead, LearningRate, Options, Recipe
from scaling.tuning import rounded

Values = dict[str, Any]
"""Option -> value."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What of a run a recipe's values may follow from."""

    width: int
    """Of the encoder."""
    n_images: int
    """Unique."""
    image_size: int
    patch_size: int
    batch_size: int
    n_steps: int

    def whole_patches(self, share: float) -> int:
        """Pixels of so large a share of the image's side, to the nearest patch."""
        return max(1, round(share * self.image_size / self.patch_size)) * self.patch_size

    def share(self, steps: int, most: float) -> float:
        """Of the run, so many steps."""
        return min(most, steps / max(1, self.n_steps))

    def final_lr(self, last: float, lr: LearningRate) -> float:
        """A last learning rate as a share of the recipe's peak; another peak ends at the same share of it."""
        return min(1.0, rounded(last / lr.resolve(self.batch_size)))


@dataclass(frozen=True, kw_only=True)
class Named:
    """A row of the catalog of recipes."""

    about: str
    source: str
    values: Callable[[Facts], Values]


# --- MAE, I-JEPA, MoCo v3, SimCLR -------------------------------------------------------------------------------


def mae_paper(facts: Facts) -> Values:
    """Warm-up over 40 of 800 epochs."""
    return {
        "lr": LearningRate(base=1.5e-4),
        "weight_decay": 0.05,
        "betas": (0.9, 0.95),
        "warmup": 40 / 800,
        "mask_ratio": 0.75,
        "decoder": "paper",
        "first_weights": "xavier",
        "norm_pixels": True,
        "crop_scale": (0.2, 1.0),
    }


def ijepa_paper(facts: Facts) -> Values:
    """Warm-up over 40 of 300 epochs."""
    return {"predictor": "paper", "warmup": 40 / 300}


def mocov3_paper(facts: Facts) -> Values:
    """The ViTs' commands leave crops at their default, whose smallest area is 0.08; 0.2 is the ResNets'."""
    return {"crop_scale": (0.08, 1.0), "warmup": 40 / 300}


def simclr_cifar(facts: Facts) -> Values:
    """For images of some 32 pixels; its run also leaves out the blur, which is kept here."""
    return {"temperature": 0.5, "colour_strength": 0.5}


# --- the DINO family --------------------------------------------------------------------------------------------

DINO_LR = LearningRate(base=5e-4)
SHORT_LR = LearningRate(base=4e-3, rule="sqrt", ref_batch=1024)
LONG_LR = LearningRate(base=2e-4, rule="sqrt", ref_batch=1024)


def dino_paper(facts: Facts) -> Values:
    """The default options with crops and last learning rate for this run. Teacher at 0.996, whatever the batch; it
    advises 0.9995 for one of 256."""
    return {"lr": DINO_LR, "final_lr": facts.final_lr(1e-6, DINO_LR), "local_size": facts.whole_patches(96 / 224)}


def ibot_paper(facts: Facts) -> Values:
    """800 epochs, of which 10 of warm-up, 30 of rising temperature and 1 with prototypes at rest."""
    return {
        "lr": DINO_LR,
        "final_lr": facts.final_lr(1e-6, DINO_LR),
        "warmup": 10 / 800,
        "teacher_temp_warmup": 30 / 800,
        "freeze_last_layer": 1 / 800,
        "local_size": facts.whole_patches(96 / 224),
    }


def dinov2_short(facts: Facts) -> Values:
    """100 epochs of 1250 steps: 10 of warm-up, 30 of rising temperature, 1 with prototypes at rest.

    Blocks that start at 1e-5 need a long run: a vit_atto on 1,024 phantoms had collapsed to a uniform teacher after 150
    of 300 steps, and with `layer_scale: null` beside the recipe it had not at the end. After 200 steps of `small-data`
    the teacher's entropy was 0.96 of its bound with them and 0.55 without (one seed each).
    """
    return {
        "lr": SHORT_LR,
        "final_lr": facts.final_lr(1e-6, SHORT_LR),
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip_grad": 3.0,
        "warmup": 10 / 100,
        "drop_path": 0.3,
        "drop_path_rule": "uniform",
        "layer_scale": 1e-5,
        "layer_decay": 0.9,
        "patch_lr": 0.2,
        "prototypes": 65536,
        "ibot_head": "tied",
        "centering": "mean",
        "teacher_temp": (0.04, 0.07),
        "teacher_temp_warmup": 30 / 100,
        "ema": (0.992, 1.0),
        "freeze_last_layer": 1 / 100,
        "local_size": facts.whole_patches(96 / 224),
    }


def dinov2_long(facts: Facts) -> Values:
    """500 epochs of 1250 steps: 80 of warm-up; what the file leaves at its default is `short`'s, in epochs too. With
    plain MLPs in the blocks instead of SwiGLU."""
    return {
        **dinov2_short(facts),
        "lr": LONG_LR,
        "final_lr": facts.final_lr(1e-6, LONG_LR),
        "weight_decay_end": 0.2,
        "warmup": 80 / 500,
        "drop_path": 0.4,
        "layer_decay": 1.0,
        "prototypes": 131072,
        "head_bottleneck": 384,
        "ibot_head": IbotHead(prototypes=131072),
        "centering": "sinkhorn",
        "teacher_temp_warmup": 30 / 500,
        "ema": (0.994, 1.0),
        "freeze_last_layer": 1 / 500,
        "local_size": facts.whole_patches(98 / 224),
    }


PROTOTYPES = ((20_000, 1024), (50_000, 2048), (100_000, 4096), (200_000, 16384), (500_000, 32768))
"""Unique images below which so many do; lightly-train@8f5a75c:src/lightly_train/_methods/dino/dino.py."""
MOST_PROTOTYPES = 65536


def by_data_size(facts: Facts) -> Values:
    """Fewer prototypes, sharper and faster teachers for fewer images; the weight decay stays at its start.

    Temperatures and momentum go in straight lines from 20 thousand to a million images. Steps are those of ImageNet's
    epochs in batches of 1024: 10 of warm-up, 30 of rising temperature, 1 with prototypes at rest, of which the source
    caps the first two.
    """
    large = min(1.0, max(0.0, (facts.n_images - 20_000) / 980_000))
    end = round(0.02 + 0.05 * large, 2)
    return {
        "prototypes": next((few for n, few in PROTOTYPES if facts.n_images < n), MOST_PROTOTYPES),
        "teacher_temp": (round(0.02 + 0.02 * (end - 0.02) / 0.05, 2), end),
        "ema": (round(0.99 + 0.006 * large, 3), 1.0),
        "weight_decay": 0.04,
        "weight_decay_end": None,
        "warmup": facts.share(12_500, 0.1),
        "teacher_temp_warmup": facts.share(37_500, 0.3),
        "freeze_last_layer": facts.share(1_250, 0.01),
    }


def dino_small_data(facts: Facts) -> Values:
    """`paper` with the rules by data size."""
    return {**dino_paper(facts), **by_data_size(facts)}


def dinov2_small_data(facts: Facts) -> Values:
    """`short` with the rules by data size, and up to ViT-B a drop path of 0.1: what lightly advises for a ViT-S and
    dinov2's authors for a ViT-B (issue 143). They advise lower learning rates too, which `tune:` finds."""
    return {**dinov2_short(facts), **by_data_size(facts), "drop_path": 0.1 if facts.width <= 768 else 0.3}


LIGHTLY = "lightly-train@8f5a75c: src/lightly_train/_methods/dino/dino.py"
RECIPES: Mapping[str, Named] = MappingProxyType(
    {
        "mae/paper": Named(
            about="with the decoder of the paper, 512 wide and 8 deep",
            source="mae@efb2a80: PRETRAIN.md",
            values=mae_paper,
        ),
        "dinov2/short": Named(
            about="ViT-L, 125,000 steps: one head, 65,536 prototypes, layer-wise learning rates",
            source="dinov2@b8931f7: dinov2/configs/ssl_default_config.yaml",
            values=dinov2_short,
        ),
        "dinov2/long": Named(
            about="ViT-L and ViT-g, 625,000 steps: two heads, 131,072 prototypes, Sinkhorn",
            source="dinov2@b8931f7: dinov2/configs/train/vitl14.yaml and vitg14.yaml",
            values=dinov2_long,
        ),
        "dinov2/small-data": Named(
            about="short; prototypes, teacher and warm-ups by data size, drop path by model size",
            source=f"{LIGHTLY}; dinov2 issue 143",
            values=dinov2_small_data,
        ),
        "dino/paper": Named(
            about="local crops of 96 to 224 pixels, last learning rate 1e-6 at any batch",
            source="dino@04c0ad9: main_dino.py",
            values=dino_paper,
        ),
        "dino/small-data": Named(
            about="paper; prototypes, teacher and warm-ups by data size",
            source=LIGHTLY,
            values=dino_small_data,
        ),
        "ibot/paper": Named(
            about="ViT-S, 800 epochs of ImageNet",
            source="ibot@030ffe4: README.md, main_ibot.py",
            values=ibot_paper,
        ),
        "mocov3/paper": Named(
            about="crops from 0.08 of the image on",
            source="moco-v3@c349e6e: CONFIG.md, main_moco.py",
            values=mocov3_paper,
        ),
        "ijepa/paper": Named(
            about="with the predictor of the paper, 384 wide",
            source="ijepa@52c1ae9: configs/in1k_vith14_ep300.yaml; arXiv 2301.08243, section A.1",
            values=ijepa_paper,
        ),
        "simclr/cifar": Named(
            about="its CIFAR-10 run: milder colours, temperature 0.5",
            source="google-research/simclr: README.md",
            values=simclr_cifar,
        ),
    }
)
"""Algorithm and name of the recipe -> what it sets. `lejepa` has its source's values as defaults."""


def names(algorithm: str) -> list[str]:
    """What `recipe:` may say."""
    return [name.partition("/")[2] for name in RECIPES if name.partition("/")[0] == algorithm]


def resolve(algorithm: str, options: Options, facts: Facts) -> Options:
    """The options with their recipe's values for a run; as they are without a recipe.

    `model_fields_set` stays what it was, so that they can be resolved anew for another run; what tuning chose is in it.
    Raises SpecError where a value given beside the recipe does not go with it.
    """
    if not isinstance(options, Recipe) or options.recipe is None:
        return options
    given = {name: getattr(options, name) for name in options.model_fields_set}
    kind = type(options)
    try:
        whole = kind.model_validate({**RECIPES[f"{algorithm}/{options.recipe}"].values(facts), **given})
    except ValidationError as error:
        found = "; ".join(details["msg"] for details in error.errors())
        what = f"recipe '{options.recipe}' with what is given beside it {found}"
        raise SpecError([Problem(where=f"algorithms.{algorithm}", what=what)]) from None
    return kind.model_construct(_fields_set=set(options.model_fields_set), **dict(whole))
