//! Hand-worked orders: each hazard with and without what orders it.
#![allow(clippy::unwrap_used)]

use super::*;

const WORD: Range<u32> = 0..4;

fn by(agent: Agent, lane: u8, at: u32) -> By {
    By { agent, lane, at }
}

fn barrier(races: &mut Races, warps: usize) {
    let mut token = Clock::default();
    for warp in 0..warps {
        races.warp_sync(warp);
        races.release(races.warp(warp), &mut token);
    }
    for warp in 0..warps {
        races.acquire(races.warp(warp), &token);
    }
}

#[test]
fn a_barrier_orders_a_write_and_a_read() {
    for ordered in [false, true] {
        let mut races = Races::new(2, 64);
        assert_eq!(races.touch(by(races.warp(0), 3, 10), Touch::Write, WORD), None);
        if ordered {
            barrier(&mut races, 2);
        }
        let found = races.touch(by(races.warp(1), 3, 20), Touch::Read, WORD);
        assert_eq!(found.map(|f| f.hazard), (!ordered).then_some(Hazard::Unordered));
    }
}

#[test]
fn a_write_after_reads_of_many_warps_needs_them_all() {
    let mut races = Races::new(3, 64);
    races.touch(by(races.warp(0), 0, 1), Touch::Write, WORD);
    barrier(&mut races, 3);
    for warp in 0..3 {
        assert_eq!(races.touch(by(races.warp(warp), 0, 2), Touch::Gather, WORD), None);
    }
    let mut token = Clock::default();
    races.release(races.warp(1), &mut token);
    races.acquire(races.warp(0), &token);
    let found = races.touch(by(races.warp(0), 0, 3), Touch::Write, WORD).unwrap();
    assert_eq!((found.hazard, found.other), (Hazard::Unordered, Some((races.warp(2), 0xff, 2))));
}

#[test]
fn lanes_of_a_warp_need_a_syncwarp_and_a_lane_alone_does_not() {
    for (lane, synced, hazard) in [(4, false, Some(Hazard::Lanes)), (4, true, None), (3, false, None)] {
        let mut races = Races::new(1, 64);
        races.touch(by(races.warp(0), 3, 1), Touch::Write, WORD);
        if synced {
            races.warp_sync(0);
        }
        assert_eq!(races.touch(by(races.warp(0), lane, 2), Touch::Read, WORD).map(|f| f.hazard), hazard);
    }
}

#[test]
fn a_copy_is_readable_after_its_wait_by_its_thread_and_after_a_sync_by_the_warp() {
    let steps = |waits: bool, syncs: bool, lane: u8| {
        let mut races = Races::new(2, 64);
        let copies = races.copies(0);
        let count = races.issue(0, copies);
        races.touch(by(copies, 5, 1), Touch::Write, WORD);
        if waits {
            races.complete(0, copies, count);
        }
        if syncs {
            races.warp_sync(0);
        }
        races.touch(by(races.warp(0), lane, 2), Touch::Read, WORD).map(|f| f.hazard)
    };
    assert_eq!(steps(false, true, 5), Some(Hazard::Unwaited));
    assert_eq!(steps(true, false, 6), Some(Hazard::Lanes));
    assert_eq!(steps(true, false, 5), None);
    assert_eq!(steps(true, true, 6), None);
}

#[test]
fn a_copy_over_bytes_still_being_read_is_a_race() {
    let mut races = Races::new(2, 64);
    races.touch(by(races.warp(1), 0, 1), Touch::Write, WORD);
    barrier(&mut races, 2);
    races.touch(by(races.warp(1), 0, 2), Touch::Gather, WORD);
    let copies = races.copies(0);
    races.issue(0, copies);
    let found = races.touch(by(copies, 0, 3), Touch::Write, WORD).unwrap();
    assert_eq!((found.hazard, found.other_wrote), (Hazard::Unordered, false));
}

#[test]
fn the_async_proxy_sees_generic_writes_only_past_a_fence() {
    for fenced in [false, true] {
        let mut races = Races::new(2, 64);
        races.touch(by(races.warp(1), 0, 1), Touch::Write, WORD);
        if fenced {
            races.proxy_fence(1);
        }
        barrier(&mut races, 2);
        let proxy = races.proxy(0);
        races.issue(0, proxy);
        let found = races.touch(by(proxy, 0, 2), Touch::Gather, WORD);
        assert_eq!(found.map(|f| f.hazard), (!fenced).then_some(Hazard::Unfenced));
    }
}

#[test]
fn unwritten_bytes_are_named_and_halves_of_a_word_may_be_filled_by_two_lanes() {
    let mut races = Races::new(1, 64);
    assert_eq!(races.touch(by(races.warp(0), 0, 1), Touch::Write, 0..2), None);
    let found = races.touch(by(races.warp(0), 0, 2), Touch::Read, WORD).unwrap();
    assert_eq!(found.hazard, Hazard::Uninitialised);
    let mut races = Races::new(1, 64);
    races.touch(by(races.warp(0), 0, 1), Touch::Write, 0..2);
    assert_eq!(races.touch(by(races.warp(0), 1, 1), Touch::Write, 2..4), None);
    races.warp_sync(0);
    assert_eq!(races.touch(by(races.warp(0), 7, 2), Touch::Read, WORD), None);
}

#[test]
fn atomics_do_not_race_with_each_other_but_with_a_plain_store() {
    let mut races = Races::new(2, 64);
    races.touch(by(races.warp(0), 0, 1), Touch::Write, WORD);
    barrier(&mut races, 2);
    assert_eq!(races.touch(by(races.warp(0), 0, 2), Touch::Atomic, WORD), None);
    assert_eq!(races.touch(by(races.warp(1), 0, 2), Touch::Atomic, WORD), None);
    let found = races.touch(by(races.warp(0), 0, 3), Touch::Write, WORD).unwrap();
    assert_eq!(found.hazard, Hazard::Unordered);
}
