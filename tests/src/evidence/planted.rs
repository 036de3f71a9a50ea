//! Errors to plant: each a piece of the generated CUDA text and what stands in its place.

use gdn2_codegen::kernel::Pass;

/// One error.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// What it is.
    pub what: &'static str,
    /// The rule of `rules/` it is planted in.
    pub rule: &'static str,
    /// The pass.
    pub pass: Pass,
    /// The right text; every occurrence is changed.
    pub right: &'static str,
    /// The wrong one.
    pub wrong: &'static str,
}

const fn planted(
    what: &'static str,
    rule: &'static str,
    pass: Pass,
    right: &'static str,
    wrong: &'static str,
) -> Planted {
    Planted { what, rule, pass, right, wrong }
}

use Pass::{Backward, Decode, Forward};

/// The errors, of the kinds that generators make.
pub const PLANTED: &[Planted] = &[
    planted("P N dropped from o", "gdn", Forward, "multiply_triangle<Element>(out, writes, p, lane);", ""),
    planted("a row of o without its decay", "gdn", Forward, "out[group][1] *= into.y;", ""),
    planted("prefix sums begin anew every 32 tokens", "gdn", Forward, "sum[r] += before;", ""),
    planted(
        "prefix sums in bf16",
        "gdn",
        Forward,
        "if (lane >= step) sum[r] += other;",
        "if (lane >= step) sum[r] = Bf16::low(Bf16::pack(sum[r] + other, 0.0f));",
    ),
    planted("P without its diagonal", "gdn", Forward, "const float p0 = i >= j ?", "const float p0 = i > j ?"),
    planted(
        "pairs anchored at the token before",
        "gdn",
        Forward,
        "at<float>(GAMMA + j * 4)",
        "at<float>(GAMMA + (j > 0 ? j - 1 : 0) * 4)",
    ),
    planted("half of a state's rows do not decay", "gdn", Forward, "s[n][2] *= decay.x;", ""),
    planted(
        "a row of the residual unscaled",
        "gdn",
        Forward,
        "r[group][0] -= held[group][0] * row.x;",
        "r[group][0] -= held[group][0];",
    ),
    planted(
        "M left out",
        "gdn",
        Forward,
        "multiply_triangle<Element>(n, r, M, lane);",
        "for (int g = 0; g < CHUNK / 8; ++g) for (int c = 0; c < 4; ++c) n[g][c] = Element::low(r[g / 2][g % 2 * 2]);",
    ),
    planted("the last token of the values not copied", "gdn", Forward, "token < exist);", "token < exist - 1);"),
    planted("an initial state one part in fifty too large", "gdn", Forward, "0.0f : state[k", "0.0f : 1.02f * state[k"),
    planted("a write gate left out of half the values", "gdn", Forward, "    z[2] *= w.x;\n", ""),
    planted(
        "blocks anchored at the wrong row",
        "kda",
        Forward,
        "return r / (2 * H) * (2 * H) + H;",
        "return r / (2 * H) * (2 * H);",
    ),
    planted(
        "pairs of neighbours without their decay",
        "kda",
        Forward,
        "const float2 low = {query[1][n][half * 2], query[1][n][half * 2 + 1]};",
        "const float2 low = {diagonal[n][half * 2], diagonal[n][half * 2 + 1]};",
    ),
    planted(
        "channel sums miss the segment before",
        "kda",
        Forward,
        "for (int before = 0; before < segment; ++before)",
        "for (int before = 1; before < segment; ++before)",
    ),
    planted("dq without the diagonal of dP", "gdn", Backward, "dq.x + same * key.x", "dq.x"),
    planted("dk without what the gate gives it", "gdn", Backward, "+ share.y}", "}"),
    planted("dg without the tail", "gdn", Backward, "tail.sum += key.x * tau.x + key.y * tau.y;", ""),
    planted(
        "dg without the carried state",
        "gdn",
        Backward,
        "if (lane < 4) tail.sum += (sum.x + sum.y + sum.z + sum.w) * carry;",
        "",
    ),
    planted(
        "dq unscaled in one channel of two",
        "gdn",
        Backward,
        "sums.q[n][half * 2 + 1] *= scale * into.y;",
        "sums.q[n][half * 2 + 1] *= into.y;",
    ),
    planted(
        "dv without its gate",
        "gdn",
        Backward,
        "if (lane < 4) at<float2>(PARTIAL + (tile * CHUNK + token) * 4) = sum;\n    }\n    scale_tokens<Factor>(dr, 1.0f);",
        "if (lane < 4) at<float2>(PARTIAL + (tile * CHUNK + token) * 4) = sum;\n    }",
    ),
    planted(
        "a sum over values one tile short",
        "gdn",
        Backward,
        "for (int part = 0; part < COUNT; ++part) sum +=",
        "for (int part = 1; part < COUNT; ++part) sum +=",
    ),
    planted(
        "the scale missing from dN",
        "gdn",
        Backward,
        "dn[group][c] * scale + held[group][c]",
        "dn[group][c] + held[group][c]",
    ),
    planted(
        "the sign of erase in the decay's pairs",
        "kda",
        Backward,
        "sums.q[n][half * 2] - key.x * sums.k[n][half * 2]",
        "sums.q[n][half * 2] + key.x * sums.k[n][half * 2]",
    ),
    planted(
        "dg a token late",
        "kda",
        Backward,
        "if (t < exist) store_number(rows + t * stride + d, sum);",
        "if (t < exist) store_number(rows + t * stride + d, sum - at<float>(prefix + Tile<KEY, 4>::offset(t, d)));",
    ),
    planted(
        "a decode sum without its decay",
        "gdn",
        Decode,
        "state.s[step][i][j] *= alpha;",
        "state.s[step][i][j] *= j == 0 ? 1.0f : alpha;",
    ),
    planted(
        "decode without the token's own write in o",
        "gdn",
        Decode,
        "o[j] += dot * n[j];",
        "o[j] += j == 1 ? 0.0f : dot * n[j];",
    ),
    planted("decode erases without its gate", "gdn2", Decode, "return token.b.at(step, i);", "return 1.0f;"),
];
