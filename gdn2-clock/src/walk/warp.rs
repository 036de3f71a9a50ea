//! One warp from its first instruction to its last: guards, branches, divergence and where lanes meet again.

use super::WalkError;
use super::compile::{Action, action, condition, is_uniform};
use super::effect::{Finder, Touched, spread};
use super::lanes::{ALL, Bits};
use super::state::{State, Term};
use super::trace::{Effect, Step};
use crate::sass::{Instruction, Operand, Program};

/// An instruction with what it does, made when it first runs.
struct Compiled {
    action: Action,
    finder: Finder,
    arrives: bool,
}

/// The compiled instructions of a program, shared by its warps.
pub(crate) struct Code<'a> {
    pub(crate) program: &'a Program,
    compiled: Vec<Compiled>,
}

impl<'a> Code<'a> {
    pub(crate) fn new(program: &'a Program) -> Code<'a> {
        let compile = |instruction: &Instruction| Compiled {
            action: action(instruction),
            finder: Finder::of(instruction),
            arrives: instruction.name == "SYNCS" && instruction.has("ARRIVE"),
        };
        Code { program, compiled: program.instructions.iter().map(compile).collect() }
    }
}

/// Lanes that run together.
#[derive(Clone, Copy, Debug)]
struct Path {
    at: usize,
    mask: u32,
}

/// Lanes that wait for others, at an instruction they have executed.
#[derive(Clone, Debug)]
struct Parked {
    path: Path,
    wanted: u32,
}

/// What became of the path that runs.
enum Next {
    /// It goes on.
    On,
    /// It has ended, waits, or was divided: choose anew.
    Choose,
}

/// A warp that is being walked.
pub(crate) struct Warp<'c, 's> {
    code: &'c Code<'c>,
    state: State<'s>,
    paths: Vec<Path>,
    parked: Vec<Parked>,
    steps: Vec<Step>,
    most: usize,
}

impl<'c, 's> Warp<'c, 's> {
    pub(crate) fn new(code: &'c Code<'c>, state: State<'s>, most: usize) -> Warp<'c, 's> {
        let mask = state.alive;
        Warp { code, state, paths: vec![Path { at: 0, mask }], parked: Vec::new(), steps: Vec::new(), most }
    }

    /// Walks to the end; steps, and the state that is left.
    pub(crate) fn run(mut self, touched: &mut Touched) -> Result<(Vec<Step>, State<'s>), WalkError> {
        while let Some(mut path) = self.choose() {
            // Others that are ahead are met where they stand.
            let stop = self.paths.iter().map(|other| other.at).min().unwrap_or(usize::MAX);
            loop {
                if path.mask & self.state.alive == 0 {
                    break;
                }
                match self.step(&mut path, touched)? {
                    Next::On if path.at >= stop => {
                        self.paths.push(path);
                        break;
                    }
                    Next::On => {}
                    Next::Choose => break,
                }
            }
        }
        Ok((self.steps, self.state))
    }

    /// The path that is furthest behind, with those that stand at the same instruction; where none is left, lanes that
    /// wait for others which will not come.
    fn choose(&mut self) -> Option<Path> {
        let alive = self.state.alive;
        self.paths.iter_mut().for_each(|path| path.mask &= alive);
        self.paths.retain(|path| path.mask != 0);
        if self.paths.is_empty() {
            let at = (0..self.parked.len()).min_by_key(|at| self.parked[*at].path.at)?;
            let first = self.parked.swap_remove(at);
            self.paths.push(first.path);
            return self.choose();
        }
        let at = self.paths.iter().map(|path| path.at).min()?;
        let mask = self.paths.iter().filter(|path| path.at == at).fold(0, |mask, path| mask | path.mask);
        self.paths.retain(|path| path.at != at);
        Some(Path { at, mask })
    }

    fn push(&mut self, at: usize, effect: Effect) {
        self.steps.push(Step { instruction: at as u32, effect });
    }

    fn undecided(&self, instruction: &Instruction) -> WalkError {
        let Instruction { address, text, .. } = instruction;
        WalkError::UndecidedBranch { warp: self.state.warp, address: *address, text: text.clone() }
    }

    /// The lanes of a mask in which a truth holds; branches that memory decides go as the launch says.
    fn decided(&self, instruction: &Instruction, bits: Bits, mask: u32) -> Result<u32, WalkError> {
        if bits.known & mask == mask {
            return Ok(bits.bits & mask);
        }
        match self.state.launch.decided.get(&instruction.address) {
            Some(true) => Ok(mask),
            Some(false) => Ok(0),
            None => Err(self.undecided(instruction)),
        }
    }

