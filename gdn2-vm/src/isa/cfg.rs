//! Reconvergence points: the immediate post-dominator of every branch that can diverge.

use crate::isa::entry::TRUE;
use crate::isa::inst::{Flow, Inst, Op};

/// No join: the lanes meet again only by leaving the kernel.
pub(crate) const NO_JOIN: u32 = u32::MAX;

fn successors(insts: &[Inst], i: usize) -> Vec<usize> {
    let mut v = Vec::new();
    let guarded = insts[i].guard != TRUE;
    let falls = match &insts[i].op {
        Op::Flow(Flow::Bra { target, .. }) => {
            v.push(*target as usize);
            guarded
        }
        // The virtual exit has index `insts.len()`.
        Op::Flow(Flow::Exit | Flow::Trap) => {
            v.push(insts.len());
            guarded
        }
        _ => true,
    };
    if falls {
        v.push(i + 1);
    }
    v
}

/// Writes the join of every branch.
pub(crate) fn set_joins(insts: &mut [Inst]) {
    let n = insts.len();
    // Blocks: leaders are 0, targets, and what follows a flow instruction.
    let mut leader = vec![false; n + 1];
    leader[0] = true;
    leader[n] = true;
    for i in 0..n {
        if matches!(insts[i].op, Op::Flow(Flow::Bra { .. } | Flow::Exit | Flow::Trap)) {
            leader[i + 1] = true;
            for s in successors(insts, i) {
                leader[s] = true;
            }
        }
    }
    let starts: Vec<usize> = (0..=n).filter(|&i| leader[i]).collect();
    let blocks = starts.len() - 1;
    let mut block_of = vec![blocks; n + 1];
    for (b, w) in starts.windows(2).enumerate() {
        block_of[w[0]..w[1]].fill(b);
    }
    let succ: Vec<Vec<usize>> =
        starts.windows(2).map(|w| successors(insts, w[1] - 1).into_iter().map(|s| block_of[s]).collect()).collect();
    let ipdom = post_dominators(&succ, blocks);
    for b in 0..blocks {
        let last = starts[b + 1] - 1;
        let at = match ipdom[b] {
            Some(d) if d < blocks => starts[d] as u32,
            _ => NO_JOIN,
        };
        if let Op::Flow(Flow::Bra { join, .. }) = &mut insts[last].op {
            *join = at;
        }
    }
}

/// Immediate post-dominators (Cooper, Harvey and Kennedy's iteration on the reversed graph); `exit` is the root.
fn post_dominators(succ: &[Vec<usize>], exit: usize) -> Vec<Option<usize>> {
    let mut pred = vec![Vec::new(); exit + 1];
    for (b, s) in succ.iter().enumerate() {
        for &t in s {
            pred[t].push(b);
        }
    }
    // Post-order of the reversed graph from the exit.
    let mut order = Vec::new();
    let mut number = vec![usize::MAX; exit + 1];
    let mut seen = vec![false; exit + 1];
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some(top) = stack.last_mut() {
        let (b, k) = *top;
        if let Some(&p) = pred[b].get(k) {
            top.1 += 1;
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            number[b] = order.len();
            order.push(b);
            stack.pop();
        }
    }
    let mut dom: Vec<Option<usize>> = vec![None; exit + 1];
    dom[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().skip(1) {
            let mut new: Option<usize> = None;
            for &s in &succ[b] {
                if dom[s].is_none() {
                    continue;
                }
                new = Some(match new {
                    None => s,
                    Some(mut x) => {
                        let mut y = s;
                        while x != y {
                            while number[x] < number[y] {
                                x = dom[x].unwrap_or(exit);
                            }
                            while number[y] < number[x] {
                                y = dom[y].unwrap_or(exit);
                            }
                        }
                        x
                    }
                });
            }
            if new.is_some() && dom[b] != new {
                dom[b] = new;
                changed = true;
            }
        }
    }
    dom
}
