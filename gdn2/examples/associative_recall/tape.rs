//! Just enough automatic differentiation to train one layer: matrices, and for each the way its gradient goes back.

use std::error::Error;

/// A matrix on the tape.
#[derive(Clone, Copy)]
pub struct Var(usize);

/// How a node's gradient reaches the nodes before it.
type Back = Box<dyn Fn(&mut Earlier<'_>, &[f32]) -> Result<(), Box<dyn Error>>>;

struct Node {
    value: Vec<f32>,
    grad: Vec<f32>,
    width: usize,
    back: Option<Back>,
}

/// The nodes before one, while its gradient goes back.
pub struct Earlier<'a>(&'a mut [Node]);

/// Matrices in the order they were computed.
#[derive(Default)]
pub struct Tape(Vec<Node>);

impl Earlier<'_> {
    pub fn value(&self, var: Var) -> &[f32] {
        &self.0[var.0].value
    }

    pub fn add(&mut self, var: Var, index: usize, amount: f32) {
        self.0[var.0].grad[index] += amount;
    }

    pub fn add_all(&mut self, var: Var, amounts: &[f32]) {
        self.0[var.0].grad.iter_mut().zip(amounts).for_each(|(grad, amount)| *grad += amount);
    }
}

impl Tape {
    pub fn value(&self, var: Var) -> &[f32] {
        &self.0[var.0].value
    }

    pub fn grad(&self, var: Var) -> &[f32] {
        &self.0[var.0].grad
    }

    /// A matrix with rows of `width` and the way back.
    pub fn push(
        &mut self,
        value: Vec<f32>,
        width: usize,
        back: impl Fn(&mut Earlier<'_>, &[f32]) -> Result<(), Box<dyn Error>> + 'static,
    ) -> Var {
        let var = self.leaf(value, width);
        self.0[var.0].back = Some(Box::new(back));
        var
    }

    /// A matrix that is given.
    pub fn leaf(&mut self, value: Vec<f32>, width: usize) -> Var {
        let grad = vec![0.0; value.len()];
        self.0.push(Node { value, grad, width, back: None });
        Var(self.0.len() - 1)
    }

    /// x w
    pub fn matmul(&mut self, x: Var, w: Var) -> Var {
        let (inner, width) = (self.0[x.0].width, self.0[w.0].width);
        let mut y = vec![0.0; self.value(x).len() / inner * width];
        for (x, y) in self.value(x).chunks_exact(inner).zip(y.chunks_exact_mut(width)) {
            for (x, w) in x.iter().zip(self.value(w).chunks_exact(width)) {
                y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
            }
        }
        self.push(y, width, move |before, dy| {
            let (xs, ws) = (before.value(x).to_vec(), before.value(w).to_vec());
            let (mut dx, mut dw) = (vec![0.0; xs.len()], vec![0.0; ws.len()]);
            let rows = xs.chunks_exact(inner).zip(dx.chunks_exact_mut(inner)).zip(dy.chunks_exact(width));
            for ((x, dx), dy) in rows {
                let columns = x.iter().zip(dx).zip(ws.chunks_exact(width)).zip(dw.chunks_exact_mut(width));
                for (((x, dx), w), dw) in columns {
                    *dx += w.iter().zip(dy).map(|(w, dy)| w * dy).sum::<f32>();
                    dw.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += x * dy);
                }
            }
            before.add_all(x, &dx);
            before.add_all(w, &dw);
            Ok(())
        })
    }

    /// f of every number; f gives its value and its derivative.
    pub fn map(&mut self, x: Var, f: impl Fn(f32) -> (f32, f32) + 'static) -> Var {
        let y = self.value(x).iter().map(|x| f(*x).0).collect();
        self.push(y, self.0[x.0].width, move |before, dy| {
            let dx: Vec<f32> = before.value(x).iter().zip(dy).map(|(x, dy)| f(*x).1 * dy).collect();
            before.add_all(x, &dx);
            Ok(())
        })
    }

