//! Slices of a torus: boxes of devices, by how many there are or by their sides.
//!
//! In: a torus's [`Link`] and a count, or `8x8x16`. Out: the box's dims in the torus's order, or the sizes near that are boxes.
//!
//! Invariant: every side is at most the torus's own, in its place; of several boxes of a count it is that whose rings close, where
//! the torus is built of cubes that close (`wrap` below its dims), and of those the most cubic.

use super::Link;

/// The box of so many devices in a torus, if there is one.
pub(super) fn of_count(link: &Link, count: usize) -> Option<Vec<usize>> {
    let cubes = link.wrap.filter(|wrap| link.dims.iter().all(|dim| wrap < dim));
    let open = |sides: &[usize]| {
        let open = |side: &&usize| **side > 2 && cubes.is_some_and(|wrap| !side.is_multiple_of(wrap));
        sides.iter().filter(open).count()
    };
    let order = |sides: &Vec<usize>| (open(sides), sides.iter().sum::<usize>(), std::cmp::Reverse(sides.clone()));
    of_sides(link, &boxes(&link.dims, count).into_iter().min_by_key(order)?)
}

/// Every box of `count` devices whose sides are at most these.
fn boxes(dims: &[usize], count: usize) -> Vec<Vec<usize>> {
    let Some((&first, rest)) = dims.split_first() else {
        return if count == 1 { vec![Vec::new()] } else { Vec::new() };
    };
    let sides = (1..=first.min(count)).filter(|side| count.is_multiple_of(*side));
    let with = |side: usize| boxes(rest, count / side).into_iter().map(move |more| [vec![side], more].concat());
    sides.flat_map(with).collect()
}

/// Sides as given, in the torus's order: the shortest along its shortest dim.
pub(super) fn of_sides(link: &Link, sides: &[usize]) -> Option<Vec<usize>> {
    if sides.len() > link.dims.len() || sides.contains(&0) {
        return None;
    }
    let mut sorted = sides.to_vec();
    sorted.resize(link.dims.len(), 1);
    sorted.sort_unstable();
    let mut places: Vec<usize> = (0..link.dims.len()).collect();
    places.sort_by_key(|place| link.dims[*place]);
    let mut placed = vec![1; sorted.len()];
    for (place, side) in places.into_iter().zip(sorted) {
        placed[place] = side;
        if side > link.dims[place] {
            return None;
        }
    }
    Some(placed)
}

/// The nearest sizes below and above a count that are boxes, in words.
pub(super) fn near(link: &Link, count: usize) -> String {
    let all: usize = link.dims.iter().product();
    let is_box = |count: &usize| !boxes(&link.dims, *count).is_empty();
    let below = (1..count.min(all + 1)).rev().find(is_box);
    let above = (count + 1..=all).find(is_box);
    let near: Vec<String> = below.into_iter().chain(above).map(|count| count.to_string()).collect();
    format!("{} {} one", near.join(" and "), if near.len() == 1 { "is" } else { "are each" })
}

/// `8x8x16`, if a text is such a shape: two sides or more.
pub(super) fn sides(text: &str) -> Option<Vec<usize>> {
    let sides: Vec<usize> = text.split(['x', '×']).map(|side| side.trim().parse().ok()).collect::<Option<_>>()?;
    (sides.len() > 1).then_some(sides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Cluster, catalog};

    #[test]
    fn slices_are_every_box_that_fits_by_count_or_by_shape() {
        let dims = |text: &str| Cluster::parse(text).unwrap().pools[0].system.scale_up.dims.clone();
        for (text, wanted) in [
            ("512x tpu-v5p", vec![8, 8, 8]),
            ("2048x tpu-v5p", vec![8, 16, 16]),
            ("4096x tpu-v5p", vec![16, 16, 16]),
            ("16x tpu-v5e", vec![4, 4]),
            ("128x tpu-v5e", vec![8, 16]),
            ("8x8x16 tpu-v5p", vec![8, 8, 16]),
            ("16x8x8 tpu-v5p", vec![8, 8, 16]),
            ("4x4 tpu-v5e", vec![4, 4]),
        ] {
            assert_eq!(dims(text), wanted, "{text}");
        }
        for (text, wanted) in [
            ("17x tpu-v5e", "16 and 18 are each one"),
            ("17x17 tpu-v5e", "`tpu-v5e-pod` has the dims 16x16"),
            ("8x8 h100", "are shapes of a torus"),
        ] {
            let said = Cluster::parse(text).unwrap_err().to_string();
            assert!(said.contains(wanted), "{text}: {said}");
        }
        // Every box is as large as it should be, and has a place.
        let pod = &catalog().system("tpu-v5p-pod").unwrap().scale_up;
        for count in (1..9000).step_by(7) {
            let Some(sides) = of_count(pod, count) else { continue };
            assert_eq!(sides.iter().product::<usize>(), count);
            assert!(sides.iter().zip(&pod.dims).all(|(side, dim)| side <= dim));
        }
    }
}
