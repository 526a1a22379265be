"""σ and s → taps of both axes, with the gate multiplied into a; their gradient, and the gradient of
that: a small kernel for each."""

import triton
import triton.language as tl


@triton.jit
def taps_and_derivatives(
    r,
    cos_minus_one_ptr, cosines_ptr, series_ptr,
    NODES: tl.constexpr, TERMS: tl.constexpr, SWITCH: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
):  # fmt: skip
    """(taps, their first and second derivative by r) of one σ = |r|: 1-D over the distance, summing
    to one over the two-sided window. cos_minus_one (NODES,), cosines (NODES, RADIUS + 1), series
    (TERMS, RADIUS + 1) and SWITCH are the BesselRules of gaussian.py; TRUNCATE 0 keeps the whole
    window."""
    n = tl.arange(0, triton.next_power_of_2(RADIUS + 1))
    inside = n <= RADIUS
    if TRUNCATE > 0:
        inside &= n <= TRUNCATE * tl.abs(r)
    # beyond, the taps are a box and their derivatives underflow; an infinite σ has none: NaN
    r = tl.where(r > 1e18, 1e18, tl.where(r < -1e18, -1e18, r)) + 0.0 * r
    t = r * r
    # d_taps = unit ∂taps/∂t and d2_taps = unit² ∂²taps/∂t²: of a large t the bare ones underflow
    if DISCRETE:
        unit = tl.where(t <= SWITCH, 1.0, t)
        if t <= SWITCH:
            m = tl.arange(0, triton.next_power_of_2(NODES))
            cos_minus_one = tl.load(cos_minus_one_ptr + m, mask=m < NODES, other=0.0)
            cosines = tl.load(
                cosines_ptr + m[:, None] * (RADIUS + 1) + n[None, :],
                mask=(m[:, None] < NODES) & (n[None, :] <= RADIUS), other=0.0,
            )  # fmt: skip
            density = tl.exp(t * cos_minus_one)
            taps = tl.sum(density[:, None] * cosines, 0)
            d_taps = tl.sum((density * cos_minus_one)[:, None] * cosines, 0)
            d2_taps = tl.sum((density * cos_minus_one * cos_minus_one)[:, None] * cosines, 0)
        else:
            k = tl.arange(0, TERMS)
            series = tl.load(
                series_ptr + k[:, None] * (RADIUS + 1) + n[None, :],
                mask=n[None, :] <= RADIUS, other=0.0,
            )  # fmt: skip
            power = tl.exp(-k * tl.log(t / SWITCH))
            taps = tl.sum(power[:, None] * series, 0)
            d_taps = tl.sum((power * -k)[:, None] * series, 0)
            d2_taps = tl.sum((power * (k * (k + 1)))[:, None] * series, 0)
    else:
        # below 1e-4 every side tap is zero in any dtype, and so is its derivative
        unit = tl.where(t < 1e-4, 1e-4, t)  # keeps NaN
        u = (n * n).to(tl.float32) / (2.0 * unit)
        taps = tl.exp(-u)
        d_taps = taps * u
        d2_taps = d_taps * (u - 2.0)
    multiplicity = tl.where(n > 0, 2.0, 1.0)
    taps = tl.where(inside, taps, 0.0)
    d_taps = tl.where(inside, d_taps, 0.0)
    d2_taps = tl.where(inside, d2_taps, 0.0)
    total = tl.sum(multiplicity * taps, 0)
    d_total = tl.sum(multiplicity * d_taps, 0)
    taps /= total
    d_taps = (d_taps - taps * d_total) / total
    d2_taps = (d2_taps - 2.0 * d_taps * d_total - taps * tl.sum(multiplicity * d2_taps, 0)) / total
    taps = tl.where(n > 0, taps, 1.0 - tl.sum(tl.where(n > 0, multiplicity * taps, 0.0), 0))
    slope = r / unit
    return taps, 2.0 * slope * d_taps, 2.0 / unit * d_taps + 4.0 * slope * slope * d2_taps


@triton.jit
def row_of_taps(row, RADIUS: tl.constexpr):
    """(distances n, where the taps of this (r, s) stand)."""
    n = tl.arange(0, triton.next_power_of_2(RADIUS + 1))
    return n, row.to(tl.int64) * (RADIUS + 1) + n


