//! Operands worth trying: the ends of every range, ties, NaNs, denormals, and a fixed stream of random bits.

/// A fixed pseudo-random stream (splitmix64).
pub(super) struct Stream(pub(super) u64);

impl Stream {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Bits of f32 edges.
pub(super) const F32: [u32; 24] = [
    0x0000_0000,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0x4000_0000,
    0xc020_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0001,
    0x7f80_0001,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x3f00_0000,
    0x4b00_0000,
    0x4f00_0000,
    0x33d6_bf95,
];

/// Bits of 32-bit integer edges.
pub(super) const I32: [u32; 16] = [
    0,
    1,
    2,
    3,
    7,
    31,
    32,
    33,
    255,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0xffff_fffe,
    0x1234_5678,
    0xdead_beef,
];

/// Pairs over the edges, as many as 512 threads allow, then random bits.
pub(super) fn triples32(edges: &[u32], count: usize, seed: u64) -> [Vec<u32>; 3] {
    let mut stream = Stream(seed);
    let mut out = [Vec::with_capacity(count), Vec::with_capacity(count), Vec::with_capacity(count)];
    for index in 0..count {
        let pick = |which: usize| edges[which % edges.len()];
        let [a, b, c] = if index < edges.len() * edges.len() && index < count * 3 / 4 {
            [pick(index), pick(index / edges.len()), pick(index * 7 + index / edges.len())]
        } else {
            [stream.next() as u32, stream.next() as u32, stream.next() as u32]
        };
        for (list, value) in out.iter_mut().zip([a, b, c]) {
            list.push(value);
        }
    }
    out
}

/// 64-bit triples: edges made of 32-bit ones, then random bits.
pub(super) fn triples64(count: usize, seed: u64) -> [Vec<u64>; 3] {
    let low = triples32(&I32, count, seed);
    let high = triples32(&I32, count, seed ^ 0x55);
    let mut stream = Stream(seed);
    std::array::from_fn(|which| {
        (0..count)
            .map(|i| match i % 4 {
                0 => u64::from(low[which][i]),
                1 => u64::from(low[which][i]) | 0xffff_ffff_0000_0000,
                2 => u64::from(low[which][i]) | u64::from(high[(which + 1) % 3][i]) << 32,
                _ => stream.next(),
            })
            .collect()
    })
}