    fn step(&mut self, path: &mut Path, touched: &mut Touched) -> Result<Next, WalkError> {
        let (code, at) = (self.code, path.at);
        let Some(instruction) = code.program.instructions.get(at) else { return Ok(Next::Choose) };
        if self.steps.len() >= self.most {
            return Err(WalkError::Endless { warp: self.state.warp, most: self.most, text: instruction.text.clone() });
        }
        let guard = match instruction.guard {
            Some(guard) => self.state.predicate(guard.file, guard.index, guard.negated),
            None => Bits::splat(true),
        };
        let branches =
            matches!(instruction.name.as_str(), "BRA" | "BRX" | "BRXU" | "EXIT" | "RET" | "CALL" | "BSYNC" | "BREAK");
        let (on, unsure) = if branches {
            (self.decided(instruction, guard, path.mask)?, 0)
        } else {
            let unsure = path.mask & !guard.known;
            (guard.bits & path.mask | unsure, unsure)
        };
        if branches {
            return self.branch(path, instruction, on);
        }
        path.at += 1;
        if on == 0 {
            self.push(at, Effect::Off);
            return Ok(Next::On);
        }
        match instruction.name.as_str() {
            "BSSY" => {
                self.state.convergence.insert(barrier(instruction), path.mask);
            }
            "WARPSYNC" if !instruction.has("COLLECTIVE") => {
                self.push(at, Effect::None);
                let wanted = instruction
                    .operands
                    .first()
                    .map_or(ALL, |mask| Term::of(mask).value(&self.state).first(on).unwrap_or(ALL));
                return Ok(self.meet(path, wanted));
            }
            _ => {}
        }
        let Some(compiled) = code.compiled.get(at) else { return Ok(Next::Choose) };
        self.state.unsure = unsure;
        if compiled.arrives && self.arrive_apart(compiled, at, on, touched) {
            return Ok(Next::On);
        }
        let effect = compiled.finder.find(&mut self.state, touched, on);
        (compiled.action)(&mut self.state, on);
        self.state.unsure = 0;
        self.push(at, effect);
        Ok(Next::On)
    }

    /// Lanes that arrive at different mbarriers with one instruction: one step for each address.
    fn arrive_apart(&mut self, compiled: &Compiled, at: usize, on: u32, touched: &mut Touched) -> bool {
        let Finder::Arrive(address, ..) = &compiled.finder else { return false };
        let places = self.state.shared_address(address);
        if !spread(&places, on) {
            return false;
        }
        let mut left = on;
        while left != 0 {
            let first = places.first(left);
            let mask = (0..32).filter(|lane| left >> lane & 1 == 1 && places.lane(*lane as usize) == first);
            let mask = mask.fold(0, |mask, lane| mask | 1 << lane);
            let effect = compiled.finder.find(&mut self.state, touched, mask);
            self.push(at, effect);
            left &= !mask;
        }
        true
    }

    /// Waits until all lanes of `wanted` that are alive have come to this point.
    fn meet(&mut self, path: &mut Path, wanted: u32) -> Next {
        let alive = self.state.alive;
        let here = |parked: &Parked| parked.path.at == path.at;
        let come =
            self.parked.iter().filter(|parked| here(parked)).fold(path.mask, |all, parked| all | parked.path.mask);
        let others = self.paths.iter().chain(self.parked.iter().map(|parked| &parked.path)).any(|path| path.mask != 0);
        if wanted & alive & !come == 0 || !others {
            let at = path.at;
            self.parked.retain(|parked| parked.path.at != at);
            path.mask = come;
            return Next::On;
        }
        self.parked.push(Parked { path: *path, wanted });
        Next::Choose
    }

    /// Lanes that left may be what others waited for.
    fn release(&mut self) {
        let alive = self.state.alive;
        let spots: Vec<usize> = self.parked.iter().map(|parked| parked.path.at).collect();
        for spot in spots {
            let here = || self.parked.iter().filter(|parked| parked.path.at == spot);
            let come = here().fold(0, |all, parked| all | parked.path.mask);
            let wanted = here().fold(0, |all, parked| all | parked.wanted);
            if come != 0 && wanted & alive & !come == 0 {
                self.parked.retain(|parked| parked.path.at != spot);
                self.paths.push(Path { at: spot, mask: come });
            }
        }
    }

