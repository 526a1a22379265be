"""σ and s → tap tables, and the gradients back: one small kernel each way."""

import triton
import triton.language as tl


@triton.jit
def gaussian_window(
    r,
    bend_ptr, waves_ptr, NODES: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
):  # fmt: skip
    """(taps, their first and second derivative by r) of one σ = |r|: 1-D over the distance, summing
    to one over the two-sided window. bend (NODES,) and waves (NODES, RADIUS + 1) are the trapezoid
    rule of gaussian.py; TRUNCATE 0 keeps the whole window."""
    BLOCK_R: tl.constexpr = triton.next_power_of_2(RADIUS + 1)
    n = tl.arange(0, BLOCK_R)
    t = r * r
    t += 0.0 * t  # an infinite σ has no taps: NaN
    if DISCRETE:
        m = tl.arange(0, triton.next_power_of_2(NODES))
        bend = tl.load(bend_ptr + m, mask=m < NODES, other=0.0)
        waves = tl.load(
            waves_ptr + m[:, None] * (RADIUS + 1) + n[None, :],
            mask=(m[:, None] < NODES) & (n[None, :] <= RADIUS), other=0.0,
        )  # fmt: skip
        density = tl.exp(t * bend)
        taps = tl.sum(density[:, None] * waves, 0)
        slope = tl.sum((density * bend)[:, None] * waves, 0)
        curve = tl.sum((density * bend * bend)[:, None] * waves, 0)
    else:
        # below 1e-4 every side tap is zero in any dtype, and so is its derivative
        safe = tl.where(t < 1e-4, 1e-4, t)  # keeps NaN
        square = (n * n).to(tl.float32)
        taps = tl.exp(-square / (2.0 * safe))
        factor = square / (2.0 * safe * safe)
        slope = tl.where(taps > 0, taps * factor, 0.0)
        curve = tl.where(taps > 0, taps * factor * (factor - 2.0 / safe), 0.0)
    inside = n <= RADIUS
    if TRUNCATE > 0:
        inside &= n <= TRUNCATE * tl.abs(r)
    both = tl.where(n > 0, 2.0, 1.0)
    taps = tl.where(inside, taps, 0.0)
    slope = tl.where(inside, slope, 0.0)
    curve = tl.where(inside, curve, 0.0)
    total = tl.sum(both * taps, 0)
    total_slope = tl.sum(both * slope, 0)
    taps /= total
    slope = (slope - taps * total_slope) / total
    curve = (curve - 2.0 * slope * total_slope - taps * tl.sum(both * curve, 0)) / total
    taps = tl.where(n > 0, taps, 1.0 - tl.sum(tl.where(n > 0, both * taps, 0.0), 0))
    return taps, 2.0 * r * slope, 2.0 * slope + 4.0 * t * curve


@triton.jit
def tables_kernel(
    r_ptr, s_ptr,
    a_ptr, b_ptr,
    bend_ptr, waves_ptr, NODES: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """a = sigmoid(s) k(|r|), b = k(|r|), one (r, s) a program."""
    row = tl.program_id(0)
    r = tl.load(r_ptr + row).to(tl.float32)
    taps, _, _ = gaussian_window(r, bend_ptr, waves_ptr, NODES, RADIUS, DISCRETE, TRUNCATE)
    gate = 1.0
    if GATED:
        gate = tl.sigmoid(tl.load(s_ptr + row).to(tl.float32))
    n = tl.arange(0, triton.next_power_of_2(RADIUS + 1))
    offs = row.to(tl.int64) * (RADIUS + 1) + n
    tl.store(a_ptr + offs, gate * taps, mask=n <= RADIUS)
    tl.store(b_ptr + offs, taps, mask=n <= RADIUS)


@triton.jit
def tables_grad_kernel(
    r_ptr, s_ptr,
    da_ptr, db_ptr,
    dr_ptr, ds_ptr,
    bend_ptr, waves_ptr, NODES: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """dr = <sigmoid(s) da + db, ∂k/∂r>, ds = sigmoid'(s) <da, k>, one (r, s) a program."""
    row = tl.program_id(0)
    r = tl.load(r_ptr + row).to(tl.float32)
    taps, slope, _ = gaussian_window(r, bend_ptr, waves_ptr, NODES, RADIUS, DISCRETE, TRUNCATE)
    n = tl.arange(0, triton.next_power_of_2(RADIUS + 1))
    offs = row.to(tl.int64) * (RADIUS + 1) + n
    da = tl.load(da_ptr + offs, mask=n <= RADIUS, other=0.0)
    db = tl.load(db_ptr + offs, mask=n <= RADIUS, other=0.0)
    gate = 1.0
    ds = 0.0
    if GATED:
        gate = tl.sigmoid(tl.load(s_ptr + row).to(tl.float32))
        ds = gate * (1.0 - gate) * tl.sum(da * taps, 0)
    tl.store(ds_ptr + row, ds)
    dr = tl.sum((gate * da + db) * slope, 0)
    tl.store(dr_ptr + row, dr)


@triton.jit
def tables_grad_grad_kernel(
    r_ptr, s_ptr,
    da_ptr, db_ptr,
    vr_ptr, vs_ptr,
    r_bar_ptr, s_bar_ptr,
    da_bar_ptr, db_bar_ptr,
    bend_ptr, waves_ptr, NODES: tl.constexpr,
    RADIUS: tl.constexpr, DISCRETE: tl.constexpr, TRUNCATE: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """The gradient of vr · dr + vs · ds, of ``tables_grad_kernel``, by r, s, da and db."""
    row = tl.program_id(0)
    r = tl.load(r_ptr + row).to(tl.float32)
    taps, slope, curve = gaussian_window(r, bend_ptr, waves_ptr, NODES, RADIUS, DISCRETE, TRUNCATE)
    n = tl.arange(0, triton.next_power_of_2(RADIUS + 1))
    offs = row.to(tl.int64) * (RADIUS + 1) + n
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
        first = gate * (1.0 - gate)
        second = first * (1.0 - 2.0 * gate)
        towards = tl.sum(da * slope, 0)
        s_bar = vr * first * towards + vs * second * tl.sum(da * taps, 0)
        r_bar = vs * first * towards
        da_bar = vs * first * taps
    r_bar += vr * tl.sum((gate * da + db) * curve, 0)
    tl.store(r_bar_ptr + row, r_bar)
    tl.store(s_bar_ptr + row, s_bar)
    tl.store(da_bar_ptr + offs, da_bar + vr * gate * slope, mask=n <= RADIUS)
    tl.store(db_bar_ptr + offs, vr * slope, mask=n <= RADIUS)
