//! Curves through measurements: shares of peak for catalog profiles, times of ops for calibrated ones.
//!
//! In: points from a profile. Out: a share or a time at a size between, below or above them.
//!
//! Invariant: a [`Curve`] is exact at its samples, never leaves the range of cost a unit of work that its samples span
//! above them, and below them falls towards a fixed cost, never under the smallest sample's proportion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Seconds;

/// Share of peak reached over an op's work (FLOPs or bytes).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "EfficiencyText")]
pub struct EfficiencyCurve {
    /// `(work, share)`, by increasing work; shares in (0, 1].
    pub points: Vec<(f64, f64)>,
    /// Where the points are from.
    pub source: String,
}

/// [`EfficiencyCurve`] before it is checked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EfficiencyText {
    /// `[work, share]`, by increasing work, FLOPs or bytes; shares of peak above 0 and at most 1.
    points: Vec<(f64, f64)>,
    /// Where the points are from.
    source: String,
}

impl TryFrom<EfficiencyText> for EfficiencyCurve {
    type Error = String;

    fn try_from(EfficiencyText { points, source }: EfficiencyText) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("empty `source`: say which measurement or assumption the points are from".to_owned());
        }
        if points.is_empty() {
            return Err("`points` needs at least one [work, share]".to_owned());
        }
        if let Some((work, share)) = points.iter().find(|(work, share)| !(*work > 0.0 && *share > 0.0 && *share <= 1.0))
        {
            return Err(format!("point [{work}, {share}]: work is above 0 and a share in (0, 1]"));
        }
        if let Some(pair) = points.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(format!("points out of order: work {} stands before {}", pair[0].0, pair[1].0));
        }
        Ok(EfficiencyCurve { points, source })
    }
}

impl EfficiencyCurve {
    /// The share of peak at this much work: linear in log(work) between points, constant outside them.
    pub fn share(&self, work: f64) -> f64 {
        let above = self.points.partition_point(|point| point.0 <= work);
        match (above.checked_sub(1).map(|at| self.points[at]), self.points.get(above)) {
            (Some((w0, s0)), Some(&(w1, s1))) => s0 + (s1 - s0) * (work / w0).ln() / (w1 / w0).ln(),
            (Some((_, share)), None) | (None, Some(&(_, share))) => share,
            (None, None) => unreachable!("a curve has points"),
        }
    }
}

/// One measurement: an op of these dims did this much work in this time. In files `[work, seconds, dims…]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Sample {
    /// What the cost depends on beside the work: m, n, k of a matmul; bytes of a row-wise op. Above zero.
    pub dims: Vec<f64>,
    /// FLOPs or bytes; above zero.
    pub work: f64,
    /// Time taken; above zero.
    pub seconds: f64,
}

impl TryFrom<Vec<f64>> for Sample {
    type Error = String;

    fn try_from(numbers: Vec<f64>) -> Result<Self, String> {
        match numbers[..] {
            [work, seconds, ref dims @ ..] if numbers.iter().all(|x| x.is_finite() && *x > 0.0) => {
                Ok(Sample { dims: dims.to_vec(), work, seconds })
            }
            _ => Err(format!("sample {numbers:?} is not [work, seconds, dims…] with all above 0")),
        }
    }
}

impl From<Sample> for Vec<f64> {
    fn from(sample: Sample) -> Vec<f64> {
        [sample.work, sample.seconds].into_iter().chain(sample.dims).collect()
    }
}

/// Measured times of one op class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "CurveText")]
pub struct Curve {
    samples: Vec<Sample>,
}

/// [`Curve`] before it is checked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CurveText {
    /// `[work, seconds, dims…]`: FLOPs or bytes, and what an op's time depends on beside them.
    samples: Vec<Sample>,
}

impl TryFrom<CurveText> for Curve {
    type Error = String;

    fn try_from(text: CurveText) -> Result<Self, String> {
        Curve::new(text.samples)
    }
}

/// What an op may take in all.
const MOST_SECONDS: f64 = 1e5;
/// What it may take for a FLOP or byte: the smallest ops are all fixed cost.
const MOST_SECONDS_EACH: f64 = 1.0;

/// Log-distance below which neighbours count alike when slopes are fitted: a factor of two.
const REACH: f64 = std::f64::consts::LN_2;
/// Share of the total weight by which slopes are held towards zero, so that a dim no sample varies has none.
const RIDGE: f64 = 1e-3;

impl Curve {
    /// A curve through samples; an error if there are none, if their dims differ in number, or if a figure is not above
    /// zero.
    pub fn new(samples: Vec<Sample>) -> Result<Self, String> {
        let first = samples.first().ok_or("`samples` needs at least one [work, seconds, dims…]")?;
        if let Some(other) = samples.iter().find(|sample| sample.dims.len() != first.dims.len()) {
            return Err(format!("samples of {} and of {} dims in one curve", first.dims.len(), other.dims.len()));
        }
        let positive = |x: &f64| x.is_finite() && *x > 0.0;
        let bad = samples.iter().find(|s| ![s.work, s.seconds].iter().chain(&s.dims).all(positive));
        if let Some(sample) = bad {
            return Err(format!("{sample:?}: work, seconds and dims are above 0"));
        }
        if let Some(sample) =
            samples.iter().find(|s| s.seconds > MOST_SECONDS || s.seconds > s.work * MOST_SECONDS_EACH)
        {
            let (work, seconds) = (sample.work, sample.seconds);
            return Err(format!(
                "{seconds} s for a work of {work}: at most {MOST_SECONDS} s, and {MOST_SECONDS_EACH} s for a FLOP or byte"
            ));
        }
        Ok(Curve { samples })
    }

