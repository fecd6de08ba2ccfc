"""L(N, U, D): Chinchilla's law of effective sizes, where repeated images and excess parameters are worth ever less."""

from __future__ import annotations

import itertools

import numpy as np

from analysis.laws import chinchilla
from analysis.laws.law import Law, Parameter
from analysis.laws.linear import coefficients
from analysis.points import Matrix, Stack, Vector

LEAST_EXPONENT = 0.01
"""The model that suits U images, (alpha A U^beta / (beta B))^(1/alpha), needs exponents above zero."""
LEAST_DECAY, MOST_DECAY = 1e-2, 1e4
"""Of R_D and R_N, which have no unit: repeats worthless at once, and as good as new for thousands of epochs."""
LARGEST = 600.0
"""Of exponents, so that no product of the gradient is infinity times zero."""
EXPONENTS = np.geomspace(0.05, 2.0, 10)
DECAYS = ((2.0, 5.0), (15.0, 5.0), (100.0, 5.0), (15.0, 50.0))
"""(R_D, R_N) of the starts; published: 15.4 and 5.3."""
DECAYS_D, DECAYS_N = (2.0, 15.0, 100.0), (1.0, 5.0, 30.0)
SUITED = (0.0, 0.5)
"""Quantiles of the sizes tried at which a start places the suited model; at the largest all would suit."""


