//! Named barriers and mbarriers of the resident blocks.

use std::collections::HashMap;

/// An mbarrier.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mbarrier {
    count: i64,
    pending: i64,
    bytes: i64,
    phase: bool,
    /// Warps that wait for the phase of a parity to end, and since when.
    waiting: Vec<(usize, bool, f64)>,
}

impl Mbarrier {
    pub(crate) fn make(&mut self, count: u32) {
        self.count = i64::from(count.max(1));
        self.pending = self.count;
    }

    /// Whether the phase of a parity is over.
    pub(crate) fn over(&self, parity: bool) -> bool {
        self.phase != parity
    }

    pub(crate) fn wait(&mut self, warp: usize, parity: bool, since: f64) {
        self.waiting.push((warp, parity, since));
    }

    /// Counts arrivals and bytes; the warps whose phase has ended, and since when they wait.
    pub(crate) fn arrive(&mut self, count: u16, bytes: i64) -> Vec<(usize, f64)> {
        if self.count == 0 {
            // Arrivals at what nobody made are one apiece.
            self.make(1);
        }
        self.bytes += bytes;
        self.pending -= i64::from(count);
        let mut free = Vec::new();
        while self.pending <= 0 && self.bytes <= 0 {
            self.phase = !self.phase;
            self.pending += self.count;
            let phase = self.phase;
            self.waiting.retain(|(warp, parity, since)| {
                let over = phase != *parity;
                if over {
                    free.push((*warp, *since));
                }
                !over
            });
        }
        free
    }

    pub(crate) fn describe(&self) -> String {
        format!("phase {}, {} arrivals and {} bytes missing", u8::from(self.phase), self.pending, self.bytes)
    }
}

/// A named barrier: threads that have come, warps that wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    threads: u32,
    waiting: Vec<usize>,
}

/// The barriers of all blocks.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    pub(crate) phased: HashMap<(usize, u32), Mbarrier>,
    named: HashMap<(usize, u16), Named>,
}

impl Barriers {
    /// A warp comes to a named barrier; the warps that are free when it is the last.
    pub(crate) fn come(&mut self, block: usize, id: u16, threads: u16, warp: Option<usize>) -> Option<Vec<usize>> {
        let barrier = self.named.entry((block, id)).or_default();
        barrier.threads += 32;
        barrier.waiting.extend(warp);
        if barrier.threads < u32::from(threads) {
            return None;
        }
        self.named.remove(&(block, id)).map(|barrier| barrier.waiting)
    }

    /// Forgets a block that has ended.
    pub(crate) fn forget(&mut self, block: usize) {
        self.phased.retain(|(own, _), _| *own != block);
        self.named.retain(|(own, _), _| *own != block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_when_all_have_arrived_and_all_bytes_are_there() {
        let mut barrier = Mbarrier::default();
        barrier.make(2);
        barrier.wait(7, false, 3.0);
        assert!(barrier.arrive(1, 512).is_empty());
        assert!(barrier.arrive(1, 0).is_empty(), "{}", barrier.describe());
        assert_eq!(barrier.arrive(0, -512), vec![(7, 3.0)]);
        assert!(barrier.over(false) && !barrier.over(true));
    }

    #[test]
    fn a_named_barrier_opens_for_those_who_wait() {
        let mut barriers = Barriers::default();
        assert_eq!(barriers.come(0, 1, 64, Some(3)), None);
        assert_eq!(barriers.come(0, 1, 64, None), Some(vec![3]));
        assert_eq!(barriers.come(0, 1, 32, Some(4)), Some(vec![4]));
    }
}
