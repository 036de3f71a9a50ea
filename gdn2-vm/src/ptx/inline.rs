//! Writes calls and branch tables out: the functions a kernel calls are set into its text, one copy for each call, and
//! `brx.idx` becomes comparisons. The machine itself knows neither.

use crate::error::LoadError;
use crate::ptx::text::{Class, EntryText, Formal, Operand, Reg, Statement};
use std::collections::HashMap;

/// Labels behind a copy, before and after its results are handed on; no label of a PTX text is spelt so.
const AFTER: &str = "(after the call)";
const PAST: &str = "(past the call)";

/// What a `ret` at the end of a copy becomes.
const NOTHING: &str = "pmevent";

/// Instructions of a kernel with its calls written out.
const MOST: usize = 1 << 20;

type Functions<'a> = HashMap<&'a str, EntryText<'a>>;
type Pointers<'a> = HashMap<&'a str, u64>;

/// Replaces every call of a kernel; `pointers` are the functions that a call through a register may mean.
pub(crate) fn expand<'a>(
    entry: &mut EntryText<'a>,
    functions: &Functions<'a>,
    pointers: &Pointers<'a>,
) -> Result<(), LoadError> {
    within(entry, functions, pointers, &mut Vec::new())
}

/// Results, callee and arguments of a call.
fn parts<'a>(s: &Statement<'a>) -> Option<(Operand<'a>, Operand<'a>, Operand<'a>)> {
    let empty = || Operand::Vector(Vec::new());
    let rest = match &s.operands[..] {
        [results @ Operand::Vector(_), rest @ ..] => (results.clone(), rest),
        rest => (empty(), rest),
    };
    let (results, [callee @ (Operand::Name(_) | Operand::Reg(_)), rest @ ..]) = rest else { return None };
    let arguments = match rest {
        [arguments @ Operand::Vector(_), ..] => arguments.clone(),
        _ => empty(),
    };
    Some((results, callee.clone(), arguments))
}

/// `open`: the functions whose copies these statements are in; one that calls itself is refused.
fn within<'a>(
    e: &mut EntryText<'a>,
    functions: &Functions<'a>,
    pointers: &Pointers<'a>,
    open: &mut Vec<&'a str>,
) -> Result<(), LoadError> {
    if !e.statements.iter().any(|s| is_call(s)) {
        return Ok(());
    }
    let old = std::mem::take(&mut e.statements);
    let scopes = e.scopes.len();
    let mut starts = Vec::with_capacity(old.len() + 1);
    for s in old {
        starts.push(e.statements.len());
        if e.statements.len() > MOST {
            let message = format!("the calls of `{}` written out make more than {MOST} instructions", e.name);
            return Err(LoadError::Malformed { line: s.line, message });
        }
        if !is_call(&s) {
            e.statements.push(s);
            continue;
        }
        let s = Statement { apart: Vec::new(), ..s };
        let unknown = || LoadError::Unknown {
            line: s.line,
            instruction: s.text.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let (results, callee, arguments) = parts(&s).ok_or_else(unknown)?;
        let mut set = |e: &mut EntryText<'a>, name: &'a str, call: &Statement<'a>| -> Result<(), LoadError> {
            if open.contains(&name) {
                return Err(LoadError::Recursive { line: s.line, function: name.to_owned() });
            }
            let mut f = functions.get(name).ok_or_else(unknown)?.clone();
            open.push(name);
            within(&mut f, functions, pointers, open)?;
            open.pop();
            set_in(e, f, call, [&arguments, &results]).ok_or_else(unknown)
        };
        match callee {
            Operand::Name("__assertfail") => {
                e.statements.push(Statement { opcode: "trap", operands: Vec::new(), ..s.clone() });
            }
            Operand::Name("vprintf") if !functions.contains_key("vprintf") => {
                let (Operand::Vector(given), Operand::Vector(result)) = (&arguments, &results) else {
                    return Err(unknown());
                };
                let all: Vec<_> = given.iter().chain(result).collect();
                if given.len() != 2 || result.len() > 1 || !all.iter().all(|o| matches!(o, Operand::Name(_))) {
                    return Err(unknown());
                }
                let operands = all.into_iter().map(|o| Operand::Address(Box::new(o.clone()), 0)).collect();
                e.statements.push(Statement { opcode: "vprintf", operands, ..s.clone() });
            }
            Operand::Name(name) => set(e, name, &s)?,
            _ if s.guard.is_some() => return Err(unknown()),
            pointer => {
                // Each function it may be in turn, those of other parameters aside; a pointer to none of them traps.
                let arity = |o: &Operand<'a>| if let Operand::Vector(v) = o { v.len() } else { 0 };
                let takes = |f: &EntryText<'a>| {
                    [f.formals[0].len(), f.formals[1].len()] == [arity(&arguments), arity(&results)]
                };
                let fits = pointers.iter().filter(|(name, _)| functions.get(*name).is_some_and(takes));
                let mut fits: Vec<(&'a str, u64)> = fits.map(|(name, at)| (*name, *at)).collect();
                fits.sort_unstable_by_key(|(_, at)| *at);
                let [hit, none] = [0, 1].map(|i| Reg { class: Class::Pred, index: e.counts[0] + i });
                e.counts[0] += 2;
                let one = |opcode, operands| Statement { opcode, operands, guard: None, ..s.clone() };
                e.statements.push(one("setp.eq.u64", vec![Operand::Reg(none), Operand::Int(0), Operand::Int(0)]));
                for (name, at) in fits {
                    let compared = [pointer.clone(), Operand::Int(at)];
                    let all = [Operand::Reg(hit)].into_iter().chain(compared.clone()).collect();
                    e.statements.push(one("setp.eq.u64", all));
                    set(e, name, &Statement { guard: Some((hit, false)), ..s.clone() })?;
                    let all = [Operand::Reg(none)].into_iter().chain(compared).chain([Operand::Reg(none)]).collect();
                    e.statements.push(one("setp.ne.and.u64", all));
                }
                e.statements.push(Statement { guard: Some((none, false)), ..one("trap", Vec::new()) });
            }
        }
    }
    starts.push(e.statements.len());
    // The copies' labels are where they belong already.
    for scope in &mut e.scopes[..scopes] {
        scope.labels.values_mut().for_each(|at| *at = starts[*at]);
    }
    Ok(())
}

