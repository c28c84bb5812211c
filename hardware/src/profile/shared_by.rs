//! Who else has a stack's figures, and how many were fitted.
//!
//! In: the catalog. Out: what a stack inherits; who shares each of its figures ([`SharedBy`]); how many there are.
//!
//! Invariant: a figure that stacks share is counted once.

use super::{Catalog, Stack, StackFigure, StackFigures};

/// Who shares a figure of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedBy {
    /// Nobody.
    Own,
    /// The stacks of its family.
    Family,
    /// All stacks.
    Everyone,
}

impl Stack {
    /// Its figures, each with who shares it.
    pub fn figures(&self, catalog: &Catalog) -> Vec<(StackFigure, SharedBy)> {
        let (family, everyone) = (catalog.inherited(&self.family).all(), catalog.everyone().all());
        let whose = |((own, family), all): ((StackFigure, StackFigure), StackFigure)| {
            let whose = match (own.value == family.value, family.value == all.value) {
                (false, _) => SharedBy::Own,
                (true, false) => SharedBy::Family,
                (true, true) => SharedBy::Everyone,
            };
            (own, whose)
        };
        StackFigures::of(self).all().into_iter().zip(family).zip(everyone).map(whose).collect()
    }
}

impl Catalog {
    /// What all stacks share.
    pub fn everyone(&self) -> StackFigures {
        StackFigures::of(self.stack(Stack::TYPICAL).expect("it is embedded"))
    }

    /// What a stack of a family inherits: the family's figures, else everyone's.
    pub fn inherited(&self, family: &str) -> StackFigures {
        self.families.get(family).cloned().unwrap_or_else(|| self.everyone())
    }

    /// How many figures were fitted to measured runs: of all stacks, of families, of stacks alone, of devices.
    pub fn fitted_figures(&self) -> [usize; 4] {
        let everyone = self.everyone();
        let shared = everyone.beside(&StackFigures::default()).len();
        let families = self.families.values().map(|figures| figures.beside(&everyone).len()).sum();
        let own = |stack: &Stack| StackFigures::of(stack).beside(&self.inherited(&stack.family)).len();
        let stacks = self.stacks.iter().filter(|stack| stack.runs() > 0).map(|stack| own(stack)).sum();
        let sustained = self.devices.iter().filter_map(|device| device.gemm.as_ref());
        [shared, families, stacks, sustained.filter(|gemm| gemm.sustained.source.contains("--fit")).count()]
    }
}
