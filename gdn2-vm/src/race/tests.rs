//! Hand-worked orders: each hazard with and without what orders it.
#![allow(clippy::unwrap_used)]

use super::*;

const WORD: Bytes = shared(0, 4);

const fn shared(start: u64, len: u32) -> Bytes {
    Bytes { region: Region::Shared, start, len }
}

/// A write that changes what is there.
fn differs() -> bool {
    false
}

fn by(races: &Races, warp: usize, lane: u8, at: u32) -> By {
    as_worker(races, warp, Worker::Warp, lane, at)
}

fn as_worker(races: &Races, warp: usize, worker: Worker, lane: u8, at: u32) -> By {
    By { agent: races.agent(warp, worker), warp: warp as u16, lane, at }
}

const ALL: [u32; 2] = [u32::MAX; 2];

fn barrier(races: &mut Races, warps: usize) {
    let mut token = Clock::default();
    for warp in 0..warps {
        races.warp_sync(warp, ALL);
        races.release(warp, ALL, &mut token);
    }
    for warp in 0..warps {
        races.acquire(warp, ALL, &token);
    }
}

#[test]
fn a_barrier_orders_a_write_and_a_read() {
    for ordered in [false, true] {
        let mut races = Races::new(2, 64);
        assert_eq!(races.touch(by(&races, 0, 3, 10), Touch::Write, WORD, &differs), None);
        if ordered {
            barrier(&mut races, 2);
        }
        let found = races.touch(by(&races, 1, 3, 20), Touch::Read, WORD, &differs);
        assert_eq!(found.map(|f| f.hazard), (!ordered).then_some(Hazard::Unordered));
    }
}

#[test]
fn a_write_after_reads_of_many_warps_needs_them_all() {
    let mut races = Races::new(3, 64);
    races.touch(by(&races, 0, 0, 1), Touch::Write, WORD, &differs);
    barrier(&mut races, 3);
    for warp in 0..3 {
        assert_eq!(races.touch(by(&races, warp, COLLECTIVE, 2), Touch::Read, WORD, &differs), None);
    }
    let mut token = Clock::default();
    races.release(1, ALL, &mut token);
    races.acquire(0, ALL, &token);
    let found = races.touch(by(&races, 0, 0, 3), Touch::Write, WORD, &differs).unwrap();
    let other = Other { agent: races.agent(2, Worker::Warp), lane: COLLECTIVE, at: 2, wrote: false };
    assert_eq!((found.hazard, found.other), (Hazard::Unordered, Some(other)));
}

#[test]
fn lanes_of_a_warp_need_a_syncwarp_and_a_lane_alone_does_not() {
    for (lane, synced, hazard) in [(4, false, Some(Hazard::Lanes)), (4, true, None), (3, false, None)] {
        let mut races = Races::new(1, 64);
        races.touch(by(&races, 0, 3, 1), Touch::Write, WORD, &differs);
        if synced {
            races.warp_sync(0, ALL);
        }
        assert_eq!(races.touch(by(&races, 0, lane, 2), Touch::Read, WORD, &differs).map(|f| f.hazard), hazard);
    }
}

#[test]
fn a_copy_is_readable_after_its_wait_by_its_thread_and_after_a_sync_by_the_warp() {
    let steps = |waits: bool, syncs: bool, lane: u8| {
        let mut races = Races::new(2, 64);
        let copies = races.agent(0, Worker::Copies);
        let count = races.issue(0, copies);
        races.touch(as_worker(&races, 0, Worker::Copies, 5, 1), Touch::Write, WORD, &differs);
        if waits {
            races.complete(0, copies, ALL, count);
        }
        if syncs {
            races.warp_sync(0, ALL);
        }
        races.touch(by(&races, 0, lane, 2), Touch::Read, WORD, &differs).map(|f| f.hazard)
    };
    assert_eq!(steps(false, true, 5), Some(Hazard::Unwaited));
    assert_eq!(steps(true, false, 6), Some(Hazard::Lanes));
    assert_eq!(steps(true, false, 5), None);
    assert_eq!(steps(true, true, 6), None);
}

#[test]
fn a_copy_over_bytes_still_being_read_is_a_race() {
    let mut races = Races::new(2, 64);
    races.touch(by(&races, 1, 0, 1), Touch::Write, WORD, &differs);
    barrier(&mut races, 2);
    races.touch(by(&races, 1, COLLECTIVE, 2), Touch::Read, WORD, &differs);
    let copies = races.agent(0, Worker::Copies);
    races.issue(0, copies);
    let found = races.touch(as_worker(&races, 0, Worker::Copies, 0, 3), Touch::Write, WORD, &differs).unwrap();
    assert_eq!((found.hazard, found.other.unwrap().wrote), (Hazard::Unordered, false));
}

