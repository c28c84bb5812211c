//! Matrix products against plain `f64` loops.

use super::super::testing::{assert_close, on_teams, random, wide};
use super::*;

fn reference(layout: Layout, [m, n, k]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<f64> {
    let (a, b) = (wide(a), wide(b));
    let a_at = |i: usize, p: usize| if layout == Layout::Tn { a[p * m + i] } else { a[i * k + p] };
    let b_at = |p: usize, j: usize| if layout == Layout::Nt { b[j * k + p] } else { b[p * n + j] };
    (0..m * n).map(|c| (0..k).map(|p| a_at(c / n, p) * b_at(p, c % n)).sum()).collect()
}

#[test]
fn every_layout_agrees_with_f64_on_odd_shapes() {
    let shapes = [[1, 1, 1], [13, 33, 7], [5, 100, 400], [301, 65, 19], [37, 31, 4500], [3, 3000, 5], [24, 64, 385]];
    on_teams(|team| {
        for (layout, shape) in [Layout::Nt, Layout::Nn, Layout::Tn].into_iter().flat_map(|l| shapes.map(|s| (l, s))) {
            let [m, n, k] = shape;
            let (a, b, bias) = (random(1, m * k), random(2, k * n), random(3, n));
            let before = random(4, m * n);
            let product = reference(layout, shape, &a, &b);
            for (accumulate, biased) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut c = if accumulate { before.clone() } else { vec![f32::NAN; m * n] };
                let shift = biased.then_some(Floats::Full(&bias));
                let (a, b) = (Floats::Full(&a), Floats::Full(&b));
                matmul(team, layout, m, n, k, a, b, shift, accumulate, FloatsMut::Full(&mut c));
                let extra =
                    |i: usize| (if accumulate { before[i] } else { 0.0 }, if biased { bias[i % n] } else { 0.0 });
                let add = |(i, y): (usize, &f64)| y + f64::from(extra(i).0) + f64::from(extra(i).1);
                let want: Vec<f64> = product.iter().enumerate().map(add).collect();
                assert_close(&c, &want, 2e-6 * (k as f64).sqrt());
            }
        }
    });
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (m, n, k) = (130, 70, 900);
    let (a, b) = (random(1, m * k), random(2, k * n));
    let product = |threads| {
        let mut c = vec![0.0; m * n];
        let (a, b) = (Floats::Full(&a), Floats::Full(&b));
        matmul(&Team::new(threads), Layout::Nn, m, n, k, a, b, None, false, FloatsMut::Full(&mut c));
        c
    };
    let alone = product(1);
    assert!([2, 3, 7].into_iter().all(|threads| product(threads) == alone));
}
