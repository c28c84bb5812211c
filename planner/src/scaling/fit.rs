//! Hoffmann's law fitted to runs, as Besiroglu et al. 2024 do.
//!
//! In: parameters, FLOPs and losses of runs ([`points`]). Out: [`SumFit`]; fits to runs drawn with replacement, which say how sure it is.
//!
//! Minimised is the sum of Huber's loss (δ = 10⁻³) of ln(predicted / measured) (Hoffmann et al. 2022, equation 12), by least squares
//! weighted anew (Huber 1981, §7.8) with Levenberg's and Marquardt's damping.
//!
//! Invariant: deterministic by a seed.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::FLOPS;
use super::law::Sum;

/// Where Huber's loss turns from squares to absolute values.
const DELTA: f64 = 1e-3;
/// The runs of the greatest losses, which Besiroglu et al. leave out.
const LEFT_OUT: usize = 5;
/// Steps of a fit at most.
const STEPS: usize = 3000;

/// A run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// ln of parameters.
    n: f64,
    /// ln of tokens.
    d: f64,
    /// ln of nats a token.
    loss: f64,
}

/// A law that was fitted, and what is left of the runs' losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SumFit {
    /// The law.
    pub sum: Sum,
    /// The sum that is minimised.
    pub residual: f64,
}

/// The runs of Hoffmann et al. 2022, figure 4, without the five of the greatest losses.
pub fn points() -> Vec<Point> {
    let lines = include_str!("points.csv").lines().filter(|line| !line.starts_with('#')).skip(1);
    let mut points: Vec<Point> = lines
        .map(|line| {
            let values: Vec<f64> = line.split(',').map(|value| value.parse().expect("a number")).collect();
            let [n, flops, loss] = values[..] else { unreachable!("three columns: {line}") };
            Point { n: n.ln(), d: (flops / (FLOPS * n)).ln(), loss: loss.ln() }
        })
        .collect();
    points.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    points.truncate(points.len() - LEFT_OUT);
    points
}

/// a, b and e by their logarithms, alpha, beta.
type LogConstants = [f64; 5];

/// The law that fits best, from where a law starts.
pub fn refit(points: &[Point], from: &Sum) -> SumFit {
    let mut at: LogConstants = [from.a.ln(), from.b.ln(), from.e.ln(), from.alpha, from.beta];
    let (mut value, mut damping) = (objective(points, &at), 1e-3);
    for _ in 0..STEPS {
        let (slope, curvature) = normal_equations(points, &at);
        let mut damped = curvature;
        (0..5).for_each(|i| damped[i][i] *= 1.0 + damping);
        let Some(step) = solved(damped, slope) else { break };
        let next: LogConstants = std::array::from_fn(|i| at[i] - step[i]);
        let reached = objective(points, &next);
        if reached < value {
            let gained = value - reached;
            (at, value, damping) = (next, reached, (damping / 3.0).max(1e-12));
            if gained < 1e-12 * value {
                break;
            }
        } else if damping > 1e12 {
            break;
        } else {
            damping *= 4.0;
        }
    }
    let [a, b, e, alpha, beta] = at;
    SumFit { sum: Sum { e: e.exp(), a: a.exp(), b: b.exp(), alpha, beta }, residual: value }
}

/// Fits to as many runs drawn with replacement, so many times (Efron 1979).
pub fn bootstrap(points: &[Point], from: &Sum, times: usize, seed: u64) -> Vec<Sum> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut drawn = || -> Vec<Point> {
        points.iter().map(|_| points[(random.next_u64() % points.len() as u64) as usize]).collect()
    };
    (0..times).map(|_| refit(&drawn(), from).sum).collect()
}

/// The logarithm of the predicted loss, and its slope by each constant.
fn predicted(point: &Point, &[a, b, e, alpha, beta]: &LogConstants) -> (f64, LogConstants) {
    let terms = [a - alpha * point.n, b - beta * point.d, e];
    let most = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let parts = terms.map(|term| (term - most).exp());
    let all: f64 = parts.iter().sum();
    let [of_n, of_d, rest] = parts.map(|part| part / all);
    (most + all.ln(), [of_n, of_d, rest, -of_n * point.n, -of_d * point.d])
}

