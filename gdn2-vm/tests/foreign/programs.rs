//! Kernels as CUDA programmers write them, with the headers they use, on the virtual machine: the numbers plain Rust
//! gives, and nothing that the full checks find wrong. Numbers and matrix products are in `numbers.rs`.
use crate::call::{Arg, Call, bytes, numbers, small, stream};
use half::{bf16, f16};

const SUMS: &str = include_str!("sums.ptx");
const BARRIERS: &str = include_str!("barriers.ptx");
const CONTROL: &str = include_str!("control.ptx");
const HOPPER: &str = include_str!("tma.ptx");

fn call<'a>(ptx: &'a str, entry: &'a str, grid: u32, block: u32, args: Vec<Arg>) -> Call<'a> {
    Call { ptx, entry, grid: [grid, 1, 1], block: [block, 1, 1], args }
}

fn close(got: &[f32], expected: impl IntoIterator<Item = f64>, tolerance: f64) {
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{i}: {got} {expected}");
    }
}

#[test]
fn sums_of_blocks_meet_in_an_atomic() {
    let x = small(1, 1000);
    let zero = Arg::Both(bytes(&[0f32]));
    let sum = call(SUMS, "block_sums", 4, 128, vec![Arg::In(bytes(&x)), zero, Arg::Word(1000)]).one();
    assert_eq!(numbers::<f32>(&sum), [x.iter().sum::<f32>()]);
}

#[test]
fn lanes_that_got_there_together_share_an_atomic() {
    let x: Vec<i32> = stream(2, 500).iter().map(|v| *v as i32).collect();
    let mut odd: Vec<i32> = x.iter().copied().filter(|v| v % 2 != 0).collect();
    let args = vec![Arg::In(bytes(&x)), Arg::Out(odd.len() * 4), Arg::Both(bytes(&[0i32])), Arg::Word(x.len() as i32)];
    let results = call(SUMS, "keep_odd", 4, 128, args).run();
    let mut kept = numbers::<i32>(&results[0]);
    kept.sort_unstable();
    odd.sort_unstable();
    assert_eq!(kept, odd);
    assert_eq!(numbers::<i32>(&results[1]), [odd.len() as i32]);
}

#[test]
fn histogram_of_bytes() {
    let x: Vec<u8> = stream(3, 3000).iter().map(|v| *v as u8).collect();
    let mut bins = [0u32; 256];
    x.iter().for_each(|v| bins[usize::from(*v)] += 1);
    let args = vec![Arg::In(x), Arg::Both(vec![0; 1024]), Arg::Word(3000)];
    assert_eq!(numbers::<u32>(&call(SUMS, "histogram", 3, 128, args).one()), bins);
}

#[test]
fn softmax_and_layer_norm() {
    let x = small(4, 5 * 45);
    let args = vec![Arg::In(bytes(&x)), Arg::Out(x.len() * 4), Arg::Word(5), Arg::Word(45)];
    let y = numbers::<f32>(&call(SUMS, "softmax", 2, 128, args).one());
    let expected = x.chunks(45).flat_map(|row| {
        let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
        row.iter().map(move |v| f64::from(*v).exp() / sum)
    });
    close(&y, expected, 1e-6);

    let (x, gain, bias) = (small(5, 3 * 200), small(6, 200), small(7, 200));
    let halves: Vec<f16> = x.iter().map(|v| f16::from_f32(*v)).collect();
    let args = vec![
        Arg::In(bytes(&halves)),
        Arg::In(bytes(&gain)),
        Arg::In(bytes(&bias)),
        Arg::Out(x.len() * 2),
        Arg::Word(100),
    ];
    let y: Vec<f32> =
        numbers::<f16>(&call(SUMS, "layer_norm", 3, 128, args).one()).iter().map(|v| v.to_f32()).collect();
    let expected = x.chunks(200).flat_map(|row| {
        let mean = row.iter().sum::<f32>() / 200.0;
        let scale = (row.iter().map(|v| v * v).sum::<f32>() / 200.0 - mean * mean + 1e-5).sqrt().recip();
        row.iter().zip(&gain).zip(&bias).map(move |((v, g), b)| f64::from((v - mean) * scale * g + b))
    });
    close(&y, expected, 1e-3);
}

#[test]
fn transpose_through_a_padded_tile() {
    let x = small(8, 50 * 70);
    let args = vec![Arg::In(bytes(&x)), Arg::Out(x.len() * 4), Arg::Word(50), Arg::Word(70)];
    let y = Call { ptx: SUMS, entry: "transpose", grid: [3, 2, 1], block: [32, 8, 1], args }.one();
    let expected: Vec<f32> = (0..50 * 70).map(|i| x[i % 50 * 70 + i / 50]).collect();
    assert_eq!(numbers::<f32>(&y), expected);
}

