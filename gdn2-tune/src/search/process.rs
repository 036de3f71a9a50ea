//! A Gaussian process over schedule points: what the times so far say about a candidate not looked at yet, and how
//! surely. Fields matter on their own and in company, so the kernel is a sum over single fields plus one over all.

/// Distance over which a field's effect is expected to carry, as a part of that field's range.
const REACH: f64 = 0.6;
/// Noise of an observation, in log time, squared.
const NOISE: f64 = 1e-4;

/// Posterior of a process with zero mean.
pub struct Process<'a> {
    points: Vec<&'a [f64]>,
    factor: Vec<Vec<f64>>,
    weights: Vec<f64>,
}

fn covariance(a: &[f64], b: &[f64]) -> f64 {
    let single: f64 = a.iter().zip(b).map(|(a, b)| (-(a - b).abs() / REACH).exp()).sum();
    let together: f64 = a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum();
    0.5 * single / a.len().max(1) as f64 + 0.5 * (-together / REACH).exp()
}

impl<'a> Process<'a> {
    /// Fits to values at some of the points.
    pub fn of(points: &'a [Vec<f64>], values: &[(usize, f64)]) -> Process<'a> {
        let at = values.iter().map(|(at, _)| points[*at].as_slice()).collect();
        Process::fit(at, &values.iter().map(|(_, value)| *value).collect::<Vec<f64>>())
    }

    /// Fits to values, which should have mean zero and deviations around one.
    fn fit(points: Vec<&'a [f64]>, values: &[f64]) -> Process<'a> {
        let n = points.len();
        // Cholesky; the noise on the diagonal keeps it positive.
        let mut factor = vec![vec![0.0; n]; n];
        for row in 0..n {
            for column in 0..=row {
                let dot: f64 = (0..column).map(|at| factor[row][at] * factor[column][at]).sum();
                let rest = covariance(points[row], points[column]) - dot;
                factor[row][column] =
                    if row == column { (rest + NOISE).max(NOISE).sqrt() } else { rest / factor[column][column] };
            }
        }
        let mut weights = forward(&factor, values);
        for row in (0..n).rev() {
            let dot: f64 = (row + 1..n).map(|at| factor[at][row] * weights[at]).sum();
            weights[row] = (weights[row] - dot) / factor[row][row];
        }
        Process { points, factor, weights }
    }

    /// Expected value and standard deviation at a point.
    pub fn at(&self, point: &[f64]) -> (f64, f64) {
        let with: Vec<f64> = self.points.iter().map(|other| covariance(point, other)).collect();
        let mean = with.iter().zip(&self.weights).map(|(a, b)| a * b).sum();
        let explained: f64 = forward(&self.factor, &with).iter().map(|part| part * part).sum();
        (mean, (covariance(point, point) - explained).max(0.0).sqrt())
    }
}

/// Solves `factor · x = values`.
fn forward(factor: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let mut solved: Vec<f64> = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        let dot: f64 = solved.iter().zip(&factor[row]).map(|(a, b)| a * b).sum();
        solved.push((value - dot) / factor[row][row]);
    }
    solved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_through_what_it_saw_and_is_unsure_elsewhere() {
        let points = [vec![0.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0]];
        let process = Process::fit(points.iter().map(Vec::as_slice).collect(), &[-1.0, 0.0, 1.0]);
        for (point, value) in points.iter().zip([-1.0, 0.0, 1.0]) {
            let (mean, deviation) = process.at(point);
            assert!((mean - value).abs() < 1e-2 && deviation < 0.05, "{mean} ± {deviation} at {point:?}");
        }
        let (mean, deviation) = process.at(&[1.0, 1.0]);
        assert!(mean > 0.2 && deviation > 0.2, "{mean} ± {deviation}: both fields rose, so should the value");
    }
}
