//! Forward, token by token. Each task holds a slice of one head's state, `[K, WIDTH]`, and walks its sequence once.

use super::Outputs;
use crate::problem::Problem;
use gdn2_codegen::abi::Tensor;
use gdn2_dsl::{Dims, Grain, InputError, Sequence};
use rayon::prelude::*;

/// Runs a problem.
///
/// # Errors
/// Inputs that the rule's formulas do not take.
pub fn forward(problem: &Problem<'_>) -> Result<Outputs, InputError> {
    let (dims, tensors) = (problem.dims(), Tensors::new(problem)?);
    let wide = dims.value_dim.is_multiple_of(32);
    Ok(if wide { sliced::<32>(problem, &tensors) } else { sliced::<16>(problem, &tensors) })
}

/// The inputs as the kernels read them, g already turned into the decay it is the log of.
struct Tensors {
    dims: Dims,
    scale: f32,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Gate,
    erase: Gate,
    write: Gate,
}

/// A gate's values, or what its absence means.
enum Gate {
    Absent,
    Scalar(Vec<f32>),
    Channel(Vec<f32>),
}

/// A gate at one token and head.
#[derive(Clone, Copy)]
enum Row<'a> {
    Absent,
    Scalar(f32),
    Channel(&'a [f32]),
}

impl Gate {
    fn new(grain: Grain, values: Option<Vec<f32>>) -> Gate {
        match (grain, values) {
            (Grain::Scalar, Some(values)) => Gate::Scalar(values),
            (Grain::Channel, Some(values)) => Gate::Channel(values),
            (Grain::None, _) | (_, None) => Gate::Absent,
        }
    }

    fn row(&self, row: usize, width: usize) -> Row<'_> {
        match self {
            Gate::Absent => Row::Absent,
            Gate::Scalar(values) => Row::Scalar(values[row]),
            Gate::Channel(values) => Row::Channel(&values[row * width..(row + 1) * width]),
        }
    }
}

impl Row<'_> {
    #[inline(always)]
    fn at(self, channel: usize, absent: f32) -> f32 {
        match self {
            Row::Absent => absent,
            Row::Scalar(value) => value,
            Row::Channel(values) => values[channel],
        }
    }
}

impl Tensors {
    fn new(problem: &Problem<'_>) -> Result<Tensors, InputError> {
        let rule = problem.rule();
        let given = |tensor| problem.input(tensor);
        let [q, k, mut g, b, w] = if rule.prologue.is_empty() {
            [Tensor::Q, Tensor::K, Tensor::G, Tensor::B, Tensor::W].map(given)
        } else {
            let made = gdn2_dsl::layer::computed(rule, &problem.inputs64())?;
            let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
            [Some(made.q), Some(made.k), made.g, made.b, made.w].map(|values| values.map(narrow))
        };
        g.iter_mut().for_each(|g| g.par_iter_mut().for_each(|g| *g = g.exp()));
        let write = match rule.write {
            gdn2_dsl::Write::Own(gate) => Gate::new(gate.grain, w),
            gdn2_dsl::Write::Tied => Gate::new(rule.erase.grain, b.clone()),
        };
        Ok(Tensors {
            dims: problem.dims(),
            scale: problem.scale(),
            q: q.unwrap_or_default(),
            k: k.unwrap_or_default(),
            v: given(Tensor::V).unwrap_or_default(),
            decay: Gate::new(rule.decay.grain, g),
            erase: Gate::new(rule.erase.grain, b),
            write,
        })
    }
}

/// One slice of one head of one sequence.
struct Task {
    sequence: Sequence,
    head: usize,
    slice: usize,
}

/// What a task gives: o `[tokens][WIDTH]` and the state `[K][WIDTH]`.
type Slice<const WIDTH: usize> = (Vec<[f32; WIDTH]>, Vec<[f32; WIDTH]>);