    fn branch(&mut self, path: &mut Path, instruction: &Instruction, on: u32) -> Result<Next, WalkError> {
        let at = path.at;
        if on == 0 {
            self.push(at, Effect::Off);
            path.at += 1;
            return Ok(Next::On);
        }
        match instruction.name.as_str() {
            "EXIT" => {
                self.state.alive &= !on;
                let rest = path.mask & !on;
                self.push(at, if self.state.alive == 0 { Effect::Exit } else { Effect::None });
                self.release();
                path.mask = rest;
                path.at += 1;
                return Ok(if rest == 0 { Next::Choose } else { Next::On });
            }
            "BSYNC" => {
                self.push(at, Effect::None);
                path.at += 1;
                let wanted = self.state.convergence.get(&barrier(instruction)).copied().unwrap_or(path.mask);
                return Ok(self.meet(path, wanted));
            }
            "BREAK" => {
                if let Some(lanes) = self.state.convergence.get_mut(&barrier(instruction)) {
                    *lanes &= !on;
                }
                self.push(at, Effect::None);
                path.at += 1;
                return Ok(Next::On);
            }
            _ => {}
        }
        let (taken, target) = self.target(path, instruction, on)?;
        if taken == 0 {
            self.push(at, Effect::Off);
            path.at += 1;
            return Ok(Next::On);
        }
        // Behind the end of a kernel the assembler puts a branch to itself.
        if target == at {
            return Ok(Next::Choose);
        }
        self.push(at, Effect::Taken);
        let rest = path.mask & !taken;
        if rest != 0 {
            self.paths.push(Path { at: at + 1, mask: rest });
            self.paths.push(Path { at: target, mask: taken });
            return Ok(Next::Choose);
        }
        path.at = target;
        Ok(Next::On)
    }

    /// Which lanes jump, and where to.
    fn target(&self, path: &Path, instruction: &Instruction, on: u32) -> Result<(u32, usize), WalkError> {
        let lost = || WalkError::UnknownTarget {
            warp: self.state.warp,
            address: instruction.address,
            text: instruction.text.clone(),
        };
        let number =
            |operand: Option<&Operand>| operand.and_then(|operand| Term::of(operand).value(&self.state).first(on));
        let base = instruction.operands.first();
        match instruction.name.as_str() {
            // Taken where the lanes that run are, or are not, those of the mask.
            "BRA" if instruction.has("DIV") || instruction.has("CONV") => {
                let target = instruction.target.ok_or_else(lost)?;
                let all = number(base).is_none_or(|lanes| lanes & self.state.alive == path.mask);
                Ok((if all == instruction.has("CONV") { on } else { 0 }, target))
            }
            "BRA" | "CALL" if instruction.target.is_some() => {
                let also = instruction.operands.iter().find_map(condition);
                let bits = also.map_or(Bits::splat(true), |also| also.value(&self.state));
                let bits = match also {
                    // A uniform predicate holds in all lanes or in none.
                    Some(also) if is_uniform(also.0) && bits.known != 0 => Bits::splat(bits.bits != 0),
                    _ => bits,
                };
                Ok((self.decided(instruction, bits, on)?, instruction.target.ok_or_else(lost)?))
            }
            "RET" => Ok((on, number(base).and_then(|to| self.code.program.at(to)).ok_or_else(lost)?)),
            "BRX" | "BRXU" => {
                // `BRX R4 -0x30`: counted from the instruction behind it.
                let text = &instruction.text;
                let mut words = text.split_whitespace().skip_while(|word| !word.starts_with("BRX")).skip(1);
                let register = words.next().map(|word| Operand::parse(word.trim_end_matches(','))).ok_or_else(lost)?;
                let offset = words.next().map_or(0, |word| match Operand::parse(word) {
                    Operand::Integer(offset) => offset,
                    _ => 0,
                });
                let to = number(Some(&register)).ok_or_else(lost)?;
                let to = i64::from(to.cast_signed()) + offset + i64::from(instruction.address) + 16;
                Ok((on, self.code.program.at(to as u32).ok_or_else(lost)?))
            }
            _ => Err(lost()),
        }
    }
}

fn barrier(instruction: &Instruction) -> String {
    match instruction.operands.first() {
        Some(Operand::Other(name)) => name.clone(),
        other => format!("{other:?}"),
    }
}
