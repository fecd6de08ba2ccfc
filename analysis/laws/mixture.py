"""The error of a task as a function of model size, data size and the shares of the modalities in the data.

error = E + A N^-alpha + T, where T joins what each modality's own images would leave, t_j = B_j (h_j D)^-beta, by

    T = (sum_j t_j^-kappa)^(-1 / kappa),

a constant elasticity of substitution (Arrow et al. 1961) of effective data: with gamma = kappa beta, (T)^(-1/beta) is
the gamma-norm of the images of each modality, each counted at its own exchange rate. gamma = 1: a modality's images
replace another's at a fixed rate; gamma < 1: they complement each other and a mixture beats its parts; gamma > 1: the
best modality alone is best. Each modality alone gives a power law, as Hoffmann et al. 2022 (arXiv 2203.15556) have it;
fitting proportions at all follows Ye et al. 2024 (arXiv 2403.16952) and Shukor et al. 2025 (arXiv 2507.09404).
"""

from __future__ import annotations

import numpy as np

from analysis.laws.law import MAX_EXPONENT, VANISHING, Derived, Law, Parameter
from analysis.laws.linear import coefficients
from analysis.points import Matrix, Stack, Vector

MIN_KAPPA, MAX_KAPPA = 0.2, 50.0
"""Below, mixing any two modalities would halve the error five times over; above, T is the least of its parts."""
EXPONENTS = np.array([0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.8])
KAPPAS = np.array([0.5, 1.5, 4.0, 12.0])
TILTS = np.array([-1.0, 1.0])
"""ln of the factors by which one modality's coefficient departs from the others' in further starts."""
KEPT = 24
"""Starts that are tilted."""
ABSENT = -1e30
"""ln of no images at all, finite so that no gradient becomes infinite."""


def mixture(modalities: tuple[str, ...]) -> Law:
    """Inputs n_params, n_images and share_<modality>, which add up to 1 in each point."""
    k = len(modalities)
    equal = np.full(k, 1 / k)
    design = [*np.eye(k), equal, *(0.5 * np.eye(k) + 0.5 * equal)]
    example_x = np.array([[n, d, *h] for n in (1e6, 1e7, 1e8) for d in (1e4, 1e5, 1e6) for h in design])
    parameters = (
        Parameter(name="E", meaning="floor: the error that neither size nor data remove", log=True),
        Parameter(name="A", meaning="error of one parameter above the floor", log=True),
        Parameter(name="alpha", meaning="exponent of model size"),
        Parameter(name="beta", meaning="exponent of the images of one modality"),
        Parameter(name="kappa", meaning="how little modalities complement each other", log=True),
        *(Parameter(name=f"B[{m}]", meaning=f"error of one image of {m} alone", log=True) for m in modalities),
    )
    shares = tuple(f"share_{m}" for m in modalities)
    example = {"E": 0.03, "A": 20.0, "alpha": 0.4, "beta": 0.3, "kappa": 1.6}
    return Law(
        name="mixture",
        formula="E + A N^-alpha + (sum_j (B_j (h_j D)^-beta)^-kappa)^(-1/kappa)",
        source="this project; Hoffmann et al. 2022 (arXiv 2203.15556), eq. 2, with the data term of Arrow et al. 1961",
        inputs=("n_params", "n_images", *shares),
        parameters=parameters,
        evaluate=_evaluate,
        bounds=_bounds,
        starts=_starts,
        unidentified=lambda x: _unidentified(modalities, x),
        derived=(
            Derived(
                name="gamma",
                meaning="substitution: below 1 a mixture beats its parts",
                compute=lambda thetas: np.exp(thetas[:, 4]) * thetas[:, 3],
            ),
            *(_best_share(share, j) for j, share in enumerate(shares)),
        ),
        may_be_zero=shares,
        example=example | {f"B[{m}]": 4.0 * 1.5**j for j, m in enumerate(modalities)},
        example_x=example_x,
    )


def _best_share(share: str, j: int) -> Derived:
    return Derived(name=f"best_{share}", meaning="in the best mixture", compute=lambda thetas: optimum(thetas)[:, j])


def optimum(thetas: Matrix) -> Matrix:
    """(B, p) thetas -> (B, k) the shares that make T least, whatever N and D are.

    With gamma < 1 sum_j B_j^-kappa h_j^gamma has its one maximum at h_j ~ B_j^(-kappa / (1 - gamma)); else the least
    B_j takes all.
    """
    ln_b, kappa = thetas[:, 5:], np.exp(thetas[:, 4:5])
    gamma = kappa * thetas[:, 3:4]
    steep = kappa / np.maximum(1 - gamma, 1e-9)
    logits = -steep * (ln_b - ln_b.min(axis=1, keepdims=True))
    shares = np.exp(np.maximum(logits, -700.0))
    alone = np.eye(ln_b.shape[1])[ln_b.argmin(axis=1)]  # equally good ones too: between them all is worse
    return np.where(gamma < 1, shares / shares.sum(axis=1, keepdims=True), alone)


