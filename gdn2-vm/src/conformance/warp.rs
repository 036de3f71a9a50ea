//! Shuffles, votes, reductions, matrix moves between shared memory and registers, barriers, asynchronous copies.

use super::edges::Stream;
use super::ptx::{header, words};
use super::{Expected, Kernel};

fn random(count: usize, seed: u64) -> Vec<u32> {
    let mut stream = Stream(seed);
    (0..count).map(|_| stream.next() as u32).collect()
}

/// One warp: lane i has `%a = input[i]`, the body leaves `%d`.
fn lanes(name: &str, sm: u32, body: &str, input: &[u32], expected: Vec<u32>) -> Kernel {
    let ptx = format!(
        "{}  ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x1, %thread, 4, %x0;\n  ld.global.b32 %a, [%x1];\n  {body}\n  \
         ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x1, %thread, 4, %x0;\n  st.global.b32 [%x1], %d;\n  ret;\n}}\n",
        header(sm, 2)
    );
    let threads = input.len() as u32;
    Kernel { threads, ..Kernel::new(name, sm, ptx, vec![words(input)], Expected::Words(expected)) }
}

/// A warp stores `input` (128 words, four 8×8 matrices of 16-bit elements) to shared memory, then `body` moves it;
/// each lane stores `%r0..%r3`.
fn moved(name: &str, sm: u32, body: &str, input: &[u32], expected: Vec<u32>) -> Kernel {
    let ptx = format!(
        "{}  .shared .align 16 .b8 tile[512];\n  ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x1, %lane, 16, %x0;\n  \
         ld.global.v4.b32 {{%r0, %r1, %r2, %r3}}, [%x1];\n  mov.u32 %t, tile;\n  shl.b32 %u, %lane, 4;\n  \
         add.u32 %u, %t, %u;\n  {body}\n  ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x1, %lane, 16, %x0;\n  \
         st.global.v4.b32 [%x1], {{%r0, %r1, %r2, %r3}};\n  ret;\n}}\n",
        header(sm, 2)
    );
    Kernel::new(name, sm, ptx, vec![words(input)], Expected::Words(expected))
}

/// Element (row, column) of 8×8 matrix m, rows of 16 bytes in lane order.
fn element(tile: &[u32], m: usize, row: usize, column: usize) -> u32 {
    tile[(m * 8 + row) * 4 + column / 2] >> (16 * (column % 2)) & 0xffff
}

pub(super) fn kernels() -> Vec<Kernel> {
    let a = random(32, 21);
    let from = |source: fn(usize) -> usize| (0..32).map(|i| a[source(i)]).collect::<Vec<_>>();
    let mut all = vec![
        lanes("shfl.bfly", 80, "shfl.sync.bfly.b32 %d, %a, 5, 31, -1;", &a, from(|i| i ^ 5)),
        lanes(
            "shfl.idx",
            80,
            "mul.lo.u32 %t, %lane, 7; shfl.sync.idx.b32 %d, %a, %t, 31, -1;",
            &a,
            from(|i| i * 7 % 32),
        ),
        lanes("shfl.up", 80, "shfl.sync.up.b32 %d, %a, 3, 0, -1;", &a, from(|i| if i < 3 { i } else { i - 3 })),
        lanes(
            "shfl.down",
            80,
            "shfl.sync.down.b32 %d, %a, 4, 31, -1;",
            &a,
            from(|i| if i + 4 > 31 { i } else { i + 4 }),
        ),
        lanes(
            "shfl.up.width8",
            80,
            "shfl.sync.up.b32 %d|%p, %a, 2, 0x1800, -1; @!%p mov.b32 %d, 7;",
            &a,
            (0..32).map(|i| if i % 8 < 2 { 7 } else { a[i - 2] }).collect(),
        ),
    ];
    let ballot = (0..32).fold(0u32, |acc, i| acc | (a[i] & 1) << i);
    let odd = "and.b32 %t, %a, 1; setp.ne.u32 %p, %t, 0;";
    all.push(lanes("vote.ballot", 80, &format!("{odd} vote.sync.ballot.b32 %d, %p, -1;"), &a, vec![ballot; 32]));
    let any = format!("{odd} vote.sync.any.pred %q, %p, -1; selp.b32 %d, 1, 0, %q;");
    all.push(lanes("vote.any", 80, &any, &a, vec![u32::from(ballot != 0); 32]));
    let sum = a.iter().fold(0u32, |acc, x| acc.wrapping_add(*x));
    all.push(lanes("redux.add", 80, "redux.sync.add.u32 %d, %a, -1;", &a, vec![sum; 32]));
    let most = a.iter().map(|x| *x as i32).max().unwrap_or(0) as u32;
    all.push(lanes("redux.max.s32", 80, "redux.sync.max.s32 %d, %a, -1;", &a, vec![most; 32]));
    let few: Vec<u32> = a.iter().map(|x| x % 5).collect();
    let same = |i: usize| (0..32).fold(0u32, |acc, j| acc | u32::from(few[i] == few[j]) << j);
    all.push(lanes("match.any", 80, "match.any.sync.b32 %d, %a, -1;", &few, (0..32).map(same).collect()));
    // Lanes part by their low bits, meet again, and every path has left its mark.
    let branchy = "mov.b32 %d, %a; and.b32 %t, %lane, 3; setp.eq.u32 %p, %t, 0; @%p bra ZERO; setp.eq.u32 %q, %t, 1; \
                   @%q bra ONE; add.u32 %d, %d, 100; bra DONE; ZERO: mul.lo.u32 %d, %d, 3; bra DONE; ONE: xor.b32 %d, %d, 9; \
                   DONE: bar.warp.sync -1; shfl.sync.bfly.b32 %t, %d, 1, 31, -1; add.u32 %d, %d, %t;";
    let path = |i: usize| match i % 4 {
        0 => a[i].wrapping_mul(3),
        1 => a[i] ^ 9,
        _ => a[i].wrapping_add(100),
    };
    all.push(lanes("divergence", 80, branchy, &a, (0..32).map(|i| path(i).wrapping_add(path(i ^ 1))).collect()));
    all.extend(matrix_moves());
    all.extend(exchanges());
    all
}

