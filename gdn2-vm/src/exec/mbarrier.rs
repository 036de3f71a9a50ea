//! Transaction barriers in shared memory: arrivals and bytes end a phase, waits see that it ended.

use crate::exec::access::{Request, addresses};
use crate::exec::async_state::{Mbar, wrong};
use crate::exec::block::Block;
use crate::exec::lanes::lanes;
use crate::exec::observe::{Agent, Kind, Observer, Sync};
use crate::exec::warp::Next;
use crate::exec::warp::{Spin, Warp};
use crate::isa::hopper::Async;
use crate::isa::inst::{Addr, Order, Space};
use crate::report::trap::{Exec, Fault, fail_at};

/// The largest count an mbarrier can hold.
const MOST: u32 = (1 << 20) - 1;

/// What an arrival's 64 bits hold: the phase it was of, and the arrivals that were pending before it.
struct State {
    phase: u64,
    pending: u32,
}

impl State {
    fn of(bits: u64) -> State {
        State { phase: bits >> 20, pending: bits as u32 & MOST }
    }

    fn bits(self) -> u64 {
        self.phase << 20 | u64::from(self.pending)
    }
}

impl<O: Observer> Block<'_, O> {
    /// Shared addresses of the mbarriers a warp names, checked.
    pub(crate) fn mbar_addresses(&self, w: &Warp, mask: u32, at: Addr) -> Exec<[u32; 32]> {
        let mut a = addresses(w, at).map(|v| v & !crate::memory::space::SHARED);
        let end = self.shared.as_slice().len() as u64;
        for i in lanes(mask) {
            if a[i] & 7 != 0 {
                return fail_at(i, Fault::Misaligned { space: "shared", address: a[i], needs: 8 });
            }
            if a[i] < u64::from(self.grid.entry.shared_base) || a[i] + 8 > end {
                let detail = "an mbarrier must lie in shared memory".to_owned();
                return fail_at(i, Fault::OutOfBounds { space: "shared", address: a[i], bytes: 8, detail });
            }
        }
        for (i, v) in a.iter_mut().enumerate() {
            if mask >> i & 1 == 0 {
                *v = 0;
            }
        }
        Ok(a.map(|v| v as u32))
    }

    pub(crate) fn mbar(&mut self, lane: usize, address: u32) -> Exec<&mut Mbar> {
        match self.mbars.iter_mut().find(|m| m.address == address) {
            Some(m) => Ok(m),
            None => wrong(lane, address, "no mbarrier was initialised here"),
        }
    }

    /// Bytes have landed.
    pub(crate) fn complete(&mut self, lane: usize, address: u32, bytes: u32) -> Exec<()> {
        self.progress = true;
        let m = self.mbar(lane, address)?;
        m.bytes -= i64::from(bytes);
        m.settle();
        Ok(())
    }

    /// Runs an mbarrier instruction.
    pub(crate) fn mbarrier(&mut self, w: &mut Warp, g: usize, mask: u32, op: &Async) -> Exec<Next> {
        match op {
            Async::MbarInit { at, count } => {
                let a = self.mbar_addresses(w, mask, *at)?;
                // The object is written: whoever reads its bytes as data races with it.
                let q = Request {
                    space: Space::Generic,
                    kind: Kind::Write,
                    agent: Agent::Warp,
                    order: Order::Weak,
                    bytes: 8,
                    align: 8,
                };
                self.pointers(w, mask, &a.map(|v| u64::from(v) | crate::memory::space::SHARED), q)?;
                for i in lanes(mask) {
                    let n = w.regs.r[*count as usize][i];
                    if n == 0 || n > MOST {
                        return wrong(i, a[i], format!("a count of {n}: it must be 1 to {MOST}"));
                    }
                    self.mbars.retain(|m| m.address != a[i]);
                    self.mbars.push(Mbar { address: a[i], count: n, pending: n, bytes: 0, phase: 0 });
                    self.sync(1 << i, Sync::MbarInit { address: a[i] });
                }
            }
            Async::MbarInval { at } => {
                let a = self.mbar_addresses(w, mask, *at)?;
                for i in lanes(mask) {
                    self.mbar(i, a[i])?;
                    self.mbars.retain(|m| m.address != a[i]);
                    self.sync(1 << i, Sync::MbarInval { address: a[i] });
                }
            }
            Async::MbarArrive { at, expect, count, arrive, drop, state } => {
                let a = self.mbar_addresses(w, mask, *at)?;
                let mut together = None;
                for i in lanes(mask) {
                    let bytes = expect.map_or(0, |s| w.regs.r[s as usize][i]);
                    let n = if *arrive { count.map_or(1, |s| w.regs.r[s as usize][i]) } else { 0 };
                    let before = self.mbar(i, a[i])?.pending;
                    let phase = self.arrive_at(i, a[i], bytes, n, *drop)?;
                    if let Some(s) = *state {
                        w.regs.x[s as usize][i] = State { phase, pending: before }.bits();
                    }
                    let arrival = Sync::MbarArrive { address: a[i], phase, arrives: n > 0 };
                    together = self.join_lanes(together, i, arrival);
                }
                self.flush(together);
            }
            Async::MbarPending { d, state } => {
                let states = w.regs.x[*state as usize];
                w.regs.set_word(*d, mask, |i| State::of(states[i]).pending);
            }
            Async::MbarComplete { at, bytes } => {
                let a = self.mbar_addresses(w, mask, *at)?;
                for i in lanes(mask) {
                    self.complete(i, a[i], w.regs.r[*bytes as usize][i])?;
                }
            }
            Async::MbarWait { at, p, state, parity } => {
                let a = self.mbar_addresses(w, mask, *at)?;
                let mut passed = 0;
                let mut spin = None;
                let mut together = None;
                for i in lanes(mask) {
                    let phase = self.mbar(i, a[i])?.phase;
                    let wanted = if *parity { None } else { Some(State::of(w.regs.x[*state as usize][i]).phase) };
                    let bit = u64::from(w.regs.r[if *parity { *state as usize } else { 0 }][i] & 1);
                    let done = wanted.map_or(phase & 1 != bit, |s| phase != s);
                    if done {
                        passed |= 1 << i;
                        let pass = Sync::MbarPass { address: a[i], phase: phase.wrapping_sub(1) };
                        together = self.join_lanes(together, i, pass);
                    } else {
                        spin = Some(Spin { pc: self.at.pc, address: a[i] });
                    }
                }
                self.flush(together);
                w.regs.set_pred(*p, passed, mask);
                w.groups[g].spin = spin;
                if spin.is_some() {
                    return Ok(Next::Yield);
                }
            }
            Async::CpAsyncArrive { at, increment } => {
                let a = self.mbar_addresses(w, mask, *at)?;
                w.land_lanes(mask);
                let mut together = None;
                for i in lanes(mask) {
                    if *increment {
                        self.mbar(i, a[i])?.pending += 1;
                    }
                    let phase = self.arrive_at(i, a[i], 0, 1, false)?;
                    together = self.join_lanes(together, i, Sync::CopyArrive { address: a[i], phase });
                }
                self.flush(together);
            }
            _ => {}
        }
        Ok(Next::Step)
    }

    /// Lanes that do the same are told of at once: `open` is what the lanes before did.
    fn join_lanes(&mut self, open: Option<(u32, Sync)>, lane: usize, sync: Sync) -> Option<(u32, Sync)> {
        match open {
            Some((mask, same)) if same == sync => Some((mask | 1 << lane, same)),
            other => {
                self.flush(other);
                Some((1 << lane, sync))
            }
        }
    }

    fn flush(&mut self, open: Option<(u32, Sync)>) {
        if let Some((mask, sync)) = open {
            self.sync(mask, sync);
        }
    }

    /// Announces bytes, takes arrivals, ends the phase if that was the last; returns the phase.
    fn arrive_at(&mut self, lane: usize, address: u32, bytes: u32, n: u32, drop: bool) -> Exec<u64> {
        self.progress = true;
        let m = self.mbar(lane, address)?;
        let phase = m.phase;
        if bytes > MOST || m.bytes + i64::from(bytes) > i64::from(MOST) {
            return wrong(lane, address, format!("{bytes} more bytes expected: a phase holds at most {MOST}"));
        }
        m.bytes += i64::from(bytes);
        if n > m.pending {
            let left = m.pending;
            return wrong(lane, address, format!("{n} arrivals, but phase {phase} waits for {left} more"));
        }
        m.pending -= n;
        if drop {
            m.count -= n;
        }
        if n > 0 {
            m.settle();
        }
        Ok(phase)
    }
}
