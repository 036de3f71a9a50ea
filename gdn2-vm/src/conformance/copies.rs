//! mbarrier phases and transaction counts, bulk and tensor copies, named barriers, setmaxnreg.

use super::edges::Stream;
use super::ptx::{header, words};
use super::{Expected, Kernel, Map};
use crate::memory::tensor_map::{MapType, Swizzle};

fn random(count: usize, seed: u64) -> Vec<u32> {
    let mut stream = Stream(seed);
    (0..count).map(|_| stream.next() as u32).collect()
}

/// Waits for phase parity 0 of the barrier at `%t`.
const WAIT: &str = "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 %p, [%t], 0; @!%p bra AGAIN;";

/// One thread tries a barrier step by step; after each step it notes the parities that have passed: 1 for the first,
/// 2 for the second. A parity has passed if the phase under way is of the other.
fn phases() -> Kernel {
    // Arrivals that each step makes, of the two a phase awaits.
    const STEPS: [u32; 6] = [0, 1, 1, 2, 1, 1];
    let mut text = header(90, 1)
        + "  .shared .align 8 .b8 bar[8];\n  mov.u32 %t, bar;\n  ld.param.u64 %x0, [p0];\n  \
        setp.ne.u32 %p, %thread, 0;\n  @%p ret;\n  mbarrier.init.shared::cta.b64 [%t], 2;\n";
    let (mut arrived, mut expected) = (0, Vec::new());
    for (i, arrivals) in STEPS.into_iter().enumerate() {
        text += &"  mbarrier.arrive.shared::cta.b64 _, [%t];\n".repeat(arrivals as usize);
        text += &format!(
            "  mbarrier.test_wait.parity.shared::cta.b64 %p, [%t], 0;\n  selp.b32 %a, 1, 0, %p;\n  \
             mbarrier.test_wait.parity.shared::cta.b64 %p, [%t], 1;\n  selp.b32 %b, 2, 0, %p;\n  or.b32 %a, %a, %b;\n  \
             st.global.b32 [%x0+{}], %a;\n",
            4 * i
        );
        arrived += arrivals;
        expected.push(if arrived / 2 % 2 == 0 { 2 } else { 1 });
    }
    text += "  ret;\n}\n";
    Kernel::new("mbarrier.phases", 90, text, Vec::new(), Expected::Words(expected))
}

/// A phase that awaits one arrival and bytes that two copies bring: over only when all have come.
fn transactions() -> Kernel {
    let input = random(128, 51);
    let text = header(90, 2)
        + &format!(
            "  .shared .align 16 .b8 tile[512];\n  .shared .align 8 .b8 bar[8];\n  mov.u32 %t, bar;\n  mov.u32 %u, tile;\n  \
             ld.param.u64 %x0, [p0];\n  setp.ne.u32 %q, %thread, 0;\n  @%q bra READY;\n  \
             mbarrier.init.shared::cta.b64 [%t], 1;\n  fence.mbarrier_init.release.cluster;\n  \
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t], 512;\n  \
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%u], [%x0], 128, [%t];\n  \
             add.u32 %c, %u, 128;\n  add.u64 %x1, %x0, 128;\n  \
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%c], [%x1], 384, [%t];\n  READY:\n  \
             bar.sync 0;\n  {WAIT}\n  mad.lo.u32 %u, %thread, 4, %u;\n  ld.shared.b32 %d, [%u];\n  \
             ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x0, %thread, 4, %x0;\n  st.global.b32 [%x0], %d;\n  ret;\n}}\n"
        );
    let kernel = Kernel::new("mbarrier.tx", 90, text, vec![words(&input)], Expected::Words(input));
    Kernel { threads: 128, ..kernel }
}

/// Shared to global memory through a bulk group.
fn bulk_store() -> Kernel {
    let input = random(128, 52);
    let text = header(90, 2)
        + "  .shared .align 16 .b8 tile[512];\n  mov.u32 %u, tile;\n  ld.param.u64 %x0, [p0];\n  \
           mad.wide.u32 %x0, %thread, 4, %x0;\n  ld.global.b32 %a, [%x0];\n  mad.lo.u32 %t, %thread, 4, %u;\n  \
           st.shared.b32 [%t], %a;\n  fence.proxy.async.shared::cta;\n  bar.sync 0;\n  setp.ne.u32 %q, %thread, 0;\n  \
           @%q ret;\n  ld.param.u64 %x1, [p1];\n  cp.async.bulk.global.shared::cta.bulk_group [%x1], [%u], 512;\n  \
           cp.async.bulk.commit_group;\n  cp.async.bulk.wait_group 0;\n  ret;\n}\n";
    let kernel = Kernel::new("cp.async.bulk.store", 90, text, vec![words(&input)], Expected::Words(input));
    Kernel { threads: 128, ..kernel }
}