fn matrix_moves() -> Vec<Kernel> {
    let tile = random(128, 22);
    let store = "st.shared.v4.b32 [%u], {%r0, %r1, %r2, %r3}; bar.warp.sync -1;";
    let pair = |i: usize, m: usize, trans: bool| {
        let (row, column) = (i / 4, i % 4 * 2);
        let pick = |c: usize| if trans { element(&tile, m, c, row) } else { element(&tile, m, row, c) };
        pick(column) | pick(column + 1) << 16
    };
    let fragments = |trans| (0..32).flat_map(|i| (0..4).map(move |m| (i, m))).map(|(i, m)| pair(i, m, trans)).collect();
    let load =
        |trans: &str| format!("{store} ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r0, %r1, %r2, %r3}}, [%u];");
    // stmatrix takes the rows of matrix m from lanes 8m..8m+7's addresses: stored fragments come back as rows.
    let scattered = |trans: bool| {
        let fragment = |i: usize, m: usize| tile[i * 4 + m];
        let at = |m: usize, row: usize, column: usize| {
            let (r, c) = if trans { (column, row) } else { (row, column) };
            fragment(r * 4 + c / 2, m) >> (16 * (c % 2)) & 0xffff
        };
        let word = move |lane: usize, w: usize| at(lane / 8, lane % 8, w * 2) | at(lane / 8, lane % 8, w * 2 + 1) << 16;
        (0..32).flat_map(|lane| (0..4).map(move |w| (lane, w))).map(|(lane, w)| word(lane, w)).collect()
    };
    let put = |trans: &str| {
        format!(
            "stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%u], {{%r0, %r1, %r2, %r3}}; bar.warp.sync -1; \
             ld.shared.v4.b32 {{%r0, %r1, %r2, %r3}}, [%u];"
        )
    };
    let transposed = (0..32).flat_map(|i| {
        let at = |c: usize| tile[(c * 4 + i / 4 / 2) * 4] >> (16 * (i / 4 % 2)) & 0xffff;
        let (first, second) = (at(i % 4 * 2), at(i % 4 * 2 + 1));
        [first | second << 16, tile[i * 4 + 1], tile[i * 4 + 2], tile[i * 4 + 3]]
    });
    vec![
        moved("ldmatrix.x4", 80, &load(""), &tile, fragments(false)),
        moved("ldmatrix.x4.trans", 80, &load(".trans"), &tile, fragments(true)),
        moved("stmatrix.x4", 90, &put(""), &tile, scattered(false)),
        moved("stmatrix.x4.trans", 90, &put(".trans"), &tile, scattered(true)),
        moved("movmatrix", 80, "movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r0;", &tile, transposed.collect()),
    ]
}

/// Four warps write, meet at a barrier and read each other's words; copies land in shared memory and are waited for.
fn exchanges() -> Vec<Kernel> {
    let input = random(128, 23);
    let shared = "  .shared .align 16 .b8 tile[512];\n  ";
    let body = |middle: &str| {
        format!(
            "{}{shared}ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x1, %thread, 4, %x0;\n  mov.u32 %t, tile;\n  \
             shl.b32 %u, %thread, 2;\n  add.u32 %u, %t, %u;\n  {middle}\n  xor.b32 %c, %thread, 100;\n  shl.b32 %c, %c, 2;\n  \
             add.u32 %c, %t, %c;\n  ld.shared.b32 %d, [%c];\n  ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x1, %thread, 4, %x0;\n  \
             st.global.b32 [%x1], %d;\n  ret;\n}}\n",
            header(80, 2)
        )
    };
    let swapped: Vec<u32> = (0..128).map(|i| input[i ^ 100]).collect();
    // Odd words' copies read no source bytes and must arrive as zeros.
    let zeroed: Vec<u32> = (0..128usize).map(|i| if (i ^ 100) % 2 == 1 { 0 } else { input[i ^ 100] }).collect();
    let rows = [
        ("bar.sync", "ld.global.b32 %a, [%x1]; st.shared.b32 [%u], %a; bar.sync 0;", swapped.clone()),
        ("bar.sync.count", "ld.global.b32 %a, [%x1]; st.shared.b32 [%u], %a; bar.sync 3, 128;", swapped.clone()),
        (
            "cp.async",
            "cp.async.ca.shared.global [%u], [%x1], 4; cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;",
            swapped,
        ),
        (
            "cp.async.zfill",
            "and.b32 %a, %thread, 1; xor.b32 %a, %a, 1; shl.b32 %a, %a, 2; cp.async.ca.shared.global [%u], [%x1], 4, %a; \
             cp.async.wait_all; bar.sync 0;",
            zeroed,
        ),
    ];
    rows.into_iter()
        .map(|(name, middle, expected)| {
            let kernel = Kernel::new(name, 80, body(middle), vec![words(&input)], Expected::Words(expected));
            Kernel { threads: 128, ..kernel }
        })
        .collect()
}