fn is_call(s: &Statement<'_>) -> bool {
    s.opcode == "call" || s.opcode == "call.uni"
}

/// Puts `f` in the place of `call`; `None` where arguments and parameters do not match.
fn set_in<'a>(e: &mut EntryText<'a>, f: EntryText<'a>, call: &Statement<'a>, actuals: [&Operand<'a>; 2]) -> Option<()> {
    let (scopes, counts) = (e.scopes.len(), e.counts);
    let moved = |r: Reg| Reg { index: r.index + counts[r.class.file()], ..r };
    let mut aliases = Vec::new();
    let mut copies = [Vec::new(), Vec::new()];
    for (side, actual) in actuals.into_iter().enumerate() {
        let Operand::Vector(actual) = actual else { return None };
        if actual.len() != f.formals[side].len() {
            return None;
        }
        for (formal, actual) in f.formals[side].iter().zip(actual) {
            match (formal, actual) {
                (Formal::Memory(name), Operand::Name(symbol)) => {
                    aliases.push((*name, (*symbol, call.scope)));
                }
                (Formal::Reg(formal), Operand::Reg(_) | Operand::Int(_) | Operand::F32(_) | Operand::F64(_)) => {
                    let opcode = match formal.class {
                        Class::Pred => "mov.pred",
                        Class::Half | Class::Word => "mov.b32",
                        Class::Wide => "mov.b64",
                        Class::Quad => "mov.b128",
                    };
                    let mut operands = vec![Operand::Reg(moved(*formal)), actual.clone()];
                    if side == 1 {
                        operands.swap(0, 1);
                    }
                    copies[side].push(Statement { guard: None, opcode, operands, ..call.clone() });
                }
                _ => return None,
            }
        }
    }
    let [before, after] = copies;
    if let Some((guard, invert)) = call.guard {
        // A call that not all lanes make.
        let (guard, operands) = (Some((guard, !invert)), vec![Operand::Name(PAST)]);
        e.statements.push(Statement { guard, opcode: "bra", operands, scope: scopes, ..call.clone() });
    }
    e.statements.extend(before);
    let first = e.statements.len();
    let end = first + f.statements.len();
    let last = f.statements.len().saturating_sub(1);
    for (i, mut s) in f.statements.into_iter().enumerate() {
        let returns = matches!(s.opcode, "ret" | "ret.uni");
        s.guard = s.guard.map(|(r, invert)| (moved(r), invert));
        s.scope += scopes;
        if returns {
            let opcode = if i == last && s.guard.is_none() { NOTHING } else { "bra" };
            let operands = if opcode == "bra" { vec![Operand::Name(AFTER)] } else { Vec::new() };
            s = Statement { opcode, apart: Vec::new(), operands, scope: scopes, ..s };
        } else {
            s.operands.iter_mut().for_each(|o| relocate(o, &moved));
        }
        e.statements.push(s);
    }
    e.statements.extend(after);
    let past = e.statements.len();
    for (i, mut scope) in f.scopes.into_iter().enumerate() {
        scope.labels.values_mut().for_each(|at| *at += first);
        for (_, from) in scope.aliases.values_mut() {
            *from += scopes;
        }
        if i == 0 {
            scope.parent = call.scope;
            scope.labels.extend([(AFTER, end), (PAST, past)]);
            scope.aliases.extend(aliases.drain(..));
        } else {
            scope.parent += scopes;
        }
        e.scopes.push(scope);
    }
    for mut variable in f.variables {
        variable.scope += scopes;
        e.variables.push(variable);
    }
    for (count, more) in e.counts.iter_mut().zip(f.counts) {
        *count += more;
    }
    Some(())
}

