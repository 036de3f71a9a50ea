//! Copies, mbarriers and the fence between the proxies, lane by lane.

use super::{found, kernel, rules};
use gdn2_vm::{Landing, Rule};

const FENCE: &str = "fence.proxy.async.shared::cta;";

/// Lanes store, some fence, all meet, one asks for a bulk store of what was stored.
fn stored_out(between: &str) -> String {
    kernel(
        ".shared .align 128 .b8 s[128];",
        &format!(
            "mov.u32 %r2, s; shl.b32 %r5, %r1, 2; add.u32 %r6, %r2, %r5; st.shared.u32 [%r6], %r1;\n\
             setp.eq.u32 %p1, %r1, 0; setp.lt.u32 %p2, %r1, 16; {between}\n@!%p1 bra END;\n\
             cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 128; cp.async.bulk.commit_group;\n\
             cp.async.bulk.wait_group 0;\nEND: ret;"
        ),
    )
}

#[test]
fn a_proxy_fence_is_of_the_lanes_that_ran_it() {
    for (between, finding) in [
        (format!("{FENCE} bar.sync 0;"), None),
        (format!("@%p1 {FENCE} bar.sync 0;"), Some(Rule::MissingProxyFence)),
        (format!("@%p2 {FENCE} bar.sync 0;"), Some(Rule::MissingProxyFence)),
        (format!("@!%p1 {FENCE} bar.sync 0;"), Some(Rule::MissingProxyFence)),
        // Both halves, one after the other, or one lane after all have met.
        (format!("@%p2 {FENCE} @!%p2 {FENCE} bar.sync 0;"), None),
        (format!("bar.sync 0; @%p1 {FENCE}"), None),
        (format!("bar.warp.sync 0xffffffff; @%p1 {FENCE} bar.sync 0;"), None),
        ("bar.sync 0;".to_owned(), Some(Rule::MissingProxyFence)),
    ] {
        assert_eq!(rules(&stored_out(&between), 32), finding.into_iter().collect::<Vec<_>>(), "{between}");
    }
}

/// Warp 0 stores and arrives at an mbarrier, every lane for itself; warp 1 waits and asks for a bulk store.
fn through_mbarrier(fence: &str, count: u32, wait: &str) -> String {
    kernel(
        ".shared .align 16 .b8 s[128]; .shared .align 8 .b64 bar;",
        &format!(
            "mov.u32 %r2, s; mov.u32 %r3, bar; setp.ne.u32 %p1, %r1, 0; setp.ge.u32 %p2, %r1, 32;\n\
             @%p1 bra INITED; mbarrier.init.shared::cta.b64 [%r3], {count}; {FENCE}\n\
             INITED: bar.sync 0; @%p2 bra STORER;\n\
             shl.b32 %r4, %r1, 2; add.s32 %r4, %r2, %r4; st.shared.u32 [%r4], %r1; {fence}\n\
             mbarrier.arrive.shared::cta.b64 _, [%r3]; bra END;\n\
             STORER: setp.ne.u32 %p4, %r1, 32; {wait}\n@%p4 bra END;\n\
             cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 128; cp.async.bulk.commit_group;\n\
             cp.async.bulk.wait_group 0;\nEND: bar.sync 0; ret;"
        ),
    )
}

const WAIT: &str = "mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0; @!%p3 bra STORER;";

#[test]
fn a_fence_is_handed_on_by_lanes_that_arrive_one_by_one() {
    assert_eq!(rules(&through_mbarrier(FENCE, 32, WAIT), 64), []);
    assert_eq!(rules(&through_mbarrier("", 32, WAIT), 64), [Rule::MissingProxyFence]);
    let some = format!("setp.lt.u32 %p5, %r1, 31; @%p5 {FENCE}");
    assert_eq!(rules(&through_mbarrier(&some, 32, WAIT), 64), [Rule::MissingProxyFence]);
    // The fence may also stand on the side of the lane that waited.
    assert_eq!(rules(&through_mbarrier("", 32, &format!("{WAIT} {FENCE}")), 64), []);
}

#[test]
fn a_wait_is_of_the_lanes_that_waited() {
    // Lane 1 of warp 1 waits, lane 0 asks for the store, with and without a meeting between.
    let other = "setp.ne.u32 %p6, %r1, 33; @%p6 bra PAST;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0; \
                 @!%p3 bra AGAIN;\nPAST:";
    assert_eq!(rules(&through_mbarrier(FENCE, 32, &format!("{other} bar.warp.sync 0xffffffff;")), 64), []);
    assert_ne!(rules(&through_mbarrier(FENCE, 32, other), 64), []);
}

