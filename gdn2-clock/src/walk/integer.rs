//! Integer arithmetic, logic, comparisons and selections: what addresses and branches are made of.

use super::compile::{Action, Parts};
use super::lanes::{ALL, Bits, Lanes};
use super::state::{Condition, State, Term};

/// `x` or its two's complement in 33 bits, whose carry tells that nothing was borrowed.
fn addend(x: u32, negated: bool) -> u64 {
    if negated { (1 << 32) - u64::from(x) } else { u64::from(x) }
}

/// `IADD3 d, [carry, [carry,]] a, b, c, [in, in]`.
pub(crate) fn add3(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let terms: Vec<Term> = parts.terms.clone();
    let outs: Vec<Condition> = parts.before.clone();
    let ins: Vec<Condition> = if parts.extended { parts.behind.clone() } else { Vec::new() };
    let signs: Vec<bool> = terms.iter().map(|term| term.negated).collect();
    if outs.is_empty() && ins.is_empty() {
        return Some(Box::new(move |state, mask| {
            let sum = terms.iter().map(|term| term.value(state)).reduce(|sum, term| sum.zip(&term, u32::wrapping_add));
            state.set(d, sum.unwrap_or(Lanes::UNKNOWN), mask);
        }));
    }
    Some(Box::new(move |state, mask| {
        let mut low = Lanes::splat(0);
        let mut carries = Lanes::splat(0);
        for (term, negated) in terms.iter().zip(&signs) {
            let value = term.raw(state);
            let sum = Lanes::wide(&value, &Lanes::splat(0), (&low, &carries), |x, _, sum| sum + addend(x, *negated));
            (low, carries) = sum;
        }
        for carry in &ins {
            let bits = carry.value(state);
            let one = Lanes::maybe(|lane| (bits.known >> lane & 1 == 1).then_some(bits.bits >> lane & 1));
            (low, carries) = Lanes::wide(&one, &Lanes::splat(0), (&low, &carries), |x, _, sum| sum + u64::from(x));
        }
        for (least, out) in outs.iter().enumerate() {
            let least = least as u32 + 1;
            out.set(state, carries.test(&Lanes::splat(least), |carry, least| carry >= least), mask);
        }
        state.set(d, low, mask);
    }))
}

/// `IADD.64`, `IADD3.64`, `UIADD3.64`: pairs of registers.
pub(crate) fn add64(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let terms: Vec<(Term, Term, bool)> =
        parts.terms.iter().map(|term| (term.clone(), term.further(1), term.negated)).collect();
    Some(Box::new(move |state, mask| {
        let mut sum = (Lanes::splat(0), Lanes::splat(0));
        for (low, high, negated) in &terms {
            let add = |low: u32, high: u32, sum: u64| {
                let part = u64::from(low) | u64::from(high) << 32;
                if *negated { sum.wrapping_sub(part) } else { sum.wrapping_add(part) }
            };
            sum = Lanes::wide(&low.raw(state), &high.raw(state), (&sum.0, &sum.1), add);
        }
        state.set(d, sum.0, mask);
        state.set(d.next(1), sum.1, mask);
    }))
}

/// `IMAD d, a, b, c` and its forms; a product with zero is known whatever the other factor.
pub(crate) fn multiply_add(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let [a, b, c] = <[Term; 3]>::try_from(parts.terms.clone()).ok()?;
    let unsigned = parts.has("U32");
    if parts.has("WIDE") || parts.has("HI") {
        let (high_only, out) = (parts.has("HI"), parts.before.first().copied());
        let top = c.further(1);
        let extend = move |x: u32, negated: bool| {
            let x = if negated { x.wrapping_neg() } else { x };
            if unsigned { i128::from(x) } else { i128::from(x.cast_signed()) }
        };
        return Some(Box::new(move |state, mask| {
            let (x, y) = (a.raw(state), b.raw(state));
            let (low, high) = (c.raw(state), top.raw(state));
            let full = |x: u32, y: u32, sum: u64| extend(x, a.negated) * extend(y, b.negated) + i128::from(sum);
            let product = Lanes::wide(&x, &y, (&low, &high), |x, y, sum| full(x, y, sum) as u64);
            if let Some(out) = out {
                let carry = Lanes::wide(&x, &y, (&low, &high), |x, y, sum| u64::from(full(x, y, sum) >> 64 & 1 == 1));
                out.set(state, carry.0.test(&Lanes::splat(1), |carry, one| carry == one), mask);
            }
            if high_only {
                state.set(d, product.1, mask);
            } else {
                state.set(d, product.0, mask);
                state.set(d.next(1), product.1, mask);
            }
        }));
    }
    let carry = parts.behind.first().copied().filter(|_| parts.extended);
    Some(Box::new(move |state, mask| {
        let (x, y, z) = (a.value(state), b.value(state), c.value(state));
        let nothing = [&x, &y].iter().any(|factor| factor.uniform() == Some(0));
        let product = if nothing { Lanes::splat(0) } else { x.zip(&y, u32::wrapping_mul) };
        let mut sum = product.zip(&z, u32::wrapping_add);
        if let Some(carry) = carry {
            let bits = carry.value(state);
            let one = Lanes::maybe(|lane| (bits.known >> lane & 1 == 1).then_some(bits.bits >> lane & 1));
            sum = sum.zip(&one, u32::wrapping_add);
        }
        state.set(d, sum, mask);
    }))
}