fn relocate(o: &mut Operand<'_>, moved: &impl Fn(Reg) -> Reg) {
    match o {
        Operand::Reg(r) | Operand::Not(r) | Operand::Part(r, _) => *r = moved(*r),
        Operand::Minus(inner) => relocate(inner, moved),
        Operand::Pair(a, b) => {
            relocate(a, moved);
            relocate(b, moved);
        }
        Operand::Vector(v) => v.iter_mut().for_each(|o| relocate(o, moved)),
        Operand::Address(base, _) => relocate(base, moved),
        Operand::Tile(base, coordinates) => {
            relocate(base, moved);
            coordinates.iter_mut().for_each(|o| relocate(o, moved));
        }
        Operand::Int(_) | Operand::F32(_) | Operand::F64(_) | Operand::Name(_) | Operand::Sink => {}
    }
}

/// Writes each `brx.idx` as comparisons and branches; an index beyond the table is undefined, and takes the last.
pub(crate) fn branch_tables(e: &mut EntryText<'_>) {
    if !e.statements.iter().any(|s| s.opcode.starts_with("brx.idx")) {
        return;
    }
    let old = std::mem::take(&mut e.statements);
    let mut starts = Vec::with_capacity(old.len() + 1);
    for s in old {
        starts.push(e.statements.len());
        let targets = match (&s.operands[..], s.opcode) {
            ([_, Operand::Name(table)], "brx.idx" | "brx.idx.uni") => e.scopes[s.scope].targets.get(table).cloned(),
            _ => None,
        };
        let Some(targets) = targets else {
            e.statements.push(s);
            continue;
        };
        let s = Statement { apart: Vec::new(), ..s };
        let hit = Reg { class: Class::Pred, index: e.counts[0] };
        e.counts[0] += 1;
        let last = targets.len().saturating_sub(1);
        for (i, target) in targets.iter().enumerate() {
            let operands = vec![Operand::Name(target)];
            if i == last {
                e.statements.push(Statement { opcode: "bra", operands, ..s.clone() });
                continue;
            }
            let compared = vec![Operand::Reg(hit), s.operands[0].clone(), Operand::Int(i as u64)];
            e.statements.push(Statement { opcode: "setp.eq.u32", operands: compared, ..s.clone() });
            e.statements.push(Statement { guard: Some((hit, false)), opcode: "bra", operands, ..s.clone() });
        }
    }
    starts.push(e.statements.len());
    for scope in &mut e.scopes {
        scope.labels.values_mut().for_each(|at| *at = starts[*at]);
    }
}