#[test]
fn a_phase_that_a_block_leaves_unfinished_is_told() {
    // One arrival more than the count begins a second phase; one fewer never ends the first.
    let found = rules(&through_mbarrier(FENCE, 31, WAIT), 64);
    assert!(found.contains(&Rule::UnfinishedPhase), "{found:?}");
    let bytes = kernel(
        ".shared .align 8 .b64 bar;",
        "mov.u32 %r3, bar; setp.ne.u32 %p1, %r1, 0; @%p1 bra END; mbarrier.init.shared::cta.b64 [%r3], 1;\n\
         mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r3], 16;\nEND: ret;",
    );
    assert_eq!(rules(&bytes, 32), [Rule::UnfinishedPhase]);
}

/// 64 lanes copy 16 bytes each and arrive once their copies have landed; 64 others wait and read.
fn copies(count: u32) -> String {
    kernel(
        ".shared .align 16 .b8 s[1024]; .shared .align 8 .b64 m;",
        &format!(
            "mov.u32 %r2, s; mov.u32 %r3, m; setp.ne.u32 %p1, %r1, 0; @%p1 bra INITED;\n\
             mbarrier.init.shared::cta.b64 [%r3], {count};\nINITED: bar.sync 0;\n\
             setp.ge.u32 %p2, %r1, 64; @%p2 bra READ;\n\
             shl.b32 %r5, %r1, 4; add.u32 %r6, %r2, %r5; mul.wide.u32 %rd5, %r1, 16; add.u64 %rd6, %rd2, %rd5;\n\
             cp.async.ca.shared.global [%r6], [%rd6], 16; cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r3]; ret;\n\
             READ: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0; @!%p3 bra READ;\n\
             sub.u32 %r8, %r1, 64; shl.b32 %r9, %r8, 4; add.u32 %r10, %r2, %r9; ld.shared.u32 %r11, [%r10];\n\
             mul.wide.u32 %rd3, %r8, 4; add.u64 %rd4, %rd1, %rd3; st.global.u32 [%rd4], %r11; ret;"
        ),
    )
}

#[test]
fn arrivals_of_copies_count_by_lane() {
    assert_eq!(rules(&copies(64), 128), []);
    for count in [63, 60, 33] {
        for landing in [Landing::Early, Landing::Late] {
            let rules = found(&copies(count), 128, landing).unwrap().1;
            assert!(rules.contains(&Rule::SharedRace) || rules.contains(&Rule::Unwaited), "{count}: {rules:?}");
        }
    }
}

/// Each lane copies, commits and waits; its neighbour's bytes are read.
fn neighbours(wait: &str) -> String {
    kernel(
        ".shared .align 16 .b8 s[512];",
        &format!(
            "mov.u32 %r2, s; shl.b32 %r5, %r1, 4; add.u32 %r6, %r2, %r5; mul.wide.u32 %rd5, %r1, 16;\n\
             add.u64 %rd6, %rd2, %rd5; setp.eq.u32 %p1, %r1, 0;\n\
             cp.async.ca.shared.global [%r6], [%rd6], 16; cp.async.commit_group;\n{wait}\n\
             xor.b32 %r5, %r1, 1; shl.b32 %r5, %r5, 4; add.u32 %r6, %r2, %r5; ld.shared.u32 %r7, [%r6]; ret;"
        ),
    )
}

#[test]
fn a_wait_for_copies_is_of_the_lanes_that_waited() {
    assert_eq!(rules(&neighbours("cp.async.wait_group 0; bar.warp.sync 0xffffffff;"), 32), []);
    assert_eq!(rules(&neighbours("cp.async.wait_group 0;"), 32), [Rule::MissingSyncwarp]);
    assert_eq!(rules(&neighbours("@%p1 cp.async.wait_group 0; bar.warp.sync 0xffffffff;"), 32), [Rule::Unwaited]);
    assert_eq!(rules(&neighbours("@!%p1 cp.async.wait_all; bar.warp.sync 0xffffffff;"), 32), [Rule::Unwaited]);
}

#[test]
fn what_a_bulk_store_wrote_may_be_read_once_it_is_complete() {
    let back = |wait: &str| {
        kernel(
            ".shared .align 128 .b8 s[128];",
            &format!(
                "mov.u32 %r2, s; shl.b32 %r5, %r1, 2; add.u32 %r6, %r2, %r5; st.shared.u32 [%r6], %r1; {FENCE}\n\
                 bar.sync 0; setp.ne.u32 %p1, %r1, 0; @%p1 bra MEET;\n\
                 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 128; cp.async.bulk.commit_group; {wait}\n\
                 MEET: bar.sync 0; mul.wide.u32 %rd3, %r1, 4; add.u64 %rd4, %rd1, %rd3; ld.global.u32 %r7, [%rd4]; ret;"
            ),
        )
    };
    assert_eq!(rules(&back("cp.async.bulk.wait_group 0;"), 32), []);
    // Having read the source is not having written the destination.
    assert_eq!(rules(&back("cp.async.bulk.wait_group.read 0;"), 32), [Rule::Unwaited]);
}
