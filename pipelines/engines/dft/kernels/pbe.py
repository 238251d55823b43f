"""The PBE functional of a closed shell, compiled into loops that the processor's vector units take.

libxc, which serves every other functional, takes ten times as long for it.

References:
    Perdew, Burke, Ernzerhof, doi:10.1103/PhysRevLett.77.3865; Perdew, Wang,
    doi:10.1103/PhysRevB.45.13244 (the uniform gas's correlation). Constants as in libxc, where
    exchange is GGA_X_PBE and correlation GGA_C_PBE.
"""

import numpy as np

from pipelines.engines.dft.kernels.compiling import inlined, kernel
from pipelines.engines.dft.kernels.gaussians import exp_of_minus

# What libxc calls PBE: its numbers of the functionals, and their shares.
LIBXC_PARTS = ((101, 1.0), (130, 1.0))

# Below this density, bohr^-3, nothing is left of the energy.
_SMALLEST = 1e-14
# Elements whose intermediates stay in the cache.
_TOGETHER = 256

_KAPPA = 0.8040
_BETA = 0.06672455060314922
_MU = _BETA * np.pi**2 / 3.0
_GAMMA = (1.0 - np.log(2.0)) / np.pi**2
# Of the uniform gas: energy per electron of exchange over n^(1/3), Fermi wave vector over n^(1/3),
# and radius of the sphere that holds an electron, times n^(1/3).
_EXCHANGE = -0.75 * (3.0 / np.pi) ** (1.0 / 3.0)
_FERMI = (3.0 * np.pi**2) ** (1.0 / 3.0)
_RADIUS = (0.75 / np.pi) ** (1.0 / 3.0)
# Its correlation energy.
_A, _ALPHA = 0.0310907, 0.21370
_BETAS = (7.5957, 3.5876, 1.6382, 0.49294)

_MANTISSA = (1 << 52) - 1
_ONE = 1023 << 52
_LOG_2 = float(np.log(2.0))
_ROOT_2 = float(np.sqrt(2.0))


@inlined
def logarithm(x, out):
    """Natural logarithm of positive normal numbers, to 1e-15; unlike the library's it vectorises.

    x = 2^e m with m in [2^-1/2, 2^1/2], and log m = 2 artanh((m - 1) / (m + 1)) as a series.

    Args:
        x: (n,), n at most 256.
        out: result, (n,).
    """
    bits = x.view(np.int64)
    mantissas = np.empty(len(x), dtype=np.int64)
    for p in range(len(x)):
        mantissas[p] = (bits[p] & _MANTISSA) | _ONE
        out[p] = float((bits[p] >> 52) - 1023)
    m = mantissas.view(np.float64)
    for p in range(len(x)):
        upper = m[p] > _ROOT_2
        here = 0.5 * m[p] if upper else m[p]
        exponent = out[p] + 1.0 if upper else out[p]
        ratio = (here - 1.0) / (here + 1.0)
        z = ratio * ratio
        series = 1.0 / 21.0
        series = series * z + 1.0 / 19.0
        series = series * z + 1.0 / 17.0
        series = series * z + 1.0 / 15.0
        series = series * z + 1.0 / 13.0
        series = series * z + 1.0 / 11.0
        series = series * z + 1.0 / 9.0
        series = series * z + 1.0 / 7.0
        series = series * z + 1.0 / 5.0
        series = series * z + 1.0 / 3.0
        out[p] = exponent * _LOG_2 + 2.0 * ratio * (1.0 + z * series)


@inlined
def _uniform_gas(density, roots, arguments, slopes):
    """n^(1/3), the argument of the logarithm in its correlation energy, and its slope by r_s."""
    logarithm(density, roots)
    for p in range(len(density)):
        # n^(1/3) = e^6 exp(-(6 - log(n) / 3)), for densities up to e^18.
        roots[p] = 403.4287934927351 * exp_of_minus(6.0 - roots[p] / 3.0)
        radius = _RADIUS / roots[p]
        root = np.sqrt(radius)
        b1, b2, b3, b4 = _BETAS
        q = 2.0 * _A * root * (b1 + root * (b2 + root * (b3 + root * b4)))
        q_slope = _A * (b1 / root + 2.0 * b2 + root * (3.0 * b3 + 4.0 * b4 * root))
        arguments[p] = 1.0 + 1.0 / q
        slopes[p] = -q_slope / (q * (q + 1.0))


