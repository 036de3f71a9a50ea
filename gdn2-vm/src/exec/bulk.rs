//! Bulk and tensor copies between device and shared memory: one thread asks, the copy engine moves.

use crate::exec::access::{Request, addresses};
use crate::exec::async_state::{Change, End, Flight, OPEN, Piece};
use crate::exec::block::Block;
use crate::exec::lanes::lanes;
use crate::exec::observe::{Agent, Kind, Observer, Sync};
use crate::exec::warp::Next;
use crate::exec::warp::{Wait, Warp};
use crate::isa::hopper::Async;
use crate::isa::inst::Order;
use crate::isa::inst::Space;
use crate::memory::space::SHARED;
use crate::memory::tensor_map::{MapType, TensorMap};
use crate::num::Type;
use crate::report::trap::{Exec, Fault, fail_at};

fn map_type(t: MapType) -> Type {
    match t {
        MapType::U8 => Type::U8,
        MapType::U16 => Type::U16,
        MapType::U32 => Type::U32,
        MapType::I32 => Type::S32,
        MapType::U64 => Type::U64,
        MapType::F16 => Type::F16,
        MapType::Bf16 => Type::Bf16,
        MapType::F32 => Type::F32,
        MapType::F64 => Type::F64,
    }
}

/// Whether a copy for the blocks of this mask is for the first one, which is the cluster.
fn here(w: &Warp, blocks: Option<u32>, lane: usize) -> bool {
    blocks.is_none_or(|blocks| w.regs.r[blocks as usize][lane] & 1 != 0)
}

/// What the copy engine asks.
fn ask(space: Space, kind: Kind, bytes: u32, align: u32) -> Request {
    Request { space, kind, agent: Agent::Bulk, order: Order::Weak, bytes, align }
}