/// `LEA d, [carry,] a, b, [c,] shift, [in]`.
pub(crate) fn shift_add(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let (last, terms) = parts.terms.split_last()?;
    let (last, terms) = (last.clone(), terms.to_vec());
    let (high, signed) = (parts.has("HI"), parts.has("SX32"));
    let out = parts.before.first().copied();
    let carry = parts.behind.first().copied().filter(|_| parts.extended);
    let a = terms.first()?.clone();
    let b = terms.get(1)?.clone();
    let top = terms.get(2).cloned();
    Some(Box::new(move |state, mask| {
        let shift = last.value(state).uniform().unwrap_or(0) & 31;
        let (x, y) = (a.value(state), b.raw(state));
        let z = top.as_ref().map_or(Lanes::splat(0), |top| top.value(state));
        let shifted = x.zip(&z, |x, z| match (high, signed) {
            (true, true) => (i64::from(x.cast_signed()) << shift >> 32) as u32,
            (true, false) => ((u64::from(x) | u64::from(z) << 32) << shift >> 32) as u32,
            (false, _) => x << shift,
        });
        let negated = b.negated;
        let bits = carry.map_or(Bits::splat(false), |carry| carry.value(state));
        let one = Lanes::maybe(|lane| (bits.known >> lane & 1 == 1).then_some(bits.bits >> lane & 1));
        let sum =
            Lanes::wide(&shifted, &y, (&one, &Lanes::splat(0)), |x, y, one| u64::from(x) + addend(y, negated) + one);
        if let Some(out) = out {
            out.set(state, sum.1.test(&Lanes::splat(0), |carry, zero| carry > zero), mask);
        }
        state.set(d, sum.0, mask);
    }))
}

fn table(lut: u32, x: u32, y: u32, z: u32) -> u32 {
    (0..8).filter(|row| lut >> row & 1 == 1).fold(0, |all, row| {
        let pick = |bit: u32, value: u32| if row & bit != 0 { value } else { !value };
        all | pick(4, x) & pick(2, y) & pick(1, z)
    })
}

/// `LOP3.LUT [p,] d, a, b, c, table, q`. A source that is not known does not matter where both its extremes give the same.
pub(crate) fn logic(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let [a, b, c, lut] = <[Term; 4]>::try_from(parts.terms.clone()).ok()?;
    let out = parts.leading.first().copied();
    Some(Box::new(move |state, mask| {
        let Some(lut) = lut.value(state).uniform() else { return state.set(d, Lanes::UNKNOWN, mask) };
        let sources = [&a, &b, &c].map(|term| term.value(state));
        let all_known = sources.iter().all(|source| source.knows(ALL));
        let result = if all_known {
            let [x, y, z] = &sources;
            match lut {
                0xc0 => x.zip(y, |x, y| x & y),
                0xfc => x.zip(y, |x, y| x | y),
                0x3c => x.zip(y, |x, y| x ^ y),
                _ => x.zip3(y, z, |x, y, z| table(lut, x, y, z)),
            }
        } else {
            Lanes::maybe(|lane| {
                let ends = sources.map(|source| source.lane(lane).map_or([0, u32::MAX], |value| [value, value]));
                let [x, y, z] = &ends;
                let first = table(lut, x[0], y[0], z[0]);
                let same = |at: usize| table(lut, x[at & 1], y[at >> 1 & 1], z[at >> 2]) == first;
                (1..8).all(same).then_some(first)
            })
        };
        state.set(d, result, mask);
        if let Some(out) = out {
            out.set(state, result.test(&Lanes::splat(0), |value, zero| value != zero), mask);
        }
    }))
}