#[test]
fn the_async_proxy_sees_generic_writes_only_past_a_fence() {
    for fenced in [false, true] {
        let mut races = Races::new(2, 64);
        races.touch(by(&races, 1, 0, 1), Touch::Write, WORD, &differs);
        if fenced {
            races.proxy_fence(1, ALL);
        }
        barrier(&mut races, 2);
        let proxy = races.agent(0, Worker::Wgmma);
        races.issue(0, proxy);
        let found = races.touch(as_worker(&races, 0, Worker::Wgmma, COLLECTIVE, 2), Touch::Read, WORD, &differs);
        assert_eq!(found.map(|f| f.hazard), (!fenced).then_some(Hazard::Unfenced));
    }
}

#[test]
fn a_fence_is_not_for_what_is_written_behind_it() {
    for lanes in [ALL, [1, u32::MAX]] {
        for behind in [false, true] {
            let mut races = Races::new(2, 64);
            let write = |races: &mut Races| {
                let own = by(races, 1, 0, 1);
                races.touch(own, Touch::Write, WORD, &differs)
            };
            write(&mut races);
            races.proxy_fence(1, lanes);
            if behind {
                write(&mut races);
            }
            barrier(&mut races, 2);
            let proxy = races.agent(0, Worker::Wgmma);
            races.issue(0, proxy);
            let found = races.touch(as_worker(&races, 0, Worker::Wgmma, COLLECTIVE, 2), Touch::Read, WORD, &differs);
            assert_eq!(found.map(|f| f.hazard), behind.then_some(Hazard::Unfenced));
        }
    }
}

#[test]
fn unwritten_bytes_are_named_and_halves_of_a_word_may_be_filled_by_two_lanes() {
    let mut races = Races::new(1, 64);
    assert_eq!(races.touch(by(&races, 0, 0, 1), Touch::Write, shared(0, 2), &differs), None);
    let found = races.touch(by(&races, 0, 0, 2), Touch::Read, WORD, &differs).unwrap();
    assert_eq!(found.hazard, Hazard::Uninitialised);
    let mut races = Races::new(1, 64);
    races.touch(by(&races, 0, 0, 1), Touch::Write, shared(0, 2), &differs);
    assert_eq!(races.touch(by(&races, 0, 1, 1), Touch::Write, shared(2, 2), &differs), None);
    races.warp_sync(0, ALL);
    assert_eq!(races.touch(by(&races, 0, 7, 2), Touch::Read, WORD, &differs), None);
}

#[test]
fn atomics_do_not_race_with_each_other_but_with_a_plain_store() {
    let mut races = Races::new(2, 64);
    races.touch(by(&races, 0, 0, 1), Touch::Write, WORD, &differs);
    barrier(&mut races, 2);
    assert_eq!(races.touch(by(&races, 0, 0, 2), Touch::Atomic, WORD, &differs), None);
    assert_eq!(races.touch(by(&races, 1, 0, 2), Touch::Atomic, WORD, &differs), None);
    let found = races.touch(by(&races, 0, 0, 3), Touch::Write, WORD, &differs).unwrap();
    assert_eq!(found.hazard, Hazard::Unordered);
}

#[test]
fn a_lane_that_arrives_alone_speaks_only_for_itself() {
    let arrives = |synced: bool, lanes: u32, wrote: u8| {
        let mut races = Races::new(2, 64);
        races.touch(by(&races, 0, wrote, 1), Touch::Write, WORD, &differs);
        if synced {
            races.warp_sync(0, ALL);
        }
        let mut token = Clock::default();
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            races.release(0, [1 << lane, u32::MAX], &mut token);
        }
        races.acquire(1, ALL, &token);
        races.touch(by(&races, 1, 0, 2), Touch::Read, WORD, &differs).map(|f| f.hazard)
    };
    assert_eq!(arrives(false, 1, 7), Some(Hazard::Unordered));
    assert_eq!(arrives(false, 1, 0), None);
    assert_eq!(arrives(true, 1, 7), None);
    assert_eq!(arrives(false, u32::MAX, 7), None);
}

#[test]
fn a_copy_over_what_another_lane_still_reads_needs_a_syncwarp() {
    for (synced, lane, hazard) in [(false, 5, Some(Hazard::Lanes)), (true, 5, None), (false, 4, None)] {
        let mut races = Races::new(1, 64);
        races.touch(by(&races, 0, 0, 1), Touch::Write, WORD, &differs);
        races.warp_sync(0, ALL);
        races.touch(by(&races, 0, 4, 2), Touch::Read, WORD, &differs);
        if synced {
            races.warp_sync(0, ALL);
        }
        let copies = races.agent(0, Worker::Copies);
        races.issue(0, copies);
        let found = races.touch(as_worker(&races, 0, Worker::Copies, lane, 3), Touch::Write, WORD, &differs);
        assert_eq!(found.map(|f| f.hazard), hazard);
    }
}
