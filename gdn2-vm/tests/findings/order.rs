//! Barriers, fences of memory and flags: what orders accesses of shared and device memory.

use super::{fault, found, kernel, rules};
use gdn2_vm::{Fault, Landing, Rule};

const TILE: &str = ".shared .align 16 .b8 s[1024];";

#[test]
fn a_barrier_that_awaits_fewer_warps_than_come_groups_them_as_it_likes() {
    let exchange = |barrier: &str| {
        kernel(
            TILE,
            &format!(
                "mov.u32 %r2, s; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3; st.shared.u32 [%r4], %r1;\n{barrier}\n\
                 xor.b32 %r5, %r1, 32; shl.b32 %r6, %r5, 2; add.u32 %r7, %r2, %r6; ld.shared.u32 %r8, [%r7];\n\
                 mul.wide.u32 %rd3, %r1, 4; add.u64 %rd4, %rd1, %rd3; st.global.u32 [%rd4], %r8; ret;"
            ),
        )
    };
    assert_eq!(rules(&exchange("bar.sync 1, 64;"), 128), [Rule::BarrierGroups]);
    assert_eq!(rules(&exchange("bar.sync 1, 128;"), 128), []);
    // A barrier for each pair is right.
    assert_eq!(rules(&exchange("shr.u32 %r9, %r1, 6; add.u32 %r9, %r9, 1; barrier.sync %r9, 64;"), 128), []);
}

#[test]
fn a_producer_that_does_not_wait_may_be_counted_twice() {
    // Warp 0 hands two tiles to warp 1, with and without waiting until the first was read.
    let hand = |waits: bool| {
        let (arrive, wait) = if waits { ("bar.arrive 2, 64;", "bar.sync 2, 64;") } else { ("", "") };
        kernel(
            TILE,
            &format!(
                "mov.u32 %r2, s; and.b32 %r3, %r1, 31; shl.b32 %r3, %r3, 2; add.u32 %r4, %r2, %r3;\n\
                 setp.ge.u32 %p1, %r1, 32; @%p1 bra READ;\n\
                 st.shared.u32 [%r4], %r1; bar.arrive 1, 64; {wait}\n\
                 st.shared.u32 [%r4+128], %r1; bar.arrive 1, 64; ret;\n\
                 READ: bar.sync 1, 64; ld.shared.u32 %r5, [%r4]; {arrive}\n\
                 bar.sync 1, 64; ld.shared.u32 %r6, [%r4+128]; ret;"
            ),
        )
    };
    assert_eq!(rules(&hand(true), 64), []);
    assert!(found(&hand(false), 64, Landing::Early).map_or(true, |(_, rules)| rules.contains(&Rule::BarrierGroups)));
}

#[test]
fn device_memory_is_raced_within_a_block_as_shared_memory_is() {
    let through = |barrier: &str, opcode: &str| {
        kernel(
            "",
            &format!(
                "mul.wide.u32 %rd3, %r1, 4; add.u64 %rd4, %rd1, %rd3; st.global.u32 [%rd4], %r1;\n{barrier}\n\
                 xor.b32 %r5, %r1, 32; mul.wide.u32 %rd3, %r5, 4; add.u64 %rd5, %rd1, %rd3;\n{opcode} ret;"
            ),
        )
    };
    assert_eq!(rules(&through("", "ld.global.u32 %r6, [%rd5];"), 64), [Rule::GlobalRace]);
    assert_eq!(rules(&through("bar.sync 0;", "ld.global.u32 %r6, [%rd5];"), 64), []);
    assert_eq!(rules(&through("", "st.global.u32 [%rd5], %r1;"), 64), [Rule::GlobalRace]);
    // What was read before it is overwritten is a race as well, whichever warp comes first here.
    let over = kernel(
        "",
        "xor.b32 %r5, %r1, 32; mul.wide.u32 %rd3, %r5, 4; add.u64 %rd5, %rd1, %rd3; ld.global.u32 %r6, [%rd5];\n\
         mul.wide.u32 %rd3, %r1, 4; add.u64 %rd4, %rd1, %rd3; st.global.u32 [%rd4], %r1; ret;",
    );
    assert_eq!(rules(&over, 64), [Rule::GlobalRace]);
}

#[test]
fn the_same_value_written_twice_is_no_race() {
    let write = |value: &str| {
        kernel(
            TILE,
            &format!(
                "and.b32 %r2, %r1, 31; shl.b32 %r2, %r2, 2; mov.u32 %r3, s; add.s32 %r3, %r3, %r2;\n\
                 {value} st.shared.u32 [%r3], %r4;\nbar.sync 0; ld.shared.u32 %r5, [%r3];\n\
                 mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3; st.global.u32 [%rd4], %r5; ret;"
            ),
        )
    };
    assert_eq!(rules(&write("mov.u32 %r4, %r2;"), 64), []);
    assert_eq!(rules(&write("mov.u32 %r4, %r1;"), 64), [Rule::SharedRace]);
    // The same through stmatrix: each warp stores the whole tile.
    let tile = |value: &str| {
        kernel(
            TILE,
            &format!(
                "and.b32 %r2, %r1, 31; mov.u32 %r3, s; and.b32 %r4, %r2, 7; shl.b32 %r4, %r4, 4; add.u32 %r3, %r3, %r4;\n\
                 {value} stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {{%r5}}; bar.sync 0; ret;"
            ),
        )
    };
    assert_eq!(rules(&tile("mov.u32 %r5, %r2;"), 64), []);
    assert_eq!(rules(&tile("mov.u32 %r5, %r1;"), 64), [Rule::SharedRace]);
}