/// `SHF d, low, count, high`.
pub(crate) fn shift(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let [low, count, high] = <[Term; 3]>::try_from(parts.terms.clone()).ok()?;
    let (left, upper, wraps) = (parts.has("L"), parts.has("HI"), parts.has("W"));
    let long = parts.has("U64") || parts.has("S64");
    let signed = parts.has("S32") || parts.has("S64");
    let one = move |low: u32, count: u32, high: u32| -> u32 {
        let bits = if long { 64 } else { 32 };
        let count = if wraps { count & (bits - 1) } else { count.min(bits) };
        let pair = u64::from(low) | u64::from(high) << 32;
        match (left, upper) {
            (true, false) => u64::from(low).checked_shl(count).unwrap_or(0) as u32,
            (true, true) => ((u128::from(pair) << count) >> 32) as u32,
            (false, true) if long && signed => ((pair.cast_signed() >> count.min(63)) >> 32) as u32,
            (false, true) if long => (pair.checked_shr(count).unwrap_or(0) >> 32) as u32,
            (false, true) if signed => (high.cast_signed() >> count.min(31)).cast_unsigned(),
            (false, true) => high.checked_shr(count).unwrap_or(0),
            (false, false) if signed => (pair.cast_signed() >> count.min(63)) as u32,
            (false, false) => pair.checked_shr(count).unwrap_or(0) as u32,
        }
    };
    // The half that does not take part need not be known.
    let (needs_low, needs_high) = (left || !upper || long, !left || upper);
    Some(Box::new(move |state, mask| {
        let of = |needed: bool, term: &Term| if needed { term.value(state) } else { Lanes::splat(0) };
        let result = of(needs_low, &low).zip3(&count.value(state), &of(needs_high, &high), one);
        state.set(d, result, mask);
    }))
}

fn compare(how: &str, order: std::cmp::Ordering) -> bool {
    match how {
        "LT" => order.is_lt(),
        "LE" => order.is_le(),
        "GT" => order.is_gt(),
        "GE" => order.is_ge(),
        "EQ" => order.is_eq(),
        _ => order.is_ne(),
    }
}

fn combine(how: &str, a: Bits, b: Bits) -> Bits {
    match how {
        "OR" => a.or(b),
        "XOR" => a.xor(b),
        _ => a.and(b),
    }
}

/// `ISETP.GE.U32.AND.EX p, q, a, b, in, [lower half]`.
pub(crate) fn set_predicate(parts: &Parts) -> Option<Action> {
    let how = parts.modifiers.first()?.clone();
    let with = parts.modifiers.iter().find(|one| ["AND", "OR", "XOR"].contains(&one.as_str()))?.clone();
    let (unsigned, extended) = (parts.has("U32") || parts.has("U64"), parts.has("EX"));
    let long = parts.has("S64") || parts.has("U64");
    let [a, b] = <[Term; 2]>::try_from(parts.terms.clone()).ok()?;
    let (out, inverse) = (*parts.leading.first()?, *parts.leading.get(1)?);
    let (input, lower) = (*parts.behind.first()?, parts.behind.get(1).copied());
    Some(Box::new(move |state, mask| {
        let (x, y) = (a.value(state), b.value(state));
        let ordered = |x: u32, y: u32| if unsigned { x.cmp(&y) } else { x.cast_signed().cmp(&y.cast_signed()) };
        let mut result = if long {
            let (p, q) = (a.further(1).raw(state), b.further(1).raw(state));
            let upper = |test: fn(std::cmp::Ordering) -> bool| p.test(&q, |p, q| test(ordered(p, q)));
            let (equal, below) = (upper(std::cmp::Ordering::is_eq), upper(std::cmp::Ordering::is_lt));
            let low = |test: fn(std::cmp::Ordering) -> bool| x.test(&y, |x, y| test(x.cmp(&y)));
            let less = below.or(equal.and(low(std::cmp::Ordering::is_lt)));
            let same = equal.and(low(std::cmp::Ordering::is_eq));
            match how.as_str() {
                "LT" => less,
                "LE" => less.or(same),
                "GT" => less.or(same).not(),
                "GE" => less.not(),
                "EQ" => same,
                _ => same.not(),
            }
        } else {
            x.test(&y, |x, y| compare(&how, ordered(x, y)))
        };
        if let (true, Some(lower)) = (extended, lower) {
            let lower = lower.value(state);
            let equal = x.test(&y, |x, y| x == y);
            result = match how.as_str() {
                "EQ" => result.and(lower),
                "NE" => result.or(lower),
                strict => {
                    let strictly = if strict.starts_with('G') { "GT" } else { "LT" };
                    x.test(&y, |x, y| compare(strictly, ordered(x, y))).or(equal.and(lower))
                }
            };
        }
        let input = input.value(state);
        out.set(state, combine(&with, result, input), mask);
        inverse.set(state, combine(&with, result.not(), input), mask);
    }))
}