#[test]
fn scan_in_groups() {
    let x: Vec<i32> = (0..200).map(|i| i * 7 % 23).collect();
    let args = vec![Arg::In(bytes(&x)), Arg::Out(800), Arg::Word(200)];
    let sums = x.iter().scan(0, |sum, v| {
        *sum += v;
        Some(*sum)
    });
    assert_eq!(numbers::<i32>(&call(SUMS, "scan", 1, 256, args).one()), sums.collect::<Vec<_>>());
}

#[test]
fn atomics_of_every_kind() {
    let args = vec![
        Arg::Both(bytes(&[0f64])),
        Arg::Both(bytes(&[f16::ZERO; 2])),
        Arg::Both(bytes(&[bf16::ZERO; 2])),
        Arg::Both(bytes(&[0u64, 0, 5])),
        Arg::Both(bytes(&[0f32])),
        Arg::Both(bytes(&[0i32])),
        Arg::Both(bytes(&[0u32, 0, 0, u32::MAX])),
    ];
    let out = call(SUMS, "atomics", 4, 128, args).run();
    // 512 threads of 0 to 7 in turn.
    assert_eq!(numbers::<f64>(&out[0]), [0.5 * 512.0 * 3.5]);
    assert_eq!(numbers::<f16>(&out[1]), [1792.0, -1792.0].map(f16::from_f32));
    // From 256 on, a brain float and 1 are a tie that goes back to even.
    assert_eq!(numbers::<bf16>(&out[2]), [256.0, -256.0].map(bf16::from_f32));
    // Each bit flips as often in each of four blocks.
    assert_eq!(numbers::<u64>(&out[3]), [512 << 40, 127 << 33, 5]);
    assert_eq!(numbers::<f32>(&out[4]), [127.0]);
    assert_eq!(numbers::<i32>(&out[5]), [-127]);
    // Ten values round and round, up and down.
    assert_eq!(numbers::<u32>(&out[6]), [512 % 10, 8, u32::MAX, 0]);
}

#[test]
fn votes_matches_and_reductions_of_a_warp() {
    let x: Vec<i32> = stream(9, 64).iter().map(|v| (v % 5) as i32).collect();
    let y = numbers::<u32>(&call(SUMS, "warp_words", 1, 64, vec![Arg::In(bytes(&x)), Arg::Out(64 * 32)]).one());
    for (t, out) in y.chunks(8).enumerate() {
        let (warp, lane) = (&x[t / 32 * 32..][..32], t % 32);
        let ballot = |f: &dyn Fn(i32) -> bool| (0..32).fold(0u32, |m, l| m | u32::from(f(warp[l])) << l);
        let any = u32::from(warp.contains(&3)) * 2 + 1;
        let most = warp.iter().max().unwrap() * 100 + warp.iter().min().unwrap();
        let up = if lane % 8 == 0 { warp[lane] } else { warp[lane - 1] };
        let expected = [
            ballot(&|v| v > 2),
            any,
            ballot(&|v| v == warp[lane]),
            0, // all lanes match: every bit, and one more
            warp.iter().sum::<i32>() as u32,
            most as u32,
            warp.iter().fold(0, |x, v| x ^ v) as u32,
            (warp[lane ^ 5] + up + warp[lane / 4 * 4 + 3]) as u32,
        ];
        assert_eq!(out, expected, "thread {t}");
    }
}

#[test]
fn the_last_block_adds_up() {
    let x = small(10, 500);
    let args = vec![Arg::In(bytes(&x)), Arg::Out(20), Arg::Both(bytes(&[0u32])), Arg::Out(4), Arg::Word(500)];
    let out = call(SUMS, "last_block", 5, 32, args).run();
    assert_eq!(numbers::<f32>(&out[2]), [x.iter().sum::<f32>()]);
}

#[test]
fn pipelines_barriers_and_groups_copy_ahead() {
    let x: Vec<i32> = stream(11, 512).iter().map(|v| (v % 1000) as i32).collect();
    let expected: Vec<i32> = (0..128).map(|t| (0..4).map(|tile| x[tile * 128 + 127 - t]).sum()).collect();
    for entry in ["pipelined", "on_barrier", "in_groups"] {
        let args = vec![Arg::In(bytes(&x)), Arg::Out(512), Arg::Word(4)];
        assert_eq!(numbers::<i32>(&call(BARRIERS, entry, 1, 128, args).one()), expected, "{entry}");
    }
}

#[test]
fn blocks_hand_on_through_flags() {
    let args = vec![Arg::Both(bytes(&[0i32])), Arg::Out(3 * 64 * 4), Arg::Out(12), Arg::Both(bytes(&[0i32; 3]))];
    let out = call(BARRIERS, "relay", 3, 64, args).run();
    let mut tickets = numbers::<i32>(&out[1]);
    tickets.sort_unstable();
    assert_eq!(tickets, (0..192).collect::<Vec<_>>());
    assert_eq!(numbers::<i32>(&out[2]), [1, 3, 6]);
}