def worth(ratio: Matrix, decay: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """F = 1 + R (1 - e^-q), q = (ratio - 1) / R: what `ratio` times a unit is worth in units; then dF/d ln R, e^-q."""
    q = np.minimum((ratio - 1) / decay, LARGEST)
    fading = np.exp(-q)
    return 1 - decay * np.expm1(-q), decay * (-np.expm1(-q) - q * fading), fading


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """thetas (B, 7): ln A, ln B, ln E, alpha, beta, ln R_D, ln R_N.

    N_opt(U) is where both terms of Chinchilla's law gain alike, alpha A N^-alpha = beta B U^-beta: the model that is
    compute-optimal where U images are. At N = N_opt(U) law and gradient are continuous, since F'(1) = 1.
    """
    ln_n, ln_unique, ln_seen = np.log(x[:, 0]), np.log(np.minimum(x[:, 1], x[:, 2])), np.log(x[:, 2])
    ln_a, ln_b, ln_e, alpha, beta, ln_rd, ln_rn = (column[:, None] for column in thetas.T)
    data_worth, data_slope, _ = worth(np.exp(ln_seen - ln_unique), np.exp(ln_rd))
    ln_data = ln_unique + np.log(data_worth)

    ln_suited = log_suited(ln_unique, thetas)
    excess = np.maximum(ln_n - ln_suited, 0.0)
    ratio = np.exp(np.minimum(excess, LARGEST))
    model_worth, model_slope, fading = worth(ratio, np.exp(ln_rn))
    ln_model = ln_n - excess + np.log(model_worth)
    # d ln N' / d ln N_opt, where the model is larger than suits its images
    moved = np.where(excess > 0, 1 - ratio * fading / model_worth, 0.0)

    terms = np.stack(np.broadcast_arrays(ln_a - alpha * ln_model, ln_b - beta * ln_data, ln_e))
    largest = terms.max(axis=0)
    shares = np.exp(terms - largest)
    total = shares.sum(axis=0)
    shares /= total
    model, data, floor = shares
    gradient = (
        model * (1 - moved),
        data + model * moved,
        floor,
        model * (moved * (ln_suited - 1 / alpha) - ln_model),
        -data * ln_data - model * moved * (ln_unique - 1 / beta),
        -beta * data * data_slope / data_worth,
        -alpha * model * model_slope / model_worth,
    )
    return largest + np.log(total), np.moveaxis(np.stack(gradient), 0, -1)


def log_loss(ln_n: Matrix, unique: float, ln_seen: Matrix, thetas: Matrix) -> Matrix:
    """(B, m) ln L of thetas (B, 7), each at its own sizes (B, m), with `unique` images to draw from."""
    ln_a, ln_b, ln_e, alpha, beta, ln_rd, ln_rn = (column[:, None] for column in thetas.T)
    ln_unique = np.minimum(ln_seen, np.log(unique))
    ln_data = ln_unique + np.log(worth(np.exp(ln_seen - ln_unique), np.exp(ln_rd))[0])
    excess = np.maximum(ln_n - log_suited(ln_unique, thetas), 0.0)
    ln_model = ln_n - excess + np.log(worth(np.exp(np.minimum(excess, LARGEST)), np.exp(ln_rn))[0])
    return np.asarray(np.logaddexp(np.logaddexp(ln_a - alpha * ln_model, ln_b - beta * ln_data), ln_e))


def log_suited(ln_unique: Matrix, thetas: Matrix) -> Matrix:
    """(B, m) ln N_opt(U): beyond it parameters are in excess of their images."""
    ln_a, ln_b, _, alpha, beta = (column[:, None] for column in thetas[:, :5].T)
    return np.asarray((beta * ln_unique + ln_a - ln_b + np.log(alpha) - np.log(beta)) / alpha)


def bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    low, high = chinchilla.bounds(x, y)
    low[3:] = LEAST_EXPONENT
    decays = np.log([[LEAST_DECAY] * 2, [MOST_DECAY] * 2])
    return np.concatenate([low, decays[0]]), np.concatenate([high, decays[1]])


def starts(x: Matrix, y: Vector) -> Matrix:
    """Grids of exponents and decays: where all models suit their images, and where a size among those tried does."""
    return np.concatenate([_suiting_starts(x, y), _excess_starts(x, y)])


def _suiting_starts(x: Matrix, y: Vector) -> Matrix:
    """A, B, E solved for, first as if N' = N, then with the N' that these A and B imply."""
    grid = np.array([(*e, *d) for e in itertools.product(EXPONENTS, EXPONENTS) for d in DECAYS])
    alpha, beta, decay_d, decay_n = (column[:, None] for column in grid.T)
    ln_n, ln_unique, ln_data = _log_sizes(x, decay_d)
    ln_model = np.broadcast_to(ln_n, ln_data.shape)
    for _ in range(2):
        powers = np.stack([-alpha * (ln_model - ln_n.mean()), -beta * (ln_data - ln_unique.mean())], axis=-1)
        basis = np.exp(np.clip(powers, -LARGEST, LARGEST))
        logs = np.log(coefficients(np.concatenate([basis, np.ones_like(basis[..., :1])], axis=-1), y))
        logs[:, 0] += grid[:, 0] * ln_n.mean()
        logs[:, 1] += grid[:, 1] * ln_unique.mean()
        ln_suited = (beta * ln_unique + logs[:, :1] - logs[:, 1:2] + np.log(alpha / beta)) / alpha
        excess = np.clip(ln_n - ln_suited, 0.0, LARGEST)
        ln_model = ln_n - excess + np.log(worth(np.exp(excess), decay_n)[0])
    return np.concatenate([logs, grid[:, :2], np.log(grid[:, 2:])], axis=1)


def _excess_starts(x: Matrix, y: Vector) -> Matrix:
    """The model that suits the mean number of images has a size that was tried: then A follows from B, as
    alpha A N^-alpha = beta B U^-beta there, and B and E are solved for."""
    ln_n, mean_unique = np.log(x[:, 0]), np.log(np.minimum(x[:, 1], x[:, 2])).mean()
    sizes = np.unique(np.quantile(ln_n, SUITED))
    grid = np.array(list(itertools.product(EXPONENTS[::2], EXPONENTS[::2], DECAYS_D, DECAYS_N, sizes)))
    alpha, beta, decay_d, decay_n, size = (column[:, None] for column in grid.T)
    ln_n, ln_unique, ln_data = _log_sizes(x, decay_d)
    excess = np.clip(ln_n - size - beta / alpha * (ln_unique - mean_unique), 0.0, LARGEST)
    ln_model = ln_n - excess + np.log(worth(np.exp(excess), decay_n)[0])
    data = -beta * (ln_data - mean_unique)
    model = np.log(beta / alpha) - alpha * (ln_model - size)
    both = np.exp(np.clip(np.logaddexp(data, model), -LARGEST, LARGEST))
    logs = np.log(coefficients(np.stack([both, np.ones_like(both)], axis=-1), y))
    ln_b = logs[:, :1] + beta * mean_unique
    ln_a = logs[:, :1] + np.log(beta / alpha) + alpha * size
    return np.concatenate([ln_a, ln_b, logs[:, 1:], grid[:, :2], np.log(grid[:, 2:4])], axis=1)


def _log_sizes(x: Matrix, decay_d: Matrix) -> tuple[Vector, Vector, Matrix]:
    """ln N (n,), ln U (n,) and ln D' (S, n)."""
    ln_unique = np.log(np.minimum(x[:, 1], x[:, 2]))
    return np.log(x[:, 0]), ln_unique, ln_unique + np.log(worth(np.exp(np.log(x[:, 2]) - ln_unique), decay_d)[0])


def unidentified(x: Matrix) -> str:
    if not (x[:, 2] > 1.01 * x[:, 1]).any():
        return (
            "no run sees an image twice: R_D, what repeats are worth, cannot be told; the law chinchilla can be fitted"
        )
    seen = x[:, [0, 2]]
    return chinchilla.few_sizes(seen, 3, 3) or (chinchilla.one_line(x[:, :2]) and chinchilla.one_line(seen))


CONSTRAINED = Law(
    name="constrained",
    formula="E + A N'^-alpha + B D'^-beta, D' = U (1 + R_D (1 - e^(-(D/U - 1)/R_D))), N' likewise of N, N_opt(U), R_N",
    source="Muennighoff et al. 2023 (arXiv 2305.16264), section 3 and appendix A",
    inputs=("n_params", "n_images", "images_seen"),
    parameters=(
        *chinchilla.CHINCHILLA.parameters,
        Parameter(name="R_D", meaning="epochs after the first by which repeats lose 1 - 1/e of their worth", log=True),
        Parameter(name="R_N", meaning="the same of parameters beyond N_opt(U), in multiples of it", log=True),
    ),
    evaluate=evaluate,
    bounds=bounds,
    starts=starts,
    unidentified=unidentified,
    derived=chinchilla.FRONTIER,
    example={"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.35, "beta": 0.36, "R_D": 15.4, "R_N": 5.3},
    example_x=np.array(
        [(n, u, u * e) for n in np.geomspace(1e7, 1e10, 6) for u in np.geomspace(1e8, 1e11, 4) for e in (1, 4, 16, 64)]
    ),
)