@inlined
def _correlation(density, squares, roots, energy, by_density, by_square):
    """Correlation per electron, and derivatives of its density n e by n and by |grad n|^2."""
    n = len(density)
    arguments, slopes, logs = np.empty(n), np.empty(n), np.empty(n)
    gas, factors, ts = np.empty(n), np.empty(n), np.empty(n)
    _uniform_gas(density, roots, arguments, slopes)
    logarithm(arguments, logs)
    for p in range(n):
        radius = _RADIUS / roots[p]
        front = -2.0 * _A * (1.0 + _ALPHA * radius)
        gas[p] = front * logs[p]
        # By the density, times it: r_s falls with its third root.
        slopes[p] = radius / 3.0 * (2.0 * _A * _ALPHA * logs[p] - front * slopes[p])
        # t^2 and A of equations 7 and 8.
        ts[p] = squares[p] * np.pi / (16.0 * _FERMI * roots[p] * density[p] * density[p])
        grown = 1.0 / exp_of_minus(min(-gas[p] / _GAMMA, 60.0))
        factors[p] = _BETA / _GAMMA / (grown - 1.0)
        at = factors[p] * ts[p]
        arguments[p] = 1.0 + _BETA / _GAMMA * ts[p] * (1.0 + at) / (1.0 + at + at * at)
    logarithm(arguments, logs)
    for p in range(n):
        t, a = ts[p], factors[p]
        at = a * t
        bottom = 1.0 + at + at * at
        # H = gamma log(argument), by t^2 and by A.
        common = _BETA / (arguments[p] * bottom * bottom)
        by_t = common * (1.0 + 2.0 * at)
        by_a = -common * at * t * t * (2.0 + at)
        a_slope = a * (1.0 + a * _GAMMA / _BETA) / _GAMMA * slopes[p]
        energy[p] = gas[p] + _GAMMA * logs[p]
        by_density[p] = energy[p] + slopes[p] - 7.0 / 3.0 * t * by_t + by_a * a_slope
        by_square[p] = by_t * np.pi / (16.0 * _FERMI * roots[p] * density[p])


@inlined
def _add_exchange(density, squares, roots, energy, by_density, by_square):
    """The same of exchange, added; its s^2 and F are those of equation 14."""
    for p in range(len(density)):
        uniform = _EXCHANGE * roots[p]
        per_square = 0.25 / (_FERMI * roots[p] * density[p]) ** 2
        s = squares[p] * per_square
        damped = 1.0 / (1.0 + _MU / _KAPPA * s)
        enhanced = 1.0 + _KAPPA - _KAPPA * damped
        rise = _MU * damped * damped
        energy[p] += uniform * enhanced
        by_density[p] += uniform * (4.0 * enhanced - 8.0 * s * rise) / 3.0
        by_square[p] += density[p] * uniform * rise * per_square


@kernel
def pbe(rho, weights, potential):
    """Weighted derivatives of the energy density, and the weighted energy density itself.

    Args:
        rho: (4, n_points), n_points a multiple of 256: density, bohr^-3, and its gradient, bohr^-4.
        weights: (n_points,) of the grid, bohr^3.
        potential: result, (5, n_points): derivatives by the density and by its gradient, and the
            energy density, hartree/bohr^3, all times the weights.
    """
    n = _TOGETHER
    density, squares, roots = np.empty(n), np.empty(n), np.empty(n)
    energy, by_density, by_square = np.empty(n), np.empty(n), np.empty(n)
    for start in range(0, rho.shape[1], n):
        here = slice(start, start + n)
        squares[:] = 0.0
        for x in range(1, 4):
            slope = rho[x, here]
            for p in range(n):
                squares[p] += slope[p] * slope[p]
        given, scale = rho[0, here], weights[here]
        for p in range(n):
            density[p] = max(given[p], _SMALLEST)
        _correlation(density, squares, roots, energy, by_density, by_square)
        _add_exchange(density, squares, roots, energy, by_density, by_square)
        by_n, energies = potential[0, here], potential[4, here]
        for p in range(n):
            factor = scale[p] if given[p] > _SMALLEST else 0.0
            by_n[p] = factor * by_density[p]
            energies[p] = factor * density[p] * energy[p]
            by_square[p] *= 2.0 * factor
        for x in range(1, 4):
            slope, out = rho[x, here], potential[x, here]
            for p in range(n):
                out[p] = by_square[p] * slope[p]