def with_shares(thetas: Matrix, shares: Matrix) -> Matrix:
    """(B, p) thetas and a mixture (B, k) or (k,) each -> (B, 5) thetas of the law `chinchilla` that is left, its B
    the error of one image of the mixture."""
    ln_e, ln_a, alpha, beta = thetas[:, :4].T
    kappa = np.exp(thetas[:, 4:5])
    there = np.broadcast_to(shares, thetas[:, 5:].shape) > 0
    powers = -kappa * (thetas[:, 5:] - beta[:, None] * np.log(np.where(there, shares, 1.0)))
    powers = np.where(there, powers, -np.inf)
    most = powers.max(axis=1, keepdims=True)
    log_sum = most + np.log(np.exp(powers - most).sum(axis=1, keepdims=True))
    return np.column_stack([ln_a, -log_sum / kappa, ln_e, alpha, beta])


def _log_images(x: Matrix) -> Matrix:
    """(n, k) ln of the images of each modality; ABSENT where there is none."""
    images = x[:, 2:] * x[:, 1:2]
    return np.where(images > 0, np.log(np.where(images > 0, images, 1.0)), ABSENT)


def _evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    ln_n, ln_h = np.log(x[:, 0]), _log_images(x)
    there = ln_h > ABSENT
    ln_h = np.where(there, ln_h, 0.0)
    floor, ln_a, alpha, beta = (thetas[:, i : i + 1] for i in range(4))
    kappa = np.exp(thetas[:, 4])[:, None, None]
    parts = thetas[:, None, 5:] - beta[:, :, None] * ln_h  # (B, n, k) ln t_j
    powers = np.where(there, -kappa * parts, -np.inf)
    most = powers.max(axis=2, keepdims=True)
    weight = np.exp(powers - most)
    total = weight.sum(axis=2, keepdims=True)
    weight /= total  # share of each modality in d ln T
    log_sum = (most + np.log(total))[..., 0]
    data = -log_sum / kappa[..., 0]
    size = ln_a - alpha * ln_n
    curves = np.logaddexp(np.logaddexp(size, data), floor)
    of_size, of_data, of_floor = np.exp(size - curves), np.exp(data - curves), np.exp(floor - curves)
    # d ln T / d ln kappa = kappa d/dkappa(-log_sum / kappa) = log_sum / kappa + sum_j weight_j ln t_j
    by_kappa = -data + (weight * np.where(there, parts, 0.0)).sum(axis=2)
    jacobians = np.empty((*curves.shape, thetas.shape[1]))
    jacobians[..., 0], jacobians[..., 1], jacobians[..., 2] = of_floor, of_size, -of_size * ln_n
    jacobians[..., 3] = -of_data * (weight * ln_h).sum(axis=2)
    jacobians[..., 4] = of_data * by_kappa
    jacobians[..., 5:] = of_data[..., None] * weight
    return curves, jacobians


def _bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    """A coefficient is bounded above alone by what its modality could explain of the largest error, with room."""
    k = x.shape[1] - 2
    least, most = np.log(y.min()) - VANISHING, np.log(y.max())
    low = np.array([least, -np.inf, 0.0, 0.0, np.log(MIN_KAPPA), *np.full(k, -np.inf)])
    high = np.array([most, np.inf, MAX_EXPONENT, MAX_EXPONENT, np.log(MAX_KAPPA), *np.full(k, np.inf)])
    return low, high


def _starts(x: Matrix, y: Vector) -> Matrix:
    """With one coefficient for all modalities the law is linear in E, A and it; then each modality departs in turn."""
    ln_n, ln_h = np.log(x[:, 0]), _log_images(x)
    k = ln_h.shape[1]
    alpha, beta, kappa = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS, KAPPAS))
    centre_n, centre_h = ln_n.mean(), ln_h[ln_h > ABSENT].mean()
    there = np.where(ln_h > ABSENT, ln_h - centre_h, -np.inf)
    data = np.exp(-np.log(np.exp((kappa * beta)[:, None, None] * there).sum(axis=2)) / kappa[:, None])
    size = np.exp(-alpha[:, None] * (ln_n - centre_n))
    basis = np.stack([np.ones_like(data), size, data], axis=-1)
    solved = np.log(coefficients(basis, y))
    starts = np.column_stack(
        [solved[:, 0], solved[:, 1] + alpha * centre_n, alpha, beta, np.log(kappa)]
        + [solved[:, 2] + beta * centre_h] * k
    )
    misses = np.abs(_evaluate(x, starts)[0] - np.log(y)).mean(axis=1)
    best = starts[np.argsort(misses, kind="stable")[:KEPT]]
    tilts = [np.concatenate([np.zeros(5), tilt * np.eye(k)[j]]) for j in range(k) for tilt in TILTS]
    return np.concatenate([best, *(best + tilt for tilt in tilts)])


def _unidentified(modalities: tuple[str, ...], x: Matrix) -> str:
    shares = x[:, 2:]
    if (np.abs(shares.sum(axis=1) - 1) > 1e-6).any():
        return "the shares of the modalities do not add up to 1 in every point"
    if absent := [m for m, column in zip(modalities, shares.T, strict=True) if not (column > 0).any()]:
        return f"no point has images of {', '.join(absent)}"
    rank = int(np.linalg.matrix_rank(np.unique(shares, axis=0), tol=1e-6))
    if rank < len(modalities):
        return f"the mixtures span {rank} directions, too few to tell {len(modalities)} modalities apart"
    for j, what in ((0, "n_params"), (1, "n_images")):
        if len(np.unique(x[:, j])) < 2:
            return f"one {what} alone: its exponent is not seen"
    return ""
