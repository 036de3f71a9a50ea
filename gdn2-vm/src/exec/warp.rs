//! One warp: registers, live lanes, and the groups its lanes split into when a branch diverges.
//!
//! A group runs until it reaches the join of the branch that split it and parks there until every live lane
//! of that branch has come; then the lanes go on as one. Among groups the lowest pc runs first.

use crate::exec::lanes::Regs;
use crate::isa::cfg::NO_JOIN;
use std::hash::{DefaultHasher, Hash, Hasher};

/// No join above.
const NONE: u32 = u32::MAX;

/// What a group waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    /// A block barrier, and the generation it had on arrival.
    Barrier {
        id: u8,
        generation: u64,
    },
    /// `bar.warp.sync` with these members.
    Sync(u32),
    /// A collective whose members are not all here.
    Collective(u32),
    /// It asked to be set aside; runnable again when the others had their turn.
    Yielded,
}

/// What an instruction does to the group that ran it.
pub(crate) enum Next {
    /// On to the next instruction.
    Step,
    /// The group waits at this instruction.
    Wait(Wait),
    /// On to the next instruction, but others first.
    Yield,
    /// Its groups changed; choose again.
    Choose,
}

/// Lanes at one pc.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) wait: Wait,
    /// Where this group parks, and the join it belongs to.
    pub(crate) join_pc: u32,
    top: u32,
    /// The mbarrier wait that failed last, for a deadlock's report.
    pub(crate) spin: Option<Spin>,
}

/// A wait on an mbarrier that found its phase unfinished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    pub(crate) pc: u32,
    pub(crate) address: u32,
}

#[derive(Clone, Copy, Debug)]
struct Join {
    pc: u32,
    members: u32,
    arrived: u32,
    parent: u32,
}

/// One warp of a block.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub(crate) id: u32,
    pub(crate) regs: Regs,
    /// Carry flags of add.cc.
    pub(crate) carry: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    pub(crate) groups: Vec<Group>,
    joins: Vec<Join>,
    free: Vec<u32>,
    /// Local memory, lane after lane.
    pub(crate) local: Vec<u8>,
    /// Instructions executed so far: the clock.
    pub(crate) clock: u64,
    /// Asynchronous copies not yet landed, and groups committed, per lane.
    pub(crate) copies: Vec<Copy>,
    pub(crate) committed: Vec<u32>,
    /// Bulk groups committed, per lane.
    pub(crate) bulk_committed: Vec<u32>,
    /// Barrier phase of the last `barrier.cluster.arrive`.
    pub(crate) cluster: u64,
    /// Something but its own registers was read or written in this turn.
    pub(crate) outward: bool,
    /// What its registers were when a turn ended inside a loop.
    state: Option<u64>,
}

/// One lane's asynchronous copy, when copies land late.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) lane: u8,
    pub(crate) bytes: u8,
    /// Bytes really read; the rest is zero.
    pub(crate) valid: u8,
    pub(crate) dst: *mut u8,
    pub(crate) src: *const u8,
    /// Index of its group, or `u32::MAX` before the commit.
    pub(crate) group: u32,
}

impl Warp {
    /// Makes the warp ready to run from pc 0.
    pub(crate) fn start(&mut self, id: u32, lanes: u32, local_bytes: usize) {
        self.id = id;
        self.carry = 0;
        self.live = lanes;
        self.groups.clear();
        self.groups.push(Group { pc: 0, mask: lanes, wait: Wait::No, join_pc: NO_JOIN, top: NONE, spin: None });
        self.joins.clear();
        self.free.clear();
        self.local.clear();
        self.local.resize(local_bytes * 32, 0xff);
        self.clock = 0;
        self.copies.clear();
        self.committed.clear();
        self.committed.resize(32, 0);
        self.bulk_committed.clear();
        self.bulk_committed.resize(32, 0);
        self.cluster = 0;
        self.state = None;
    }

    /// Whether the turn that ends in a loop left the warp as the turn before did, by its registers alone: it then does
    /// so for ever.
    pub(crate) fn repeats(&mut self) -> bool {
        let mut hasher = DefaultHasher::new();
        (&self.regs.p, &self.regs.r, &self.regs.x, self.carry).hash(&mut hasher);
        self.groups.iter().for_each(|group| (group.pc, group.mask).hash(&mut hasher));
        let state = Some(hasher.finish());
        let same = !self.outward && self.state == state;
        self.state = state;
        same
    }

    /// Splits group `g` at a branch: `taken` lanes go to `target`, the rest falls through.
    pub(crate) fn diverge(&mut self, g: usize, taken: u32, target: u32, join: u32) {
        let group = self.groups[g];
        let (mut top, mut join_pc) = (group.top, group.join_pc);
        if join != NO_JOIN && join != join_pc {
            top = self.new_join(Join { pc: join, members: group.mask, arrived: 0, parent: group.top });
            join_pc = join;
        }
        self.groups[g] =
            Group { pc: group.pc + 1, mask: group.mask & !taken, wait: Wait::No, join_pc, top, spin: None };
        self.groups.push(Group { pc: target, mask: taken, wait: Wait::No, join_pc, top, spin: None });
        // The second first: parking removes a group.
        let last = self.groups.len() - 1;
        self.park(last);
        self.park(g);
    }