fn objective(points: &[Point], at: &LogConstants) -> f64 {
    let huber = |off: f64| if off.abs() <= DELTA { off * off / 2.0 } else { DELTA * (off.abs() - DELTA / 2.0) };
    points.iter().map(|point| huber(predicted(point, at).0 - point.loss)).sum()
}

/// Slope, and curvature by Gauss and Newton, of the objective with weights that make squares of it.
fn normal_equations(points: &[Point], at: &LogConstants) -> (LogConstants, [LogConstants; 5]) {
    let (mut slope, mut curvature) = ([0.0; 5], [[0.0; 5]; 5]);
    for point in points {
        let (value, by) = predicted(point, at);
        let off = value - point.loss;
        let weight = (DELTA / off.abs()).min(1.0);
        for i in 0..5 {
            slope[i] += weight * off * by[i];
            (0..5).for_each(|j| curvature[i][j] += weight * by[i] * by[j]);
        }
    }
    (slope, curvature)
}

/// Solves five linear equations by elimination with pivots; none where they are singular.
fn solved(mut matrix: [LogConstants; 5], mut right: LogConstants) -> Option<LogConstants> {
    for column in 0..5 {
        let size = |row: usize| matrix[row][column].abs();
        let pivot = (column..5).max_by(|&a, &b| size(a).total_cmp(&size(b)))?;
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let pivoted = matrix[column][column].abs();
        if pivoted.is_nan() || pivoted <= f64::MIN_POSITIVE {
            return None;
        }
        let (row, value) = (matrix[column], right[column]);
        for below in column + 1..5 {
            let share = matrix[below][column] / row[column];
            (column..5).for_each(|k| matrix[below][k] -= share * row[k]);
            right[below] -= share * value;
        }
    }
    let mut solution = [0.0; 5];
    for i in (0..5).rev() {
        let known: f64 = (i + 1..5).map(|k| matrix[i][k] * solution[k]).sum();
        solution[i] = (right[i] - known) / matrix[i][i];
    }
    Some(solution)
}

#[cfg(test)]
mod tests {
    use super::super::{LawForm, law};
    use super::*;

    fn hoffmann() -> Sum {
        let LawForm::Sum(sum) = law("hoffmann").unwrap().form else { unreachable!("approach 3 is a sum") };
        sum
    }

    /// Besiroglu et al. 2024, table 1: A 482.01 (124.58), B 2085.43 (1293.23), E 1.8172 (0.03), alpha 0.3478 (0.02), beta 0.3658 (0.02).
    #[test]
    fn hoffmanns_runs_give_besiroglus_constants_within_their_errors() {
        let points = points();
        assert_eq!(points.len(), 240);
        let Sum { e, a, b, alpha, beta } = refit(&points, &hoffmann()).sum;
        for (value, published, error) in
            [(a, 482.01, 124.58), (b, 2085.43, 1293.23), (e, 1.8172, 0.03), (alpha, 0.3478, 0.02), (beta, 0.3658, 0.02)]
        {
            assert!((value - published).abs() < error, "{value}, published {published} ± {error}");
        }
    }

    /// The published standard errors are of 4,000 draws.
    #[test]
    fn draws_spread_as_the_published_errors_do() {
        let points = points();
        let best = refit(&points, &hoffmann()).sum;
        let alphas: Vec<f64> = bootstrap(&points, &best, 100, 1).iter().map(|sum| sum.alpha).collect();
        let mean = alphas.iter().sum::<f64>() / alphas.len() as f64;
        let spread = (alphas.iter().map(|alpha| (alpha - mean).powi(2)).sum::<f64>() / alphas.len() as f64).sqrt();
        assert!((0.008..0.05).contains(&spread), "{spread}");
        assert_eq!(bootstrap(&points, &best, 2, 7), bootstrap(&points, &best, 2, 7));
    }
}
