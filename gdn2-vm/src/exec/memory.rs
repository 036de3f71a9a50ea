//! Loads, stores, matrix loads and Ampere's asynchronous copies: every address checked before any byte moves.

use crate::exec::access::{Pointers, Request, addresses, name};
use crate::exec::block::Block;
use crate::exec::lanes::{Wide, Word, lanes};
use crate::exec::level;
use crate::exec::observe::{Access, Agent, Data, Kind, Observer, Sync};
use crate::exec::warp::{Copy, Warp};
use crate::isa::entry::LOCAL_BASE;
use crate::isa::inst::{Addr, Elem, Mem, Order, Slot, Space};
use crate::memory::WINDOW_BITS;
use crate::memory::space;
use crate::report::trap::{Exec, Fault, fail, fail_at};

impl<O: Observer> Block<'_, O> {
    /// Start, length and first address of what an address lies in.
    fn region(&self, w: &Warp, space: Space, address: u64) -> Option<(*mut u8, u64, u64)> {
        match space {
            Space::Global | Space::Const => {
                let (start, len) = self.grid.global.locate(address)?;
                Some((start, len, address >> WINDOW_BITS << WINDOW_BITS))
            }
            // Shared offsets are addresses; its first KiB is not the kernel's.
            Space::Shared => {
                let skip = self.grid.entry.shared_base as usize;
                let s = self.shared.as_slice();
                Some((s.as_ptr().wrapping_add(skip).cast_mut(), (s.len() - skip) as u64, skip as u64))
            }
            Space::Local => Some((w.local.as_ptr().cast_mut(), w.local.len() as u64 / 32, LOCAL_BASE)),
            Space::Param => {
                let s = self.grid.params.as_slice();
                Some((s.as_ptr().cast_mut(), s.len() as u64, 0))
            }
            Space::Generic => None,
        }
    }

    /// Checks a warp's addresses and turns them into pointers; `mask` is not empty.
    pub(crate) fn pointers(&mut self, w: &Warp, mask: u32, at: &Wide, q: Request) -> Exec<Pointers> {
        Ok(self.resolve(w, mask, at, q)?.0)
    }

    /// The same, and whether the lanes' ranges follow one another in memory, all 32 of them.
    fn resolve(&mut self, w: &Warp, mask: u32, at: &Wide, q: Request) -> Exec<(Pointers, bool)> {
        let lead = mask.trailing_zeros() as usize;
        let space = if q.space == Space::Generic { space::split(at[lead]).0 } else { q.space };
        let tag = if q.space == Space::Generic { space::tag(space) } else { 0 };
        if space != Space::Local
            && let Some((start, len, base)) = self.region(w, space, at[lead] ^ tag)
        {
            // All lanes in one buffer: the common case.
            let mut own = [0; 32];
            let span = level::span(self.grid.level, at, mask, tag, base, q.bytes, &mut own);
            let bytes = u64::from(q.bytes);
            if len >= bytes && span.high <= len - bytes && span.low & u64::from(q.align - 1) == 0 {
                if O::ON && !matches!(space, Space::Param | Space::Const) {
                    let access = Access {
                        agent: q.agent,
                        kind: q.kind,
                        order: q.order,
                        space,
                        address: &own,
                        bytes: q.bytes,
                        mask,
                        // SAFETY: the addresses were checked to lie in the region that starts at `base`.
                        data: Some(unsafe { Data::new(&w.regs, start.wrapping_sub(base as usize)) }),
                    };
                    self.observer.access(self.at, &access);
                }
                let mut out = [start; 32];
                for (p, a) in out.iter_mut().zip(own) {
                    *p = start.wrapping_add((a - base) as usize);
                }
                return Ok((out, span.dense && mask == u32::MAX));
            }
        }
        Ok((self.scattered(w, mask, at, q)?, false))
    }

    /// The general case: lanes in several buffers or spaces, local memory, or a fault.
    fn scattered(&mut self, w: &Warp, mask: u32, at: &Wide, q: Request) -> Exec<Pointers> {
        let mut out = [std::ptr::null_mut(); 32];
        let mut rest = mask;
        while rest != 0 {
            let lead = rest.trailing_zeros() as usize;
            // Lanes of one space and one buffer go together.
            let (space, tag) = if q.space == Space::Generic {
                let s = space::split(at[lead]).0;
                (s, space::tag(s))
            } else {
                (q.space, 0)
            };
            let key = at[lead] >> WINDOW_BITS;
            let mut part = rest;
            if !at.iter().all(|a| a >> WINDOW_BITS == key) {
                part = lanes(rest).filter(|&i| at[i] >> WINDOW_BITS == key).fold(0, |m, i| m | 1 << i);
            }
            let mut own = *at;
            if part != u32::MAX || tag != 0 {
                for (i, a) in own.iter_mut().enumerate() {
                    *a = if part >> i & 1 != 0 { at[i] } else { at[lead] } ^ tag;
                }
            }
            let region = self.region(w, space, own[lead]);
            let (start, len, base) = region.unwrap_or((std::ptr::null_mut(), 0, own[lead]));
            let (mut low, mut high) = (0, 0);
            for a in own {
                low |= a;
                high = high.max(a.wrapping_sub(base));
            }
            let bytes = u64::from(q.bytes);
            if high > len.wrapping_sub(bytes) || len < bytes || low & u64::from(q.align - 1) != 0 {
                return self.explain(w, part, &own, space, q, base, len);
            }
            // Parameters are constant, so only what a kernel can spoil or wait for is watched.
            if O::ON && !matches!(space, Space::Param | Space::Const) {
                let access = Access {
                    agent: q.agent,
                    kind: q.kind,
                    order: q.order,
                    space,
                    address: &own,
                    bytes: q.bytes,
                    mask: part,
                    // SAFETY: as above; what is a thread's own has several regions, and is not looked at.
                    data: (space != Space::Local)
                        .then(|| unsafe { Data::new(&w.regs, start.wrapping_sub(base as usize)) }),
                };
                self.observer.access(self.at, &access);
            }
            let stride = if space == Space::Local { len as usize } else { 0 };
            if part == u32::MAX {
                for i in 0..32 {
                    out[i] = start.wrapping_add((own[i] - base) as usize + i * stride);
                }
            } else {
                let safe = start.wrapping_add((own[lead] - base) as usize + lead * stride);
                for i in 0..32 {
                    if part >> i & 1 != 0 {
                        out[i] = start.wrapping_add((own[i] - base) as usize + i * stride);
                    } else if out[i].is_null() {
                        out[i] = safe;
                    }
                }
            }
            rest &= !part;
        }
        Ok(out)
    }

    /// Which lane is wrong, and how.
    #[allow(clippy::too_many_arguments, reason = "the state of one failed check")]
    fn explain(&self, w: &Warp, part: u32, at: &Wide, space: Space, q: Request, base: u64, len: u64) -> Exec<Pointers> {
        for i in lanes(part) {
            let (address, offset) = (at[i], at[i].wrapping_sub(base));
            if len < u64::from(q.bytes) || offset > len - u64::from(q.bytes) {
                let detail = match space {
                    Space::Global | Space::Const => self.grid.global.explain(address, q.bytes),
                    Space::Local => format!("the thread has {} bytes of local memory", w.local.len() / 32),
                    Space::Shared if address < base => {
                        format!("a null or wild pointer: shared memory starts at {base}")
                    }
                    Space::Shared => format!("the block's {len} bytes of shared memory end at {:#x}", base + len),
                    _ => format!("the parameters have {len} bytes"),
                };
                return fail_at(i, Fault::OutOfBounds { space: name(space), address, bytes: q.bytes, detail });
            }
            if address & u64::from(q.align - 1) != 0 {
                return fail_at(i, Fault::Misaligned { space: name(space), address, needs: q.align });
            }
        }
        fail(Fault::Copy("an access failed no lane's check".to_owned()))
    }

    pub(crate) fn memory(&mut self, w: &mut Warp, mask: u32, op: &Mem) -> Exec<()> {
        match op {
            Mem::Ld { space, order, elem, addr, to } => {
                let at = addresses(w, *addr);
                let bytes = u32::from(elem.bytes) * to.len() as u32;
                let q =
                    Request { space: *space, kind: Kind::Read, agent: Agent::Warp, order: *order, bytes, align: bytes };
                let (p, dense) = self.resolve(w, mask, &at, q)?;
                if let ([Some(d)], 4, false, true) = (&to[..], elem.bytes, elem.wide, dense) {
                    // SAFETY: 32 checked words in a row.
                    w.regs.r[*d as usize] = unsafe { p[0].cast::<Word>().read_unaligned() };
                    return Ok(());
                }
                for (k, d) in to.iter().enumerate() {
                    if let Some(d) = d {
                        load(w, mask, &p, k * usize::from(elem.bytes), *elem, *d);
                    }
                }
            }
            Mem::St { space, order, elem, addr, from } => {
                let at = addresses(w, *addr);
                let bytes = u32::from(elem.bytes) * from.len() as u32;
                let q = Request {
                    space: *space,
                    kind: Kind::Write,
                    agent: Agent::Warp,
                    order: *order,
                    bytes,
                    align: bytes,
                };
                let (p, dense) = self.resolve(w, mask, &at, q)?;
                if let ([s], 4, false, true) = (&from[..], elem.bytes, elem.wide, dense) {
                    // SAFETY: as for loads.
                    unsafe { p[0].cast::<Word>().write_unaligned(w.regs.r[*s as usize]) };
                    return Ok(());
                }
                for (k, s) in from.iter().enumerate() {
                    store(w, mask, &p, k * usize::from(elem.bytes), *elem, *s);
                }
            }
            Mem::Atom { space, order, op, ty, addr, d, b, c } => {
                let at = addresses(w, *addr);
                let bytes = u32::from(ty.bytes());
                let q = Request {
                    space: *space,
                    kind: Kind::Atomic,
                    agent: Agent::Warp,
                    order: *order,
                    bytes,
                    align: bytes,
                };
                let p = self.pointers(w, mask, &at, q)?;
                crate::exec::atomic::run(&mut w.regs, mask, &p, *op, *ty, [*b, *c], *d);
            }
            Mem::Atom128 { space, order, addr, d, wanted, new } => {
                let at = addresses(w, *addr);
                let q = Request {
                    space: *space,
                    kind: Kind::Atomic,
                    agent: Agent::Warp,
                    order: *order,
                    bytes: 16,
                    align: 16,
                };
                let p = self.pointers(w, mask, &at, q)?;
                crate::exec::atomic::run128(&mut w.regs, mask, &p, *wanted, *new, *d);
            }
            Mem::AtomVector { space, order, op, ty, addr, d, b } => {
                let at = addresses(w, *addr);
                let bytes = u32::from(ty.bytes()) * b.len() as u32;
                let q = Request {
                    space: *space,
                    kind: Kind::Atomic,
                    agent: Agent::Warp,
                    order: *order,
                    bytes,
                    align: bytes,
                };
                let p = self.pointers(w, mask, &at, q)?;
                for (i, b) in b.iter().enumerate() {
                    let own = p.map(|p| p.wrapping_add(i * usize::from(ty.bytes())));
                    crate::exec::atomic::run(&mut w.regs, mask, &own, *op, *ty, [*b, *b], d.get(i).copied());
                }
            }
            Mem::LdMatrix { trans, space, addr, to } => self.ldmatrix(w, mask, *trans, (*space, *addr), to)?,
            Mem::StMatrix { trans, space, addr, from } => self.stmatrix(w, mask, *trans, (*space, *addr), from)?,
            Mem::Fragment(f) => self.fragment(w, mask, f)?,
            Mem::Print { format, args, result } => self.print(w, mask, *format, *args, *result)?,
            Mem::Fence => self.sync(mask, Sync::Fence),
            Mem::FenceProxyAsync => self.sync(mask, Sync::FenceProxyAsync),
            Mem::CpAsync { bytes, dst, src, size, ignore } => {
                self.cp_async(w, mask, *bytes, [*dst, *src], *size, *ignore)?;
            }
            Mem::CpAsyncCommit => {
                self.sync(mask, Sync::CopyCommit);
                if self.grid.late {
                    w.commit(mask);
                }
            }
            Mem::CpAsyncWait(keep) => {
                self.sync(mask, Sync::CopyWait { keep: *keep });
                w.land(|w, c| mask >> c.lane & 1 != 0 && c.group < w[usize::from(c.lane)].saturating_sub(*keep));
            }
            Mem::CpAsyncWaitAll => {
                self.sync(mask, Sync::CopyWaitAll);
                w.land_lanes(mask);
            }
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self, mask: u32, s: Sync) {
        if O::ON {
            self.observer.sync(self.at, mask, s);
        }
    }

    fn cp_async(
        &mut self,
        w: &mut Warp,
        mask: u32,
        bytes: u8,
        [dst, src]: [Addr; 2],
        size: Option<Slot>,
        ignore: Option<(Slot, u32)>,
    ) -> Exec<()> {
        let n = u32::from(bytes);
        let mut valid = [bytes; 32];
        if let Some(s) = size {
            for i in lanes(mask) {
                let v = w.regs.r[s as usize][i];
                if v > n {
                    return fail_at(i, Fault::Copy(format!("source size {v} exceeds the {n} bytes copied")));
                }
                valid[i] = v as u8;
            }
        }
        if let Some((p, flip)) = ignore {
            let p = w.regs.p[p as usize] ^ flip;
            for i in lanes(p & mask) {
                valid[i] = 0;
            }
        }
        // Lanes that read nothing need no valid source; partial reads are rare, so each length goes by itself.
        let (from, to) = (addresses(w, src), addresses(w, dst));
        let mut source = [std::ptr::null_mut::<u8>(); 32];
        let mut rest: u32 = lanes(mask).filter(|&i| valid[i] > 0).fold(0, |m, i| m | 1 << i);
        while rest != 0 {
            let len = valid[rest.trailing_zeros() as usize];
            let part: u32 = lanes(rest).filter(|&i| valid[i] == len).fold(0, |m, i| m | 1 << i);
            let q = Request {
                space: Space::Global,
                kind: Kind::Read,
                agent: Agent::CpAsync,
                order: Order::Weak,
                bytes: u32::from(len),
                align: n,
            };
            let p = self.pointers(w, part, &from, q)?;
            for i in lanes(part) {
                source[i] = p[i];
            }
            rest &= !part;
        }
        let q = Request {
            space: Space::Shared,
            kind: Kind::Write,
            agent: Agent::CpAsync,
            order: Order::Weak,
            bytes: n,
            align: n,
        };
        let target = self.pointers(w, mask, &to, q)?;
        for i in lanes(mask) {
            let c = Copy { lane: i as u8, bytes, valid: valid[i], dst: target[i], src: source[i], group: u32::MAX };
            if self.grid.late {
                // SAFETY: `pointers` checked `n` bytes at the target.
                unsafe { c.dst.write_bytes(0xff, n as usize) };
                w.copies.push(c);
            } else {
                c.land();
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn load(w: &mut Warp, mask: u32, p: &Pointers, offset: usize, e: Elem, d: Slot) {
    // SAFETY (all arms): `pointers` checked every lane's pointer for the whole access; inactive lanes repeat one.
    match (e.bytes, e.wide) {
        (4, false) => {
            let mut v = [0; 32];
            for i in 0..32 {
                v[i] = unsafe { p[i].add(offset).cast::<u32>().read_unaligned() };
            }
            crate::exec::lanes::put(&mut w.regs.r[d as usize], &v, mask);
        }
        (8, _) => {
            let mut v = [0; 32];
            for i in 0..32 {
                v[i] = unsafe { p[i].add(offset).cast::<u64>().read_unaligned() };
            }
            crate::exec::lanes::put(&mut w.regs.x[d as usize], &v, mask);
        }
        _ => {
            let v: Wide = std::array::from_fn(|i| unsafe {
                let p = p[i].add(offset);
                match (e.bytes, e.signed) {
                    (1, false) => u64::from(p.read()),
                    (1, true) => i64::from(p.cast::<i8>().read()) as u64,
                    (2, false) => u64::from(p.cast::<u16>().read_unaligned()),
                    (2, true) => i64::from(p.cast::<i16>().read_unaligned()) as u64,
                    (_, false) => u64::from(p.cast::<u32>().read_unaligned()),
                    (_, true) => i64::from(p.cast::<i32>().read_unaligned()) as u64,
                }
            });
            if e.wide {
                crate::exec::lanes::put(&mut w.regs.x[d as usize], &v, mask);
            } else {
                let keep = if e.half { 0xffff } else { u32::MAX };
                crate::exec::lanes::put(&mut w.regs.r[d as usize], &v.map(|v| v as u32 & keep), mask);
            }
        }
    }
}

#[inline(always)]
fn store(w: &Warp, mask: u32, p: &Pointers, offset: usize, e: Elem, s: Slot) {
    if mask == u32::MAX && e.bytes == 4 && !e.wide {
        let v = &w.regs.r[s as usize];
        for i in 0..32 {
            // SAFETY: as for loads.
            unsafe { p[i].add(offset).cast::<u32>().write_unaligned(v[i]) };
        }
        return;
    }
    for i in lanes(mask) {
        let v = if e.wide { w.regs.x[s as usize][i] } else { u64::from(w.regs.r[s as usize][i]) };
        // SAFETY: as for loads.
        unsafe {
            let p = p[i].add(offset);
            match e.bytes {
                1 => p.write(v as u8),
                2 => p.cast::<u16>().write_unaligned(v as u16),
                4 => p.cast::<u32>().write_unaligned(v as u32),
                _ => p.cast::<u64>().write_unaligned(v),
            }
        }
    }
}

impl Copy {
    /// Moves the bytes; what is not read is zero.
    pub(crate) fn land(&self) {
        // SAFETY: both ranges were checked at issue, and neither buffer moves while the block runs.
        unsafe {
            if self.valid > 0 {
                std::ptr::copy_nonoverlapping(self.src, self.dst, usize::from(self.valid));
            }
            self.dst.add(usize::from(self.valid)).write_bytes(0, usize::from(self.bytes - self.valid));
        }
    }
}

impl Warp {
    /// Closes the open group of each lane in `mask`.
    fn commit(&mut self, mask: u32) {
        for c in &mut self.copies {
            if c.group == u32::MAX && mask >> c.lane & 1 != 0 {
                c.group = self.committed[usize::from(c.lane)];
            }
        }
        for i in lanes(mask) {
            self.committed[i] += 1;
        }
    }

    /// Lands every copy of these lanes.
    pub(crate) fn land_lanes(&mut self, mask: u32) {
        self.land(|_, c| mask >> c.lane & 1 != 0);
    }

    /// Lands the copies that `f` picks, in order of issue.
    fn land(&mut self, f: impl Fn(&[u32], &Copy) -> bool) {
        let committed = &self.committed;
        self.copies.retain(|c| {
            let now = f(committed, c);
            if now {
                c.land();
            }
            !now
        });
    }
}