/// A matrix of 20 rows of 40 words, of which a tile may hang over every edge.
const ROWS: i32 = 20;
const COLUMNS: i32 = 40;

/// A tile of 8 rows read from (row, column), and the shared memory it fills.
fn tensor_load(swizzle: Swizzle, row: i32, column: i32, fill_nan: bool) -> Kernel {
    let input = random((ROWS * COLUMNS) as usize, 53);
    // A tile row is a span of the swizzle; without one, 64 bytes.
    let (bytes, mask) = match swizzle {
        Swizzle::None => (64, 0),
        Swizzle::B32 => (32, 1),
        Swizzle::B64 => (64, 3),
        Swizzle::B128 => (128, 7),
    };
    let width = bytes / 4;
    // Which NaN is for the hardware to say: then the elements are numbers.
    let input: Vec<u32> = if fill_nan { input.iter().map(|x| ((x % 1000) as f32).to_bits()).collect() } else { input };
    let mut expected = vec![0; 8 * width];
    for (r, c) in (0..8).flat_map(|r| (0..width).map(move |c| (r, c))) {
        let (from_row, from_column) = (row + r as i32, column + c as i32);
        let inside = (0..ROWS).contains(&from_row) && (0..COLUMNS).contains(&from_column);
        let at = r * bytes + c * 4;
        expected[(at ^ ((at >> 7 & mask) << 4)) / 4] = match inside {
            true => input[(from_row * COLUMNS + from_column) as usize],
            false if fill_nan => f32::NAN.to_bits(),
            false => 0,
        };
    }
    let expected = if fill_nan {
        let exact = expected.iter().map(|bits| f64::from(f32::from_bits(*bits))).collect();
        Expected::Approximate { exact, ulps: 0.0, absolute: 0.0 }
    } else {
        Expected::Words(expected)
    };
    let text = header(90, 2).replace("p1)", "p1, .param .align 64 .b8 map[128])")
        + &format!(
            "  .shared .align 1024 .b8 tile[{total}];\n  .shared .align 8 .b8 bar[8];\n  mov.u32 %t, bar;\n  mov.u32 %u, tile;\n  \
             mov.b64 %x0, map;\n  cvta.param.u64 %x0, %x0;\n  setp.ne.u32 %q, %thread, 0;\n  @%q bra READY;\n  \
             mbarrier.init.shared::cta.b64 [%t], 1;\n  fence.mbarrier_init.release.cluster;\n  \
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t], {total};\n  mov.b32 %a, {column};\n  mov.b32 %b, {row};\n  \
             cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%u], [%x0, {{%a, %b}}], [%t];\n  \
             READY:\n  bar.sync 0;\n  {WAIT}\n  mad.lo.u32 %u, %thread, 4, %u;\n  ld.shared.b32 %d, [%u];\n  \
             ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x0, %thread, 4, %x0;\n  st.global.b32 [%x0], %d;\n  ret;\n}}\n",
            total = 8 * bytes
        );
    let fill = if fill_nan { ".nan" } else { "" };
    let name = format!("tensor.load.{bytes}.{swizzle:?}.{row}.{column}{fill}").to_lowercase();
    let kernel = Kernel::new(name, 90, text, vec![words(&input)], expected);
    let map = matrix(0, MapType::F32, [width as u32, 8], swizzle, fill_nan);
    Kernel { threads: 8 * width as u32, maps: vec![map], ..kernel }
}

fn matrix(buffer: usize, element: MapType, tile: [u32; 2], swizzle: Swizzle, fill_nan: bool) -> Map {
    let dims = vec![COLUMNS as u64, ROWS as u64];
    Map { buffer, element, dims, strides: vec![COLUMNS as u64 * 4], tile: tile.to_vec(), swizzle, fill_nan }
}