#[test]
fn a_flag_orders_what_a_fence_or_a_release_publishes() {
    // Warp 0 fills a tile and raises a flag, warp 1 spins on it and reads the tile.
    let hand = |raise: &str, look: &str| {
        kernel(
            ".shared .align 16 .b8 s[1024]; .shared .align 4 .b32 flag;",
            &format!(
                "mov.u32 %r2, s; mov.u32 %r9, flag; and.b32 %r3, %r1, 31; shl.b32 %r3, %r3, 2; add.u32 %r4, %r2, %r3;\n\
                 setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r9], 0; bar.sync 0;\n\
                 setp.ge.u32 %p2, %r1, 32; @%p2 bra READ;\n\
                 st.shared.u32 [%r4], %r1; bar.warp.sync 0xffffffff; @!%p1 bra END;\n{raise}\nbra END;\n\
                 READ: {look} setp.eq.u32 %p3, %r5, 0; @%p3 bra READ;\n\
                 ld.shared.u32 %r6, [%r4];\nEND: ret;"
            ),
        )
    };
    let acquire = "ld.acquire.cta.shared.u32 %r5, [%r9];";
    assert_eq!(rules(&hand("st.release.cta.shared.u32 [%r9], 1;", acquire), 64), []);
    assert_eq!(
        rules(&hand("membar.cta; atom.shared.exch.b32 %r7, [%r9], 1;", "atom.shared.or.b32 %r5, [%r9], 0;"), 64),
        []
    );
    assert_eq!(
        rules(&hand("membar.cta; st.volatile.shared.u32 [%r9], 1;", "ld.volatile.shared.u32 %r5, [%r9];"), 64),
        []
    );
    // Nothing is published by an order of none, and a plain flag is itself raced for.
    assert_eq!(rules(&hand("st.relaxed.cta.shared.u32 [%r9], 1;", acquire), 64), [Rule::SharedRace]);
    assert_eq!(rules(&hand("atom.shared.exch.b32 %r7, [%r9], 1;", acquire), 64), [Rule::SharedRace]);
    assert_eq!(rules(&hand("st.shared.u32 [%r9], 1;", acquire), 64), [Rule::SharedRace]);
}

#[test]
fn lanes_that_meet_without_the_others_know_of_each_other_alone() {
    let exchange = |members: &str, other: u32| {
        kernel(
            TILE,
            &format!(
                "mov.u32 %r2, s; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3; setp.ge.u32 %p1, %r1, 16;\n\
                 st.shared.u32 [%r4], %r1; @%p1 bra END; bar.warp.sync {members};\n\
                 xor.b32 %r5, %r1, {other}; shl.b32 %r5, %r5, 2; add.u32 %r5, %r5, %r2; ld.shared.u32 %r6, [%r5];\n\
                 END: ret;"
            ),
        )
    };
    assert_eq!(rules(&exchange("0xffff", 1), 32), []);
    assert_eq!(rules(&exchange("0xffff", 16), 32), [Rule::MissingSyncwarp]);
}

#[test]
fn a_collective_waits_for_lanes_that_leave_or_come() {
    // Lane 0 branches past the vote and exits; the others vote without it.
    let vote = kernel(
        "",
        "setp.eq.u32 %p1, %r1, 0; setp.ne.u32 %p2, %r1, %r1; setp.eq.u32 %p3, %r1, %r1;\n@%p1 bra END;\n\
         vote.sync.all.pred %p2, %p3, 0xFFFFFFFF;\nEND: selp.u32 %r2, 1, 0, %p2;\n\
         mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3; st.global.u32 [%rd4], %r2; ret;",
    );
    let (words, rules) = found(&vote, 32, Landing::Early).unwrap();
    assert_eq!(rules, []);
    assert!(words[0] == 0 && words[1..32].iter().all(|w| *w == 1), "{words:?}");
    // The same of a shuffle and of bar.warp.sync.
    let shuffle = kernel(
        "",
        "setp.lt.u32 %p1, %r1, 8; @%p1 bra END; shfl.sync.down.b32 %r2, %r1, 0, 31, 0xffffffff;\n\
         bar.warp.sync 0xffffffff;\nEND: mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3;\n\
         st.global.u32 [%rd4], %r1; ret;",
    );
    assert_eq!(found(&shuffle, 32, Landing::Early).unwrap().1, []);
    // A lane that waits elsewhere for the others never comes.
    let never = kernel(
        "",
        "setp.eq.u32 %p1, %r1, 0; @%p1 bra OTHER; vote.sync.all.pred %p2, %p1, 0xffffffff; ret;\n\
         OTHER: vote.sync.any.pred %p2, %p1, 0xffffffff; ret;",
    );
    assert!(matches!(fault(&never, 32), Fault::Divergent { .. }), "{:?}", fault(&never, 32));
}