#[test]
fn arrays_switches_and_locks() {
    let x: Vec<i32> = stream(12, 192).iter().map(|v| (v % 300) as i32).collect();
    let args = || vec![Arg::In(bytes(&x)), Arg::Out(192 * 4)];
    let sorted: Vec<i32> = (0..192)
        .map(|i| {
            let mut own: Vec<i32> = (0..24).map(|j| x[(i + j) % 192]).collect();
            own.sort_unstable();
            own[i % 24]
        })
        .collect();
    let with_length = args().into_iter().chain([Arg::Word(192)]).collect();
    assert_eq!(numbers::<i32>(&call(CONTROL, "local_array", 3, 64, with_length).one()), sorted);
    let branches = x.iter().map(|&v| match v % 9 {
        0 => v + 7,
        1 => v * 3,
        2 => (0..v).map(|k| k & 3).sum(),
        3 => v ^ 85,
        4 => v.leading_zeros() as i32 + 11,
        5 => 11,
        6 => {
            let (mut v, mut steps) = (v, 0);
            while v > 1 {
                v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
                steps += 1;
            }
            steps
        }
        7 => -v,
        _ => 1 << (v % 31),
    });
    assert_eq!(numbers::<i32>(&call(CONTROL, "branches", 3, 64, args()).one()), branches.collect::<Vec<_>>());
    let chosen = x.iter().enumerate().map(|(i, v)| [2 * v, v * v, -v][i % 3]);
    assert_eq!(numbers::<i32>(&call(CONTROL, "pointers", 3, 64, args()).one()), chosen.collect::<Vec<_>>());
    let areas = x.iter().enumerate().map(|(i, v)| v * if v % 2 == 0 { *v } else { i as i32 });
    assert_eq!(numbers::<i32>(&call(CONTROL, "virtual_calls", 3, 64, args()).one()), areas.collect::<Vec<_>>());
    let locked = call(CONTROL, "spin_lock", 3, 256, vec![Arg::Both(bytes(&[0i32])), Arg::Both(bytes(&[0i32]))]).run();
    assert_eq!(numbers::<i32>(&locked[1]), [3 * 36]);
}

#[test]
fn tensor_copies_of_one_and_three_dimensions() {
    // A volume of 3 x 5 x 20; each of two blocks takes 16 x 2 from (4, 1, block).
    let (volume, before) = (small(13, 300), small(14, 64));
    let boxes = vec![
        Arg::Map(Box::new(Arg::In(bytes(&volume))), vec![20, 5, 3], vec![16, 2, 1]),
        Arg::Map(Box::new(Arg::Both(bytes(&before))), vec![16, 4], vec![16, 2]),
    ];
    let after = numbers::<f32>(&call(HOPPER, "boxes", 2, 32, boxes).one());
    let expected: Vec<f32> =
        (0..64).map(|i| before[i] + 2.0 * volume[i / 32 * 100 + (1 + i / 16 % 2) * 20 + 4 + i % 16]).collect();
    assert_eq!(after, expected);

    // The second line hangs over the end of 100 numbers, and is zero there.
    let x = small(15, 100);
    let lines =
        vec![Arg::Map(Box::new(Arg::In(bytes(&x))), vec![100], vec![64]), Arg::Out(512), Arg::Both(bytes(&[1f32; 64]))];
    let out = call(HOPPER, "lines", 2, 64, lines).run();
    let at = |i: usize| x.get(i).copied().unwrap_or(0.0);
    let reversed: Vec<f32> = (0..128).map(|i| at(i / 64 * 64 + 63 - i % 64)).collect();
    assert_eq!(numbers::<f32>(&out[0]), reversed);
    assert_eq!(numbers::<f32>(&out[1]), (0..64).map(|i| 1.0 + at(i) + at(64 + i)).collect::<Vec<_>>());
}

#[test]
fn a_cluster_of_one_block() {
    let y = numbers::<u32>(&call(HOPPER, "cluster_of_one", 1, 32, vec![Arg::Out(256)]).one());
    let expected = (0..32).map(|t| 131 - t).chain((0..32).map(|t| (31 - t) * 7));
    assert_eq!(y, expected.collect::<Vec<u32>>());
}

#[test]
fn vectors_of_atomics_and_stored_matrices() {
    let x: Vec<f16> = (0..64).map(|i| f16::from_f32(i as f32)).collect();
    let args = vec![Arg::Both(bytes(&[0f32; 16])), Arg::In(bytes(&x)), Arg::Out(128)];
    let out = call(HOPPER, "wide_stores", 1, 32, args).run();
    let sums: Vec<f32> = (0..4).flat_map(|i| [8.0, 16.0, 24.0, (0..8).map(|k| (4 * k + i) as f32).sum()]).collect();
    assert_eq!(numbers::<f32>(&out[0]), sums);
    assert_eq!(numbers::<f16>(&out[1]), (0..64).map(|i| x[i % 8 * 8 + i / 8]).collect::<Vec<_>>());
}
