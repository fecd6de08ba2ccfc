"""What a bound of one parameter does to the test of a value v of a number g; v is in an interval unless it is rare.

A floor cannot be negative, so estimates near zero are not normal: intervals by Student's t cover up to 97.5 %, not 95.
Outcomes are ordered by the likelihood ratio, as Feldman and Cousins (1998, Phys. Rev. D 57, 3873) order those of a
bounded mean, but among outcomes alike in what the best curve with g = v says of the bounded parameter and of the noise.
If v is true these are sufficient for both, so the level holds whatever they are (Neyman's structure). For a law linear
near its optimum it is exact where the parameter itself is tested, at its bound and far from it, and within half a per
cent between. Where no outcome as likely meets the bound the test is Student's, to the last digit. Only the nearest of
several bounds counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.points import Index, Matrix, Stack, Vector

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
LEAST = 1e-100
"""Length of a gradient that is none: its inverse square leaves the range of numbers."""
ONE = 1 - 1e-9
"""Squared correlation from which on g is taken for the bounded parameter itself."""


def inverse_information(jacobian: Stack) -> Stack:
    """(B, p, p) of weighted gradients (B, n, p), for residuals of variance 1; zero for a parameter without gradient.

    By columns of length 1, so that a parameter that hardly matters comes out as badly known and spoils no other.
    """
    length = np.linalg.norm(jacobian, axis=1)
    jacobian, length = np.where(length > LEAST, 1.0, 0.0)[:, None, :] * jacobian, np.where(length > LEAST, length, 1.0)
    inverse = np.linalg.pinv(jacobian / length[:, None, :])
    found: Stack = inverse @ np.swapaxes(inverse, 1, 2) / (length[:, :, None] * length[:, None, :])
    return found


@dataclass(frozen=True, kw_only=True)
class Place:
    """B tested values and the best curve at each, linearised."""

    jacobian: Stack
    """(B, n, p) weighted gradients; zero for parameters at a bound other than the one that counts."""
    residuals: Matrix
    """(B, n) weighted, curve - measured."""
    gradient: Matrix
    """(B, p) of the number g that is tested."""
    luck: Vector
    """(B,) variance that a new run adds to g's, for residuals of variance 1; 0 where g is tested itself."""
    gap: Vector
    """(B,) of a new run: curve - run."""
    bounded: Index
    """(B,) index of the parameter."""
    room: Vector
    """(B,) from its bound to its value, in the parameter's own unit, positive; in that of ln if its gradient is."""
    inward: Vector
    """(B,) 1 where it lies above its bound, -1 below."""

    def distance(self) -> tuple[Vector, Vector]:
        """(B,) distance of the bounded parameter from its bound, which it may pass, in its own errors for residuals of
        variance 1, and its correlation with g or the new run."""
        rows = np.arange(len(self.room))
        inverse = inverse_information(self.jacobian)
        towards = np.einsum("bpq,bq->bp", inverse, self.gradient)
        spread = np.einsum("bp,bp->b", towards, self.gradient) + self.luck
        pull = np.einsum("bnp,bn->bp", self.jacobian, self.residuals)
        own = np.sqrt(inverse[rows, self.bounded, self.bounded])
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = pull + np.where(self.luck > 0, self.gap / self.luck, 0.0)[:, None] * self.gradient
            moved = np.einsum("bp,bp->b", towards, pull) / spread
            step = towards[rows, self.bounded] * moved - np.einsum("bq,bq->b", inverse[rows, self.bounded], pull)
            rho = self.inward * towards[rows, self.bounded] / (own * np.sqrt(spread))
            far = (self.room + self.inward * step) / own
        itself = rho**2 > ONE
        return np.where(itself, self.room / own, far), np.where(itself, np.sign(rho), np.clip(rho, -1, 1))


def off_bound(share: Vector, distance: Vector, rho: Vector, free: Vector) -> Vector:
    """(B,) how often S_min / T <= share among outcomes at w / sqrt(T) = distance >= 0, with `free` = n - p."""
    plain, lean, rest = np.sqrt(1 - share), distance * np.abs(rho), 1 + distance**2 - share
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = -rest / (lean + np.sqrt(lean**2 + (1 - rho**2) * rest))
        low = np.where(plain * np.abs(rho) <= distance, -plain, np.clip(beyond, -1, 0))
        return _below(low, free) + _below(-plain, free)


def at_bound(share: Vector, rho: Vector, free: Vector) -> Vector:
    """(B,) how often S_min / S(v) <= share among outcomes with w <= 0, if the parameter is at its bound."""
    angle, widest = np.arcsin(np.abs(rho)), np.arcsin(np.sqrt(share))
    half = np.maximum(widest - angle, 0) / 2
    turn = angle + half * (1 + NODES[:, None])
    inside = np.maximum(share - (1 - share) * np.tan(turn) ** 2, 0) ** (free / 2)
    # the optimum lies off the bound; at it, and for curves at the bound g is beyond v as it is with the parameter free;
    # at it, and for these it is on the other side
    two_sided = angle / np.pi * share ** (free / 2)
    return two_sided + _below(-np.sqrt(1 - share), free + 1) + half / np.pi * (WEIGHTS[:, None] * inside).sum(axis=0)


def _below(u: Vector, free: Vector) -> Vector:
    """Distribution of Student's t over sqrt(t^2 + free)."""
    with np.errstate(divide="ignore"):
        below: Vector = special.stdtr(free, np.sqrt(free) * u / np.sqrt(1 - u**2))
    return below


def root(total: Vector, least: Vector, place: Place, free: Vector, plain: Vector) -> Vector:
    """(B,) the absolute Student's t that is as rare as the outcome; `plain` where the bound does not matter.

    total (B,): S(v) = T, unless the parameter is at its bound there; least: S_min < S(v). In units of the noise in T:
    z the distance of g's estimate from v, u = z / sqrt(T), which is Student's t over sqrt(t^2 + n - p); w the distance
    of the bounded parameter from its bound if g = v; rho its correlation with g. Then S_min = T (1 - u^2 +
    min(w / sqrt(T) + rho u, 0)^2), and the less the rarer. Of w below zero only this is used: it says that v is wrong
    or the parameter at its bound, and is taken for the latter. (Used whole it would be exact, too, but forget that it
    speaks against v.)
    """
    far, rho = place.distance()
    share, distance = least / total, far / np.sqrt(total)
    student = ~np.isfinite(distance + rho) | (distance >= np.abs(rho) * np.sqrt(1 - share))
    distance, rho = np.where(student, 1.0, distance), np.where(student, 0.0, rho)
    # the bounded parameter itself is where it is tested, at its bound too
    off = (distance > 0) | (np.abs(rho) == 1)
    rare = np.where(off, off_bound(share, np.maximum(distance, 0), rho, free), at_bound(share, rho, free))
    found = -special.stdtrit(free, rare / 2)
    return np.where(student | ~np.isfinite(found), plain, found)