impl<O: Observer> Block<'_, O> {
    /// One checked range.
    fn range(&mut self, w: &Warp, lane: usize, at: u64, q: Request) -> Exec<*mut u8> {
        Ok(self.pointers(w, 1 << lane, &[at; 32], q)?[lane])
    }

    pub(crate) fn asynchronous(&mut self, w: &mut Warp, g: usize, mask: u32, op: &Async) -> Exec<Next> {
        match op {
            Async::BulkIn { dst, src, from: space, bytes, mbar, reduce, blocks } => {
                let (to, mut from) = (addresses(w, *dst), addresses(w, *src));
                if *space == Space::Shared {
                    from = from.map(|at| at & !SHARED);
                }
                let bars = self.mbar_addresses(w, mask, *mbar)?;
                for i in lanes(mask).filter(|i| here(w, *blocks, *i)) {
                    let n = self.bulk_bytes(w, i, *bytes)?;
                    let src = self.range(w, i, from[i], ask(*space, Kind::Read, n, 16))?;
                    let kind = if reduce.is_some() { Kind::Atomic } else { Kind::Write };
                    let dst = self.range(w, i, to[i] & !SHARED, ask(Space::Shared, kind, n, 16))?;
                    let pieces = vec![Piece { dst, src, bytes: n }];
                    let end = End::Mbar { address: bars[i], bytes: n };
                    let change = reduce.map_or(Change::Replace, |(op, ty)| Change::Reduce(op, ty));
                    self.fly(Flight { pieces, change, fill: 0, end, lane: i })?;
                }
            }
            Async::BulkOut { dst, src, bytes, reduce } => {
                let (to, from) = (addresses(w, *dst), addresses(w, *src));
                for i in lanes(mask) {
                    let n = self.bulk_bytes(w, i, *bytes)?;
                    let src = self.range(w, i, from[i] & !SHARED, ask(Space::Shared, Kind::Read, n, 16))?;
                    let kind = if reduce.is_some() { Kind::Atomic } else { Kind::Write };
                    let dst = self.range(w, i, to[i], ask(Space::Global, kind, n, 16))?;
                    let change = reduce.map_or(Change::Replace, |(op, ty)| Change::Reduce(op, ty));
                    let end = End::Group { warp: w.id, lane: i as u8, group: OPEN };
                    self.fly(Flight { pieces: vec![Piece { dst, src, bytes: n }], change, fill: 0, end, lane: i })?;
                }
            }
            Async::TileIn { dst, map, at, mbar, blocks } => {
                let (to, maps) = (addresses(w, *dst), addresses(w, *map));
                let bars = self.mbar_addresses(w, mask, *mbar)?;
                for i in lanes(mask).filter(|i| here(w, *blocks, *i)) {
                    let (map, pieces) = self.tile(w, i, maps[i], at, to[i] & !SHARED, None)?;
                    let end = End::Mbar { address: bars[i], bytes: map.tile_bytes() };
                    let fill = if map.fill_nan { 0xff } else { 0 };
                    self.fly(Flight { pieces, change: Change::Replace, fill, end, lane: i })?;
                }
            }
            Async::TileOut { map, at, src, reduce } => {
                let (from, maps) = (addresses(w, *src), addresses(w, *map));
                for i in lanes(mask) {
                    let kind = if reduce.is_some() { Kind::Atomic } else { Kind::Write };
                    let (map, pieces) = self.tile(w, i, maps[i], at, from[i] & !SHARED, Some(kind))?;
                    let change = reduce.map_or(Change::Replace, |op| Change::Reduce(op, map_type(map.element)));
                    let end = End::Group { warp: w.id, lane: i as u8, group: OPEN };
                    self.fly(Flight { pieces, change, fill: 0, end, lane: i })?;
                }
            }
            Async::Deliver { dst, mbar, ty, reduce, from } => {
                let (to, size) = (addresses(w, *dst).map(|a| a & !SHARED), usize::from(ty.bytes()));
                let bytes = (size * from.len()) as u32;
                let bars = self.mbar_addresses(w, mask, *mbar)?;
                // Not the copy engine's work: no proxy fence is due, but the mbarrier tells when it is done.
                let q = Request {
                    space: Space::Shared,
                    kind: if reduce.is_some() { Kind::Atomic } else { Kind::Write },
                    agent: Agent::CpAsync,
                    order: Order::Weak,
                    bytes,
                    align: bytes,
                };
                let p = self.pointers(w, mask, &to, q)?;
                for i in lanes(mask) {
                    for (k, s) in from.iter().enumerate() {
                        let get =
                            |s: u32| if size == 8 { w.regs.x[s as usize][i] } else { w.regs.r[s as usize][i].into() };
                        // SAFETY: `pointers` checked all of them.
                        unsafe {
                            if let Some(op) = *reduce {
                                crate::exec::atomic::update(p[i], op, *ty, get(*s), 0);
                            } else if size == 8 {
                                p[i].cast::<u64>().add(k).write_unaligned(w.regs.x[*s as usize][i]);
                            } else {
                                p[i].cast::<u32>().add(k).write_unaligned(w.regs.r[*s as usize][i]);
                            }
                        }
                    }
                    let phase = self.mbar(i, bars[i])?.phase;
                    self.sync(1 << i, Sync::CopyArrive { address: bars[i], phase });
                    self.complete(i, bars[i], bytes)?;
                }
            }
            Async::BulkCommit => {
                self.sync(mask, Sync::BulkCommit);
                for f in &mut self.flights {
                    if let End::Group { warp, lane, group } = &mut f.end
                        && (*warp, *group) == (w.id, OPEN)
                        && mask >> *lane & 1 != 0
                    {
                        *group = w.bulk_committed[usize::from(*lane)];
                    }
                }
                for i in lanes(mask) {
                    w.bulk_committed[i] += 1;
                }
            }
            Async::BulkWait { keep, read } => {
                self.sync(mask, Sync::BulkWait { keep: *keep, read: *read });
                self.land(|f| match f.end {
                    End::Group { warp, lane, group } => {
                        let last = w.bulk_committed[usize::from(lane)].saturating_sub(*keep);
                        warp == w.id && mask >> lane & 1 != 0 && group < last
                    }
                    End::Mbar { .. } => false,
                })?;
            }
            Async::WgmmaFence | Async::WgmmaCommit | Async::WgmmaWait { .. } | Async::Wgmma(_) => {
                self.warpgroup(w, mask, op)?;
            }
            Async::ClusterArrive => {
                crate::exec::access::aligned(w, mask)?;
                w.cluster = self.arrive(16, None, None)?;
                self.sync(mask, Sync::BarArrive { id: 16, generation: w.cluster, wait: false, counted: false });
            }
            Async::ClusterWait => {
                crate::exec::access::aligned(w, mask)?;
                return Ok(Next::Wait(Wait::Barrier { id: 16, generation: w.cluster }));
            }
            _ => return self.mbarrier(w, g, mask, op),
        }
        Ok(Next::Step)
    }

    fn bulk_bytes(&self, w: &Warp, lane: usize, bytes: u32) -> Exec<u32> {
        let n = w.regs.r[bytes as usize][lane];
        if n == 0 || !n.is_multiple_of(16) {
            return fail_at(lane, Fault::Copy(format!("{n} bytes: a bulk copy moves a positive multiple of 16")));
        }
        Ok(n)
    }

    /// The pieces of a tile copy, rows of 16-byte pieces where a swizzle permutes them. `out` is what an outward
    /// copy does to device memory.
    fn tile(
        &mut self,
        w: &Warp,
        lane: usize,
        map: u64,
        at: &[u32],
        shared: u64,
        out: Option<Kind>,
    ) -> Exec<(TensorMap, Vec<Piece>)> {
        let wrong = |what: String| fail_at(lane, Fault::Tensor(what));
        let p = self.pointers(
            w,
            1 << lane,
            &[map; 32],
            Request {
                space: Space::Generic,
                kind: Kind::Read,
                agent: Agent::Warp,
                order: Order::Weak,
                bytes: 128,
                align: 64,
            },
        )?;
        // SAFETY: 128 bytes were checked.
        let Some(map) = TensorMap::decode(unsafe { std::slice::from_raw_parts(p[lane], 128) }) else {
            return wrong(format!("no tensor map at {map:#x}"));
        };
        let rank = map.dims.len();
        if rank != at.len() {
            return wrong(format!("{} coordinates, but the map has {rank} dimensions", at.len()));
        }
        if !shared.is_multiple_of(128) {
            return fail_at(lane, Fault::Misaligned { space: "shared", address: shared, needs: 128 });
        }
        let start: Vec<i64> = at.iter().map(|s| i64::from(w.regs.r[*s as usize][lane] as i32)).collect();
        let (element, row) = (u64::from(map.element.bytes()), map.inner_bytes());
        let rows = map.tile.iter().skip(1).product::<u32>();
        let kind = if out.is_some() { Kind::Read } else { Kind::Write };
        let whole = self.range(w, lane, shared, ask(Space::Shared, kind, rows * row, 128))?;
        let mut pieces = Vec::new();
        // The part of a row inside the tensor, in elements.
        let inside = |first: i64, n: u32, dim: u64| -> (i64, i64) {
            ((-first).clamp(0, i64::from(n)), (dim as i64 - first).clamp(0, i64::from(n)))
        };
        let (lo, hi) = inside(start[0], map.tile[0], map.dims[0]);
        let outer = || start[1..].iter().zip(&map.tile[1..]).zip(&map.dims[1..]).zip(&map.strides);
        for r in 0..rows {
            let (mut rest, mut offset, mut valid) = (r, 0u64, lo < hi);
            for (((first, tile), dim), stride) in outer() {
                let c = first + i64::from(rest % tile);
                rest /= tile;
                valid &= (0..*dim as i64).contains(&c);
                offset = offset.wrapping_add((c as u64).wrapping_mul(*stride));
            }
            // Bytes [from, to) of the row are in the tensor; the rest is filled, or not written.
            let (from, to) = if valid { (lo as u32 * element as u32, hi as u32 * element as u32) } else { (0, 0) };
            let global = if from < to {
                let first = (start[0] + lo) as u64 * element;
                let address = map.address.0.wrapping_add(offset).wrapping_add(first);
                self.range(w, lane, address, ask(Space::Global, out.unwrap_or(Kind::Read), to - from, element as u32))?
            } else {
                std::ptr::null_mut()
            };
            for chunk in (0..row).step_by(16) {
                let at = shared as u32 + r * row + chunk;
                let place = map.swizzle.place(at, 0);
                // A swizzled row stays within itself, so the place is inside the checked range.
                let cell = whole.wrapping_offset(place as isize - shared as isize);
                let (a, b) = (from.clamp(chunk, chunk + 16), to.clamp(chunk, chunk + 16));
                let inner = cell.wrapping_add((a - chunk) as usize);
                let outer = if a < b { global.wrapping_add((a - from) as usize) } else { global };
                match out {
                    Some(_) if a < b => pieces.push(Piece { dst: outer, src: inner, bytes: b - a }),
                    Some(_) => {}
                    None => {
                        let fill = |at: u32, n: u32| Piece {
                            dst: cell.wrapping_add(at as usize),
                            src: std::ptr::null(),
                            bytes: n,
                        };
                        if a < b {
                            pieces.push(fill(0, a - chunk));
                            pieces.push(Piece { dst: inner, src: outer, bytes: b - a });
                            pieces.push(fill(b - chunk, chunk + 16 - b));
                        } else {
                            pieces.push(fill(0, 16));
                        }
                    }
                }
            }
        }
        Ok((map, pieces))
    }

    /// Starts a copy: it lands at once, or is poisoned and kept.
    fn fly(&mut self, f: Flight) -> Exec<()> {
        let lane = f.lane;
        match f.end {
            End::Mbar { address, .. } => {
                let phase = self.mbar(lane, address)?.phase;
                self.sync(1 << lane, Sync::BulkToMbar { address, phase });
            }
            End::Group { .. } => self.sync(1 << lane, Sync::BulkToGroup),
        }
        if self.grid.late {
            // What a reduction adds to has to stay.
            if matches!((f.end, f.change), (End::Mbar { .. }, Change::Replace)) {
                for p in &f.pieces {
                    // SAFETY: checked at issue.
                    unsafe { p.dst.write_bytes(0xff, p.bytes as usize) };
                }
            }
            self.flights.push(f);
            return Ok(());
        }
        self.finish(&f)
    }

    fn finish(&mut self, f: &Flight) -> Exec<()> {
        f.land();
        if let End::Mbar { address, bytes } = f.end {
            self.complete(f.lane, address, bytes)?;
        }
        Ok(())
    }

    /// Lands the copies that `pick` names, in order of issue.
    fn land(&mut self, pick: impl Fn(&Flight) -> bool) -> Exec<()> {
        if self.flights.is_empty() {
            return Ok(());
        }
        let (now, later) = std::mem::take(&mut self.flights).into_iter().partition(|f| pick(f));
        self.flights = later;
        let now: Vec<Flight> = now;
        now.iter().try_for_each(|f| self.finish(f))
    }

    /// Lands everything.
    pub(crate) fn land_all(&mut self) -> Exec<()> {
        self.land(|_| true)
    }

    /// What an mbarrier still waits for, in words.
    pub(crate) fn describe(&self, address: u32) -> String {
        match self.mbars.iter().find(|m| m.address == address) {
            Some(m) if m.bytes < 0 => format!(
                " (mbarrier at {address:#x}, phase {}: {} arrivals missing, and {} bytes more have come than were expected)",
                m.phase, m.pending, -m.bytes
            ),
            Some(m) => format!(
                " (mbarrier at {address:#x}, phase {}: {} arrivals and {} bytes missing)",
                m.phase, m.pending, m.bytes
            ),
            None => String::new(),
        }
    }
}
