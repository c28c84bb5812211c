//! The Pareto front: plans that no other beats in days, dollars, energy and memory left free at once.
//!
//! In: offers. Out: those on the front, at most [`MOST`], fastest first.
//!
//! Where more are on it, the best of each measure stay, then whatever is farthest from those that stay already, as long as it
//! is farther than [`NEAR`] in some measure.
//!
//! Invariant: no offer that was given is at least as good in every measure and better in one.

use super::Offer;

/// Offers in a front.
pub const MOST: usize = 12;
/// Relative difference, or share of memory, below which two offers are alike.
const NEAR: f64 = 0.02;

/// What offers are compared by: logarithms of days, dollars and energy, and the share of memory in use. Less is better.
/// Prices and powers that are not known of all offers do not count.
fn measures(offers: &[Offer]) -> Vec<[f64; 4]> {
    let all = |of: &dyn Fn(&Offer) -> Option<f64>| -> Vec<f64> {
        let known: Option<Vec<f64>> = offers.iter().map(|offer| of(offer).map(f64::ln)).collect();
        known.unwrap_or_else(|| vec![0.0; offers.len()])
    };
    let (dollars, energy) = (all(&|offer| offer.training.dollars), all(&|offer| offer.training.energy_kwh));
    let of = |(at, offer): (usize, &Offer)| [offer.training.days.ln(), dollars[at], energy[at], 1.0 - offer.headroom];
    offers.iter().enumerate().map(of).collect()
}

fn dominates(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b) && a != b
}

/// How far apart two are in the measure in which they differ most.
fn distance(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The front of these offers, thinned out.
pub fn front(offers: &[Offer]) -> Vec<Offer> {
    let measures = measures(offers);
    let mut on: Vec<usize> = Vec::new();
    for (at, own) in measures.iter().enumerate() {
        let beaten = measures.iter().any(|other| dominates(other, own));
        // Of offers that are alike in all, the first.
        if !beaten && !on.iter().any(|&other| measures[other] == *own) {
            on.push(at);
        }
    }
    let mut kept: Vec<usize> = Vec::new();
    let best =
        |measure: usize| on.iter().copied().min_by(|&a, &b| measures[a][measure].total_cmp(&measures[b][measure]));
    for at in (0..4).filter_map(best) {
        if !kept.contains(&at) {
            kept.push(at);
        }
    }
    while kept.len() < MOST {
        let nearest = |at: usize| {
            let each = kept.iter().map(|&other| distance(&measures[at], &measures[other]));
            each.fold(f64::INFINITY, f64::min)
        };
        let farthest = on.iter().map(|&at| (nearest(at), at)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        match farthest {
            Some((distance, at)) if distance > NEAR => kept.push(at),
            _ => break,
        }
    }
    kept.sort_by(|&a, &b| measures[a][0].total_cmp(&measures[b][0]).then(a.cmp(&b)));
    kept.into_iter().map(|at| offers[at].clone()).collect()
}