/// `PLOP3.LUT p, q, a, b, c, table, table`.
pub(crate) fn predicate_logic(parts: &Parts) -> Option<Action> {
    let outs = [*parts.leading.first()?, *parts.leading.get(1)?];
    let ins = [*parts.leading.get(2)?, *parts.leading.get(3)?, *parts.leading.get(4)?];
    let [one, two] = <[Term; 2]>::try_from(parts.terms.clone()).ok()?;
    let of = |lut: u32, [a, b, c]: [Bits; 3]| {
        (0..8).filter(|row| lut >> row & 1 == 1).fold(Bits::splat(false), |all, row| {
            let pick = |bit: u32, value: Bits| if row & bit != 0 { value } else { value.not() };
            all.or(pick(4, a).and(pick(2, b)).and(pick(1, c)))
        })
    };
    Some(Box::new(move |state, mask| {
        let values = ins.map(|input| input.value(state));
        for (out, lut) in outs.iter().zip([&one, &two]) {
            let value = lut.value(state).uniform().map_or(Bits::UNKNOWN, |lut| of(lut, values));
            out.set(state, value, mask);
        }
    }))
}

/// `SEL d, a, b, p`.
pub(crate) fn select(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let [a, b] = <[Term; 2]>::try_from(parts.terms.clone()).ok()?;
    let chosen = *parts.behind.first()?;
    Some(Box::new(move |state, mask| {
        let value = chosen.value(state).select(&a.value(state), &b.value(state));
        state.set(d, value, mask);
    }))
}

/// `VIMNMX d, a, b, p`: the lesser where `p` holds. `VIADDMNMX d, a, b, c, p` adds first.
pub(crate) fn least_or_most(parts: &Parts, adds: bool) -> Option<Action> {
    let d = parts.destination?;
    let unsigned = parts.has("U32");
    let terms = parts.terms.clone();
    let least = *parts.behind.first()?;
    if terms.len() != if adds { 3 } else { 2 } {
        return None;
    }
    Some(Box::new(move |state, mask| {
        let values: Vec<Lanes> = terms.iter().map(|term| term.value(state)).collect();
        let (x, y) = match values.as_slice() {
            [a, b, c] => (a.zip(b, u32::wrapping_add), *c),
            [a, b] => (*a, *b),
            _ => (Lanes::UNKNOWN, Lanes::UNKNOWN),
        };
        let below = |x: u32, y: u32| if unsigned { x < y } else { x.cast_signed() < y.cast_signed() };
        let low = x.zip(&y, |x, y| if below(x, y) { x } else { y });
        let high = x.zip(&y, |x, y| if below(x, y) { y } else { x });
        let value = least.value(state).select(&low, &high);
        state.set(d, value, mask);
    }))
}

fn permuted(x: u32, selector: u32, z: u32) -> u32 {
    let pair = u64::from(x) | u64::from(z) << 32;
    (0..4).fold(0, |all, place| {
        let pick = selector >> (4 * place) & 15;
        let byte = (pair >> (8 * (pick & 7)) & 255) as u32;
        let byte = if pick & 8 != 0 { (byte >> 7) * 255 } else { byte };
        all | byte << (8 * place)
    })
}

/// `PRMT d, a, selector, b`.
pub(crate) fn permute(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let [a, selector, b] = <[Term; 3]>::try_from(parts.terms.clone()).ok()?;
    Some(Box::new(move |state, mask| {
        let (x, s, z) = (a.value(state), selector.value(state), b.value(state));
        let uses =
            |from: u32| s.uniform().is_none_or(|s| (0..4).any(|place| (s >> (4 * place) & 4 == 4) == (from == 1)));
        let x = if uses(0) { x } else { Lanes::splat(0) };
        let z = if uses(1) { z } else { Lanes::splat(0) };
        state.set(d, x.zip3(&s, &z, permuted), mask);
    }))
}

/// An operation of one source.
pub(crate) fn unary(parts: &Parts, f: fn(u32) -> u32) -> Option<Action> {
    let (d, a) = (parts.destination?, parts.terms.first()?.clone());
    Some(Box::new(move |state, mask| state.set(d, a.value(state).map(f), mask)))
}

/// An operation of two sources.
pub(crate) fn binary(parts: &Parts, f: impl Fn(u32, u32) -> u32 + 'static) -> Option<Action> {
    let (d, a, b) = (parts.destination?, parts.terms.first()?.clone(), parts.terms.get(1)?.clone());
    Some(Box::new(move |state: &mut State, mask| state.set(d, a.value(state).zip(&b.value(state), &f), mask)))
}