    /// x ⊙ y, the rows of y repeated where it has fewer.
    pub fn mul(&mut self, x: Var, y: Var) -> Var {
        let repeat = self.value(y).len();
        let value = self.value(x).iter().zip(self.value(y).iter().cycle()).map(|(x, y)| x * y).collect();
        self.push(value, self.0[x.0].width, move |before, d| {
            for (index, d) in d.iter().enumerate() {
                let (a, b) = (before.value(x)[index], before.value(y)[index % repeat]);
                before.add(x, index, d * b);
                before.add(y, index % repeat, d * a);
            }
            Ok(())
        })
    }

    /// Rows of length 1.
    pub fn unit(&mut self, x: Var) -> Var {
        let width = self.0[x.0].width;
        let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-6;
        let rows = self.value(x).chunks_exact(width);
        let y: Vec<f32> = rows.flat_map(|row| row.iter().map(move |x| x / length(row))).collect();
        self.push(y, width, move |before, dy| {
            let xs = before.value(x).to_vec();
            for (at, (row, dy)) in xs.chunks_exact(width).zip(dy.chunks_exact(width)).enumerate() {
                let length = length(row);
                let along: f32 = row.iter().zip(dy).map(|(x, dy)| x / length * dy).sum();
                for (column, (value, dy)) in row.iter().zip(dy).enumerate() {
                    before.add(x, at * width + column, (dy - value / length * along) / length);
                }
            }
            Ok(())
        })
    }

    /// A causal convolution along the tokens of each sequence, channel by channel: row j of `taps` meets the token j
    /// places back.
    pub fn convolve(&mut self, x: Var, taps: Var, tokens: usize) -> Var {
        let width = self.0[x.0].width;
        let reach = self.value(taps).len() / width;
        // Every (output, input, tap) that meets.
        let meetings = move |elements: usize| {
            (0..elements).flat_map(move |index| {
                let back = (index / width % tokens).min(reach - 1);
                (0..=back).map(move |tap| (index, index - tap * width, tap * width + index % width))
            })
        };
        let mut y = vec![0.0; self.value(x).len()];
        for (out, input, tap) in meetings(y.len()) {
            y[out] += self.value(x)[input] * self.value(taps)[tap];
        }
        self.push(y, width, move |before, dy| {
            for (out, input, tap) in meetings(dy.len()) {
                let (a, b) = (before.value(x)[input], before.value(taps)[tap]);
                before.add(x, input, dy[out] * b);
                before.add(taps, tap, dy[out] * a);
            }
            Ok(())
        })
    }

    /// Rows of a table.
    pub fn rows(&mut self, table: Var, ids: Vec<usize>) -> Var {
        let width = self.0[table.0].width;
        let value = ids.iter().flat_map(|id| self.value(table)[id * width..][..width].to_vec()).collect();
        self.push(value, width, move |before, d| {
            for (id, d) in ids.iter().zip(d.chunks_exact(width)) {
                d.iter().enumerate().for_each(|(column, d)| before.add(table, id * width + column, *d));
            }
            Ok(())
        })
    }

    /// Mean cross-entropy of the rows that have a target; starts the way back. Also how many of them are largest at
    /// their target.
    pub fn train(&mut self, logits: Var, targets: &[Option<usize>]) -> Result<(f32, usize), Box<dyn Error>> {
        let width = self.0[logits.0].width;
        let count = targets.iter().flatten().count() as f32;
        let (mut loss, mut right) = (0.0, 0);
        let node = &mut self.0[logits.0];
        let rows = node.value.chunks_exact(width).zip(node.grad.chunks_exact_mut(width)).zip(targets);
        for ((row, grad), target) in rows {
            let Some(target) = target else { continue };
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = row.iter().map(|x| (x - largest).exp()).sum();
            loss -= (row[*target] - largest - sum.ln()) / count;
            right += usize::from(row[*target] == largest);
            grad.iter_mut().zip(row).for_each(|(grad, x)| *grad = (x - largest).exp() / sum / count);
            grad[*target] -= 1.0 / count;
        }
        for index in (0..self.0.len()).rev() {
            let (before, rest) = self.0.split_at_mut(index);
            if let Some(Node { grad, back: Some(back), .. }) = rest.first() {
                back(&mut Earlier(before), grad)?;
            }
        }
        Ok((loss, right))
    }
}