    /// The measurements.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// How many dims [`Curve::time`] must be given.
    pub fn arity(&self) -> usize {
        self.samples[0].dims.len()
    }

    /// The time of an op with these dims (as many as [`Curve::arity`]) and this much work.
    ///
    /// Seconds a unit of work are interpolated in log space over log(dims): Shepard's inverse-distance weights over
    /// samples, each carried to the query along a local slope (Shepard 1968, §"including effects of slope"; Franke &
    /// Nielson 1980). Outside the samples' box the query is moved to its face, so the time grows with the work alone.
    pub fn time(&self, dims: &[f64], work: f64) -> Seconds {
        let at = self.clamped(dims);
        let logs: Vec<Logs> = self.samples.iter().map(|s| Logs::of(s, &at)).collect();
        let slopes = slopes(&logs, at.len());
        let (mut total, mut weight) = (0.0, 0.0);
        for near in &logs {
            if near.square() < 1e-18 {
                (total, weight) = (near.cost, 1.0);
                break;
            }
            let carried: f64 = near.offset.iter().zip(&slopes).map(|(offset, slope)| offset * slope).sum();
            let w = 1.0 / near.square().powi(2);
            total += w * (near.cost - carried);
            weight += w;
        }
        let costs = logs.iter().map(|near| near.cost);
        let (least, most) = (costs.clone().fold(f64::INFINITY, f64::min), costs.fold(f64::NEG_INFINITY, f64::max));
        let seconds = (total / weight).clamp(least, most).exp() * work;
        Seconds(seconds.max(self.fixed_cost(work)))
    }

    /// Log dims, moved into the box that the samples span.
    fn clamped(&self, dims: &[f64]) -> Vec<f64> {
        let bounded = |(i, dim): (usize, &f64)| {
            let known = self.samples.iter().map(|sample| sample.dims[i]);
            dim.clamp(known.clone().fold(f64::INFINITY, f64::min), known.fold(0.0, f64::max)).ln()
        };
        dims.iter().take(self.arity()).enumerate().map(bounded).collect()
    }

    /// What an op smaller than every sample cannot go under: the line through the two smallest samples, with its fixed
    /// cost kept between zero and the smaller one's time. Zero from the smallest sample's work on.
    fn fixed_cost(&self, work: f64) -> f64 {
        let by_work = |a: &&Sample, b: &&Sample| a.work.total_cmp(&b.work);
        let first = self.samples.iter().min_by(by_work).expect("a curve has samples");
        if work >= first.work {
            return 0.0;
        }
        let second = self.samples.iter().filter(|sample| sample.work > first.work).min_by(by_work);
        let fixed = second.map_or(0.0, |s| (first.seconds * s.work - s.seconds * first.work) / (s.work - first.work));
        let fixed = fixed.clamp(0.0, first.seconds);
        fixed + (first.seconds - fixed) * work / first.work
    }
}

/// A sample as seen from a query.
struct Logs {
    /// log(dims) less the query's.
    offset: Vec<f64>,
    /// log(seconds / work).
    cost: f64,
}

impl Logs {
    fn of(sample: &Sample, at: &[f64]) -> Self {
        let offset = sample.dims.iter().zip(at).map(|(dim, at)| dim.ln() - at).collect();
        Logs { offset, cost: (sample.seconds / sample.work).ln() }
    }

    /// Squared distance from the query.
    fn square(&self) -> f64 {
        self.offset.iter().map(|x| x * x).sum()
    }
}

/// Slopes of cost over each log dim near the query: weighted least squares with a ridge.
fn slopes(logs: &[Logs], dims: usize) -> Vec<f64> {
    let weights: Vec<f64> = logs.iter().map(|near| (near.square() + REACH * REACH).powi(-2)).collect();
    let total: f64 = weights.iter().sum();
    let mean =
        |value: &dyn Fn(&Logs) -> f64| logs.iter().zip(&weights).map(|(near, w)| w * value(near)).sum::<f64>() / total;
    let cost = mean(&|near| near.cost);
    let centre: Vec<f64> = (0..dims).map(|i| mean(&|near| near.offset[i])).collect();
    // Rows of the normal equations, the right-hand side last.
    let mut rows: Vec<Vec<f64>> = (0..dims)
        .map(|i| {
            let from = |near: &Logs, j: usize| near.offset[j] - centre[j];
            let left =
                (0..dims).map(|j| mean(&|near| from(near, i) * from(near, j)) + if i == j { RIDGE } else { 0.0 });
            left.chain([mean(&|near| from(near, i) * (near.cost - cost))]).collect()
        })
        .collect();
    solve(&mut rows)
}