fn sliced<const WIDTH: usize>(problem: &Problem<'_>, tensors: &Tensors) -> Outputs {
    let dims = tensors.dims;
    let initial = problem.states_kv(Tensor::InitialState);
    let slices = dims.value_dim / WIDTH;
    let sequences = problem.sequences().iter();
    let tasks: Vec<Task> = sequences
        .flat_map(|&sequence| (0..dims.value_heads * slices).map(move |unit| (sequence, unit)))
        .map(|(sequence, unit)| Task { sequence, head: unit / slices, slice: unit % slices })
        .collect();
    let state_row = |slot: usize, head: usize, i: usize, slice: usize| {
        ((slot * dims.value_heads + head) * dims.key_dim + i) * dims.value_dim + slice * WIDTH
    };
    let results: Vec<Slice<WIDTH>> = tasks
        .par_iter()
        .map(|task| {
            let mut state = vec![[0f32; WIDTH]; dims.key_dim];
            if let (Some(pool), Some(slot)) = (&initial, problem.initial_slot(task.sequence.index)) {
                for (i, row) in state.iter_mut().enumerate() {
                    let at = state_row(slot, task.head, i, task.slice);
                    row.copy_from_slice(&pool[at..at + WIDTH]);
                }
            }
            let o = walk(tensors, task, &mut state);
            (o, state)
        })
        .collect();
    let mut o = vec![0f32; tensors.v.len()];
    let pool = problem.final_pool() * dims.value_heads * dims.state();
    let before = problem.final_pool_before().map(|pool| problem.rule().as_kv(pool));
    let mut final_state = before.unwrap_or_else(|| vec![0f32; pool]);
    for (task, (rows, state)) in tasks.iter().zip(&results) {
        for (t, row) in rows.iter().enumerate() {
            let at = ((task.sequence.start + t) * dims.value_heads + task.head) * dims.value_dim + task.slice * WIDTH;
            o[at..at + WIDTH].copy_from_slice(row);
        }
        let Some(slot) = problem.final_slot(task.sequence.index) else { continue };
        for (i, row) in state.iter().enumerate() {
            let at = state_row(slot, task.head, i, task.slice);
            final_state[at..at + WIDTH].copy_from_slice(row);
        }
    }
    Outputs { o, final_state }
}

/// All tokens of a task, with the widest vectors the machine has.
fn walk<const WIDTH: usize>(tensors: &Tensors, task: &Task, state: &mut [[f32; WIDTH]]) -> Vec<[f32; WIDTH]> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<const WIDTH: usize>(tensors: &Tensors, task: &Task, state: &mut [[f32; WIDTH]]) -> Vec<[f32; WIDTH]> {
            steps::<WIDTH, true>(tensors, task, state)
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both features.
            return unsafe { wide(tensors, task, state) };
        }
    }
    steps::<WIDTH, { cfg!(target_arch = "aarch64") }>(tensors, task, state)
}

/// `FMA`: whether a fused multiply-add is one instruction here; it is a library call elsewhere.
#[inline(always)]
fn steps<const WIDTH: usize, const FMA: bool>(
    tensors: &Tensors,
    task: &Task,
    state: &mut [[f32; WIDTH]],
) -> Vec<[f32; WIDTH]> {
    let Dims { heads, value_heads, key_dim, value_dim, .. } = tensors.dims;
    let columns = task.slice * WIDTH..(task.slice + 1) * WIDTH;
    let mut outputs = Vec::with_capacity(task.sequence.tokens);
    for token in task.sequence.start..task.sequence.start + task.sequence.tokens {
        let key_row = token * heads + task.head / (value_heads / heads);
        let value_row = token * value_heads + task.head;
        let q = &tensors.q[key_row * key_dim..(key_row + 1) * key_dim];
        let k = &tensors.k[key_row * key_dim..(key_row + 1) * key_dim];
        let v = &tensors.v[value_row * value_dim..(value_row + 1) * value_dim][columns.clone()];
        let decay = tensors.decay.row(value_row, key_dim);
        let erase = tensors.erase.row(value_row, key_dim);
        let write = tensors.write.row(value_row, value_dim);
        // n = z − (decayed S)ᵀ e
        let mut n = [0f32; WIDTH];
        for (j, (n, v)) in n.iter_mut().zip(v).enumerate() {
            *n = write.at(columns.start + j, 1.0) * v;
        }
        if !matches!((decay, erase), (Row::Absent, Row::Absent)) {
            for (i, (row, k)) in state.iter_mut().zip(k).enumerate() {
                let (alpha, e) = (decay.at(i, 1.0), erase.at(i, 0.0) * k);
                for (s, n) in row.iter_mut().zip(&mut n) {
                    *s *= alpha;
                    *n = fused::<FMA>(-e, *s, *n);
                }
            }
        }
        let mut o = [0f32; WIDTH];
        for ((row, k), q) in state.iter_mut().zip(k).zip(q) {
            let q = q * tensors.scale;
            for ((s, n), o) in row.iter_mut().zip(&n).zip(&mut o) {
                *s = fused::<FMA>(*k, *n, *s);
                *o = fused::<FMA>(q, *s, *o);
            }
        }
        outputs.push(o);
    }
    outputs
}

#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