/// A tile of 8 × 16 words written at row 16, column 32, over both far edges: only what is inside arrives.
fn tensor_store() -> Kernel {
    let input = random(128, 54);
    let whole = (ROWS * COLUMNS) as usize;
    let mut expected = vec![7; whole];
    for (r, c) in (16..20).flat_map(|r| (32..40).map(move |c| (r, c))) {
        expected[r * COLUMNS as usize + c] = input[(r - 16) * 16 + c - 32];
    }
    // The rest of the output is set to 7 first, by every thread in turn.
    let rounds: String = (0..whole.div_ceil(128))
        .map(|i| format!("  add.u32 %c, %thread, {};\n  setp.lt.u32 %p, %c, {whole};\n  mad.wide.u32 %x2, %c, 4, %x1;\n  @%p st.global.b32 [%x2], 7;\n", i * 128))
        .collect();
    let text = header(90, 2).replace("p1)", "p1, .param .align 64 .b8 map[128])")
        + "  .shared .align 1024 .b8 tile[512];\n  mov.u32 %u, tile;\n  ld.param.u64 %x0, [p0];\n  ld.param.u64 %x1, [p1];\n"
        + &rounds
        + "  mad.wide.u32 %x0, %thread, 4, %x0;\n  ld.global.b32 %a, [%x0];\n  mad.lo.u32 %t, %thread, 4, %u;\n  \
           st.shared.b32 [%t], %a;\n  fence.proxy.async;\n  bar.sync 0;\n  setp.ne.u32 %q, %thread, 0;\n  @%q ret;\n  \
           mov.b64 %x0, map;\n  cvta.param.u64 %x0, %x0;\n  mov.b32 %a, 32;\n  mov.b32 %b, 16;\n  \
           cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%x0, {%a, %b}], [%u];\n  \
           cp.async.bulk.commit_group;\n  cp.async.bulk.wait_group 0;\n  ret;\n}\n";
    let kernel = Kernel::new("tensor.store.edges", 90, text, vec![words(&input)], Expected::Words(expected));
    Kernel { threads: 128, maps: vec![matrix(1, MapType::U32, [16, 8], Swizzle::None, false)], ..kernel }
}

/// Two warps write and only arrive, two wait and read: a barrier of 64 threads for each pair.
fn named_barriers() -> Kernel {
    let input = random(64, 55);
    let expected = input.iter().map(|x| x.wrapping_mul(3)).collect();
    let text = header(80, 2)
        + "  .shared .align 4 .b8 tile[256];\n  mov.u32 %u, tile;\n  and.b32 %t, %thread, 63;\n  mad.lo.u32 %u, %t, 4, %u;\n  \
           shr.u32 %b, %t, 5;\n  add.u32 %b, %b, 1;\n  setp.ge.u32 %p, %thread, 64;\n  @%p bra READ;\n  \
           ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x0, %t, 4, %x0;\n  ld.global.b32 %a, [%x0];\n  st.shared.b32 [%u], %a;\n  \
           bar.arrive %b, 64;\n  ret;\n  READ:\n  bar.sync %b, 64;\n  ld.shared.b32 %a, [%u];\n  mul.lo.u32 %a, %a, 3;\n  \
           ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x0, %t, 4, %x0;\n  st.global.b32 [%x0], %a;\n  ret;\n}\n";
    let kernel = Kernel::new("bar.arrive", 80, text, vec![words(&input)], Expected::Words(expected));
    Kernel { threads: 128, ..kernel }
}

/// One warpgroup gives registers up and another takes them; both go on as before.
fn registers() -> Kernel {
    let input = random(256, 56);
    let expected = input.iter().enumerate().map(|(i, x)| if i < 128 { !x } else { x.wrapping_add(9) }).collect();
    let text = header(90, 2).replace(")\n{", ")\n.reqntid 256, 1, 1\n.minnctapersm 1\n{")
        + "  ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x0, %thread, 4, %x0;\n  ld.global.b32 %a, [%x0];\n  \
           setp.lt.u32 %p, %thread, 128;\n  @%p bra LESS;\n  setmaxnreg.inc.sync.aligned.u32 232;\n  add.u32 %d, %a, 9;\n  \
           bra STORE;\n  LESS:\n  setmaxnreg.dec.sync.aligned.u32 40;\n  not.b32 %d, %a;\n  STORE:\n  \
           ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x0, %thread, 4, %x0;\n  st.global.b32 [%x0], %d;\n  ret;\n}\n";
    let kernel = Kernel::new("setmaxnreg", 90, text, vec![words(&input)], Expected::Words(expected));
    Kernel { threads: 256, ..kernel }
}