    fn new_join(&mut self, j: Join) -> u32 {
        if let Some(i) = self.free.pop() {
            self.joins[i as usize] = j;
            i
        } else {
            self.joins.push(j);
            self.joins.len() as u32 - 1
        }
    }

    /// Parks group `g` if it stands at its join; true if it is gone (or has become another group).
    pub(crate) fn park(&mut self, g: usize) -> bool {
        let group = self.groups[g];
        if group.pc != group.join_pc {
            return false;
        }
        self.groups.swap_remove(g);
        self.joins[group.top as usize].arrived |= group.mask;
        self.settle(group.top);
        true
    }

    /// Lets a join's lanes go on if all that still live are there.
    fn settle(&mut self, top: u32) {
        let j = self.joins[top as usize];
        let expected = j.members & self.live;
        if j.arrived & self.live != expected {
            return;
        }
        self.joins[top as usize].members = 0;
        self.free.push(top);
        if expected != 0 {
            let join_pc = if j.parent == NONE { NO_JOIN } else { self.joins[j.parent as usize].pc };
            self.groups.push(Group { pc: j.pc, mask: expected, wait: Wait::No, join_pc, top: j.parent, spin: None });
        }
    }

    /// Lanes of group `g` leave the kernel; true if the whole group is gone.
    pub(crate) fn exit(&mut self, g: usize, mask: u32) -> bool {
        self.live &= !mask;
        self.groups[g].mask &= !mask;
        let gone = self.groups[g].mask == 0;
        if gone {
            self.groups.swap_remove(g);
        }
        for i in 0..self.joins.len() {
            if self.joins[i].members != 0 {
                self.settle(i as u32);
            }
        }
        gone
    }

    /// Releases the groups that wait in `bar.warp.sync` if all members have come, joining equal ones.
    pub(crate) fn settle_sync(&mut self, members: u32) {
        let here: u32 = self.groups.iter().filter(|g| g.wait == Wait::Sync(members)).map(|g| g.mask).sum();
        if here != members & self.live {
            return;
        }
        for g in self.groups.iter_mut().filter(|g| g.wait == Wait::Sync(members)) {
            g.wait = Wait::No;
            g.pc += 1;
        }
        self.merge();
        for i in (0..self.groups.len()).rev() {
            self.park(i);
        }
    }

    /// Nothing of the warp can run: lets lanes go on that wait for others, now that some of those have left, or have come;
    /// or else lanes that are parked where a branch meets again, as others wait for these elsewhere. True if any can.
    pub(crate) fn unblock(&mut self) -> bool {
        for i in 0..self.groups.len() {
            let Group { pc, top, wait, .. } = self.groups[i];
            match wait {
                Wait::Sync(members) => {
                    self.settle_sync(members);
                    if self.groups.get(i).is_none_or(|g| g.wait != wait) {
                        return true;
                    }
                }
                Wait::Collective(members) => {
                    let with = |g: &&mut Group| (g.pc, g.top, g.wait) == (pc, top, wait);
                    let here: u32 = self.groups.iter_mut().filter(with).map(|g| g.mask).sum();
                    if here == members & self.live {
                        self.groups.iter_mut().filter(with).for_each(|g| g.wait = Wait::No);
                        self.merge();
                        return true;
                    }
                }
                Wait::No | Wait::Barrier { .. } | Wait::Yielded => {}
            }
        }
        let waits = |g: &Group| matches!(g.wait, Wait::Sync(_) | Wait::Collective(_));
        if !self.groups.iter().any(waits) {
            return false;
        }
        let mut any = false;
        for i in 0..self.joins.len() {
            let Join { pc, arrived, parent, members } = self.joins[i];
            let ready = arrived & self.live;
            if members == 0 || ready == 0 {
                continue;
            }
            self.joins[i].members &= !arrived;
            self.joins[i].arrived = 0;
            let join_pc = if parent == NONE { NO_JOIN } else { self.joins[parent as usize].pc };
            self.groups.push(Group { pc, mask: ready, wait: Wait::No, join_pc, top: parent, spin: None });
            any = true;
        }
        any
    }

    /// The first group that waits for members of a collective: where, and whom it needs.
    pub(crate) fn divided(&self) -> Option<(u32, u32, u32)> {
        self.groups.iter().find_map(|g| match g.wait {
            Wait::Collective(needs) => Some((g.pc, needs, g.mask)),
            _ => None,
        })
    }

    /// Joins groups that stand at one pc under one join.
    pub(crate) fn merge(&mut self) {
        let mut i = 0;
        while i < self.groups.len() {
            let a = self.groups[i];
            let other = (i + 1..self.groups.len()).find(|&k| {
                let b = self.groups[k];
                (b.pc, b.top) == (a.pc, a.top) && b.wait == Wait::No && a.wait == Wait::No
            });
            match other {
                Some(k) => {
                    self.groups[i].mask |= self.groups[k].mask;
                    self.groups.swap_remove(k);
                }
                None => i += 1,
            }
        }
    }
}