@triton.jit
def gated_taps_kernel(
    r_ptr, s_ptr,
    a_ptr, b_ptr,
    cos_minus_one_ptr, cosines_ptr, series_ptr,
    NODES: tl.constexpr, TERMS: tl.constexpr, SWITCH: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """a = sigmoid(s) k(|r|), b = k(|r|), one (r, s) a program."""
    row = tl.program_id(0)
    r = tl.load(r_ptr + row).to(tl.float32)
    taps, _, _ = taps_and_derivatives(
        r, cos_minus_one_ptr, cosines_ptr, series_ptr, NODES, TERMS, SWITCH,
        RADIUS, DISCRETE, TRUNCATE,
    )  # fmt: skip
    gate = 1.0
    if GATED:
        gate = tl.sigmoid(tl.load(s_ptr + row).to(tl.float32))
    n, offs = row_of_taps(row, RADIUS)
    tl.store(a_ptr + offs, gate * taps, mask=n <= RADIUS)
    tl.store(b_ptr + offs, taps, mask=n <= RADIUS)


@triton.jit
def gated_taps_grad_kernel(
    r_ptr, s_ptr,
    da_ptr, db_ptr,
    dr_ptr, ds_ptr,
    cos_minus_one_ptr, cosines_ptr, series_ptr,
    NODES: tl.constexpr, TERMS: tl.constexpr, SWITCH: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """dr = <sigmoid(s) da + db, ∂k/∂r>, ds = sigmoid'(s) <da, k>, one (r, s) a program."""
    row = tl.program_id(0)
    r = tl.load(r_ptr + row).to(tl.float32)
    taps, d_taps, _ = taps_and_derivatives(
        r, cos_minus_one_ptr, cosines_ptr, series_ptr, NODES, TERMS, SWITCH,
        RADIUS, DISCRETE, TRUNCATE,
    )  # fmt: skip
    n, offs = row_of_taps(row, RADIUS)
    da = tl.load(da_ptr + offs, mask=n <= RADIUS, other=0.0)
    db = tl.load(db_ptr + offs, mask=n <= RADIUS, other=0.0)
    gate = 1.0
    ds = 0.0
    if GATED:
        gate = tl.sigmoid(tl.load(s_ptr + row).to(tl.float32))
        ds = gate * (1.0 - gate) * tl.sum(da * taps, 0)
    tl.store(ds_ptr + row, ds)
    dr = tl.sum((gate * da + db) * d_taps, 0)
    tl.store(dr_ptr + row, dr)


@triton.jit
def gated_taps_grad_grad_kernel(
    r_ptr, s_ptr,
    da_ptr, db_ptr,
    vr_ptr, vs_ptr,
    r_bar_ptr, s_bar_ptr,
    da_bar_ptr, db_bar_ptr,
    cos_minus_one_ptr, cosines_ptr, series_ptr,
    NODES: tl.constexpr, TERMS: tl.constexpr, SWITCH: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """The gradient of vr · dr + vs · ds, of ``gated_taps_grad_kernel``, by r, s, da and db."""
    row = tl.program_id(0)
    r = tl.load(r_ptr + row).to(tl.float32)
    taps, d_taps, d2_taps = taps_and_derivatives(
        r, cos_minus_one_ptr, cosines_ptr, series_ptr, NODES, TERMS, SWITCH,
        RADIUS, DISCRETE, TRUNCATE,
    )  # fmt: skip
    n, offs = row_of_taps(row, RADIUS)
    da = tl.load(da_ptr + offs, mask=n <= RADIUS, other=0.0)
    db = tl.load(db_ptr + offs, mask=n <= RADIUS, other=0.0)
    vr = tl.load(vr_ptr + row).to(tl.float32)
    gate = 1.0
    s_bar = 0.0
    r_bar = 0.0
    da_bar = tl.zeros_like(taps)
    if GATED:
        vs = tl.load(vs_ptr + row).to(tl.float32)
        gate = tl.sigmoid(tl.load(s_ptr + row).to(tl.float32))
        d_gate = gate * (1.0 - gate)
        d2_gate = d_gate * (1.0 - 2.0 * gate)
        da_dot_d_taps = tl.sum(da * d_taps, 0)
        s_bar = vr * d_gate * da_dot_d_taps + vs * d2_gate * tl.sum(da * taps, 0)
        r_bar = vs * d_gate * da_dot_d_taps
        da_bar = vs * d_gate * taps
    r_bar += vr * tl.sum((gate * da + db) * d2_taps, 0)
    tl.store(r_bar_ptr + row, r_bar)
    tl.store(s_bar_ptr + row, s_bar)
    tl.store(da_bar_ptr + offs, da_bar + vr * gate * d_taps, mask=n <= RADIUS)
    tl.store(db_bar_ptr + offs, vr * d_taps, mask=n <= RADIUS)