/// Gauss-Jordan without pivoting: the ridge keeps the matrix positive definite.
fn solve(rows: &mut [Vec<f64>]) -> Vec<f64> {
    for i in 0..rows.len() {
        let pivot = rows[i][i];
        rows[i].iter_mut().for_each(|x| *x /= pivot);
        let row = rows[i].clone();
        for other in (0..rows.len()).filter(|&other| other != i) {
            let factor = rows[other][i];
            rows[other].iter_mut().zip(&row).for_each(|(x, y)| *x -= factor * y);
        }
    }
    rows.iter().map(|row| row[rows.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A made-up device: a launch, and a rate that falls for thin matmuls.
    fn matmul_seconds(m: f64, n: f64, k: f64) -> f64 {
        let rate = 1e11 * (m / (m + 24.0)) * (n / (n + 16.0)) * (k / (k + 48.0));
        5e-6 + 2.0 * m * n * k / rate
    }

    fn matmul_curve() -> Curve {
        let sides = [32.0, 128.0, 512.0, 2048.0];
        let cell = |i: usize| [sides[i / 16], sides[i / 4 % 4], sides[i % 4]];
        let sample = |[m, n, k]: [f64; 3]| Sample {
            dims: vec![m, n, k],
            work: 2.0 * m * n * k,
            seconds: matmul_seconds(m, n, k),
        };
        Curve::new((0..64).map(|i| sample(cell(i))).collect()).unwrap()
    }

    fn memory_curve() -> Curve {
        let sizes = [1e3, 1e4, 1e5, 1e6, 1e7];
        let sample = |bytes: f64| Sample { dims: vec![bytes], work: bytes, seconds: 2e-6 + bytes / 1e10 };
        Curve::new(sizes.map(sample).to_vec()).unwrap()
    }

    #[test]
    fn a_share_is_clamped_outside_and_log_linear_inside() {
        let curve = EfficiencyCurve { points: vec![(1e6, 0.2), (1e8, 0.6)], source: "test".to_owned() };
        assert_eq!(curve.share(1.0), 0.2);
        assert!((curve.share(1e7) - 0.4).abs() < 1e-12);
        assert_eq!(curve.share(1e8), 0.6);
        assert_eq!(curve.share(1e12), 0.6);
    }

    #[test]
    fn a_curve_is_exact_at_its_samples() {
        for curve in [matmul_curve(), memory_curve()] {
            for sample in curve.samples() {
                let time = curve.time(&sample.dims, sample.work).0;
                assert!((time / sample.seconds - 1.0).abs() < 1e-9, "{sample:?}: {time}");
            }
        }
    }

    #[test]
    fn above_the_samples_time_grows_with_work_and_below_it_nears_the_launch() {
        let curve = memory_curve();
        let last = curve.samples()[4].seconds;
        assert!((curve.time(&[1e9], 1e9).0 / (last * 100.0) - 1.0).abs() < 1e-9);
        for bytes in [10.0, 100.0, 500.0] {
            let truth = 2e-6 + bytes / 1e10;
            assert!((curve.time(&[bytes], bytes).0 / truth - 1.0).abs() < 0.01, "{bytes}");
        }
    }

    #[test]
    fn bad_curves_are_refused() {
        assert!(Curve::new(vec![]).unwrap_err().contains("at least one"));
        let sample = |dims: Vec<f64>, seconds| Sample { dims, work: 1.0, seconds };
        assert!(Curve::new(vec![sample(vec![1.0], 1.0), sample(vec![], 1.0)]).unwrap_err().contains("dims"));
        assert!(Curve::new(vec![sample(vec![1.0], 0.0)]).unwrap_err().contains("above 0"));
        let text = "points = [[1e9, 0.5], [1e8, 0.6]]\nsource = \"x\"";
        assert!(toml::from_str::<EfficiencyCurve>(text).unwrap_err().message().contains("out of order"));
    }

    proptest! {
        #[test]
        fn a_matmul_past_the_launch_bound_corner_is_near(m in 160f64..1800.0, n in 160f64..1800.0, k in 160f64..1800.0) {
            let (work, truth) = (2.0 * m * n * k, matmul_seconds(m, n, k));
            let error = matmul_curve().time(&[m, n, k], work).0 / truth - 1.0;
            prop_assert!(error.abs() < 0.2, "{m} {n} {k}: {error}");
        }

        #[test]
        fn a_row_wise_op_is_within_a_few_percent_and_monotone(bytes in 1f64..1e9) {
            let curve = memory_curve();
            let time = curve.time(&[bytes], bytes).0;
            let error = time / (2e-6 + bytes.min(1e7) / 1e10 * (bytes / 1e7).max(1.0)) - 1.0;
            prop_assert!(error.abs() < 0.08 || bytes > 1e7, "{bytes}: {error}");
            prop_assert!(curve.time(&[bytes * 1.1], bytes * 1.1).0 >= time);
        }
    }
}