/// Each lane's word to another's place, told to an mbarrier in bytes.
fn stores_that_arrive() -> Kernel {
    let input = random(32, 55);
    let text = header(90, 2).replacen(".version 8.0", ".version 8.1", 1)
        + &format!(
            "  .shared .align 8 .b8 bar[8];\n  .shared .align 4 .b8 tile[128];\n  mov.u32 %t, bar;\n  mov.u32 %u, tile;\n  \
             setp.ne.u32 %q, %thread, 0;\n  @%q bra READY;\n  mbarrier.init.shared::cta.b64 [%t], 1;\n  \
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t], 128;\n  READY:\n  bar.sync 0;\n  \
             ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x0, %thread, 4, %x0;\n  ld.global.b32 %a, [%x0];\n  \
             xor.b32 %b, %thread, 31;\n  mad.lo.u32 %b, %b, 4, %u;\n  mapa.shared::cluster.u32 %b, %b, 0;\n  \
             mapa.shared::cluster.u32 %c, %t, 0;\n  \
             st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%b], %a, [%c];\n  {WAIT}\n  \
             mad.lo.u32 %u, %thread, 4, %u;\n  ld.shared.b32 %d, [%u];\n  ld.param.u64 %x0, [p1];\n  \
             mad.wide.u32 %x0, %thread, 4, %x0;\n  st.global.b32 [%x0], %d;\n  ret;\n}}\n"
        );
    let expected = (0..32).map(|i| input[i ^ 31]).collect();
    Kernel::new("st.async", 90, text, vec![words(&input)], Expected::Words(expected))
}

/// Four floats added at once to what each lane has stored before; the old ones come back.
fn vector_of_atomics() -> Kernel {
    let numbers = |seed| random(128, seed).iter().map(|x| ((x % 1000) as f32).to_bits()).collect::<Vec<u32>>();
    let (start, more) = (numbers(56), numbers(57));
    let text = header(90, 3).replacen(".version 8.0", ".version 8.1", 1)
        + "  mul.lo.u32 %t, %thread, 16;\n  cvt.u64.u32 %x3, %t;\n  ld.param.u64 %x0, [p0];\n  add.u64 %x0, %x0, %x3;\n  \
           ld.param.u64 %x1, [p1];\n  add.u64 %x1, %x1, %x3;\n  ld.param.u64 %x2, [p2];\n  mad.wide.u32 %x2, %thread, 32, %x2;\n  \
           ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%x0];\n  ld.global.v4.f32 {%f4, %f5, %f6, %f7}, [%x1];\n  \
           st.global.v4.f32 [%x2], {%f0, %f1, %f2, %f3};\n  \
           atom.global.add.v4.f32 {%f8, %f9, %f10, %f11}, [%x2], {%f4, %f5, %f6, %f7};\n  \
           st.global.v4.f32 [%x2+16], {%f8, %f9, %f10, %f11};\n  ret;\n}\n";
    let sum = |i: usize| (f32::from_bits(start[i]) + f32::from_bits(more[i])).to_bits();
    let of = |lane: usize| (0..4).map(move |i| sum(lane * 4 + i)).chain(start[lane * 4..lane * 4 + 4].iter().copied());
    let expected = (0..32).flat_map(of).collect();
    Kernel::new("atom.add.v4.f32", 90, text, vec![words(&start), words(&more)], Expected::Words(expected))
}

/// A cluster of one block: arrivals and waits, which order what its warps write.
fn cluster_barrier() -> Kernel {
    let input = random(128, 58);
    let text = header(90, 2)
        + "  .shared .align 4 .b8 tile[512];\n  mov.u32 %u, tile;\n  ld.param.u64 %x0, [p0];\n  \
           mad.wide.u32 %x0, %thread, 4, %x0;\n  ld.global.b32 %a, [%x0];\n  mad.lo.u32 %t, %thread, 4, %u;\n  \
           st.shared.b32 [%t], %a;\n  barrier.cluster.arrive.aligned;\n  barrier.cluster.wait.aligned;\n  \
           xor.b32 %b, %thread, 127;\n  mad.lo.u32 %t, %b, 4, %u;\n  ld.shared.b32 %d, [%t];\n  \
           barrier.cluster.arrive;\n  barrier.cluster.wait;\n  ld.param.u64 %x1, [p1];\n  \
           mad.wide.u32 %x1, %thread, 4, %x1;\n  st.global.b32 [%x1], %d;\n  ret;\n}\n";
    let expected = (0..128).map(|i| input[i ^ 127]).collect();
    let kernel = Kernel::new("barrier.cluster", 90, text, vec![words(&input)], Expected::Words(expected));
    Kernel { threads: 128, ..kernel }
}

/// Copies that another block of the cluster could be given, and one that adds: the first from global memory for the blocks
/// of a mask, then within shared memory, then onto it.
fn cluster_copies() -> Kernel {
    let input = random(64, 59);
    let text = header(90, 2)
        + &format!(
            "  .shared .align 16 .b8 tile[512];\n  .shared .align 8 .b8 bar[8];\n  mov.u32 %t, bar;\n  mov.u32 %u, tile;\n  \
             add.u32 %c, %u, 256;\n  ld.param.u64 %x0, [p0];\n  setp.ne.u32 %q, %thread, 0;\n  @%q bra READY;\n  \
             mbarrier.init.shared::cta.b64 [%t], 1;\n  fence.mbarrier_init.release.cluster;\n  \
             fence.proxy.async.shared::cta;\n  mov.b16 %h0, 1;\n  \
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t], 256;\n  \
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%u], [%x0], 256, [%t], \
             %h0;\n  {WAIT}\n  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t], 256;\n  \
             cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%c], [%u], 256, [%t];\n  \
             SECOND: mbarrier.try_wait.parity.shared::cta.b64 %p, [%t], 1; @!%p bra SECOND;\n  \
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t], 256;\n  \
             cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%c], [%u], 256, [%t];\n  \
             READY:\n  bar.sync 0;\n  {}\n  mad.lo.u32 %u, %thread, 4, %c;\n  ld.shared.b32 %d, [%u];\n  \
             ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x0, %thread, 4, %x0;\n  st.global.b32 [%x0], %d;\n  ret;\n}}\n",
            WAIT.replace("AGAIN", "THIRD")
        );
    let expected = input.iter().map(|v| v.wrapping_add(*v)).collect();
    let kernel = Kernel::new("cp.async.bulk.cluster", 90, text, vec![words(&input)], Expected::Words(expected));
    Kernel { threads: 64, ..kernel }
}

/// Reductions in shared memory that an mbarrier is told of, one kind after another on words of their own; and the arrivals
/// that were pending before an arrival.
fn reductions_that_arrive() -> Kernel {
    type Join = fn(u32, u32) -> u32;
    const KINDS: [(&str, Join); 4] =
        [("add.u32", u32::wrapping_add), ("max.u32", u32::max), ("and.b32", |a, b| a & b), ("xor.b32", |a, b| a ^ b)];
    let (start, more) = (random(4, 60), random(128, 61));
    let mut text = header(90, 3).replacen(".version 8.0", ".version 8.1", 1)
        + "  .shared .align 8 .b8 bar[8];\n  .shared .align 16 .b8 sums[16];\n  mov.u32 %t, bar;\n  mov.u32 %u, sums;\n  \
           ld.param.u64 %x0, [p0];\n  ld.param.u64 %x1, [p1];\n  mad.wide.u32 %x1, %thread, 16, %x1;\n  \
           ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%x1];\n  setp.ne.u32 %q, %thread, 0;\n  @%q bra READY;\n  \
           ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%x0];\n  st.shared.v4.b32 [%u], {%r4, %r5, %r6, %r7};\n  \
           mbarrier.init.shared::cta.b64 [%t], 2;\n  mbarrier.arrive.expect_tx.shared::cta.b64 %wa, [%t], 512;\n  \
           mbarrier.arrive.shared::cta.b64 %wb, [%t];\n  mbarrier.pending_count.b64 %a, %wa;\n  \
           mbarrier.pending_count.b64 %b, %wb;\n  READY:\n  bar.sync 0;\n";
    for (i, (kind, _)) in KINDS.iter().enumerate() {
        text += &format!(
            "  add.u32 %c, %u, {};\n  red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.{kind} [%c], \
             %r{i}, [%t];\n",
            4 * i
        );
    }
    text += &format!(
        "  {WAIT}\n  @%q ret;\n  ld.shared.v4.b32 {{%r0, %r1, %r2, %r3}}, [%u];\n  ld.param.u64 %x0, [p2];\n  \
         st.global.v4.b32 [%x0], {{%r0, %r1, %r2, %r3}};\n  st.global.v2.b32 [%x0+16], {{%a, %b}};\n  ret;\n}}\n"
    );
    let of = |i: usize| (0..32).fold(start[i], |sum, lane| KINDS[i].1(sum, more[4 * lane + i]));
    let expected = (0..4).map(of).chain([2, 1]).collect();
    Kernel::new("red.async", 90, text, vec![words(&start), words(&more)], Expected::Words(expected))
}

pub(super) fn kernels() -> Vec<Kernel> {
    let mut all = vec![phases(), transactions(), bulk_store(), tensor_store(), named_barriers(), registers()];
    all.extend([stores_that_arrive(), vector_of_atomics(), cluster_barrier()]);
    all.extend([cluster_copies(), reductions_that_arrive()]);
    for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
        // Inside, over the near edges, over the far ones, and wholly outside.
        for (row, column) in [(3, 4), (-3, -4), (16, 36), (40, 0)] {
            all.push(tensor_load(swizzle, row, column, false));
        }
    }
    all.push(tensor_load(Swizzle::None, 16, 36, true));
    all
}
